"""What a benchmark found, as values; JSON on demand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskpack.exporters.bench.machine import Machine, Memory
from maskpack.exporters.timing import Spent, quantile, speedup


@dataclass(frozen=True)
class Cell:
    """Latency of one graph on one shape with so many threads.

    Attributes:
        threads, batch, length: of the runs.
        p50, p90, best: milliseconds.
        speedup: times as fast as the reference: median of one ratio a round.
        cpu: milliseconds of processor time, median.
        cpu_speedup: as `speedup`, in processor time: what is left of it when others share the cores.
        runs: that were measured.
    """

    threads: int
    batch: int
    length: int
    p50: float
    p90: float
    best: float
    speedup: float
    cpu: float
    cpu_speedup: float
    runs: int

    @classmethod
    def of(cls, spent: Spent, reference: Spent, *, threads: int, batch: int, length: int) -> Cell:
        """Figures from the runs of a graph and those of the reference beside them."""
        return cls(
            threads=threads,
            batch=batch,
            length=length,
            p50=quantile(spent.wall, 0.5),
            p90=quantile(spent.wall, 0.9),
            best=min(spent.wall),
            speedup=speedup(reference.wall, spent.wall),
            cpu=quantile(spent.cpu, 0.5),
            cpu_speedup=speedup(reference.cpu, spent.cpu),
            runs=len(spent.wall),
        )


@dataclass(frozen=True)
class Footprint:
    """What a graph takes before and while it runs. Memory is what came on top of a process without it.

    Attributes:
        bytes: of its file.
        shared_bytes: of files beside it that hold weights, shared with other graphs or not.
        load_ms: to make a session.
        peak: MiB while it was made; None where the system does not tell, as below.
        loaded: after freed memory went back to the system.
        running: after runs of the largest shape.
    """

    bytes: int
    shared_bytes: int
    load_ms: float
    peak: float | None
    loaded: Memory | None
    running: Memory | None


@dataclass(frozen=True)
class Error:
    """Logits of a graph against the reference's.

    Attributes:
        relative: root mean square of the difference over that of the reference.
        max_diff: largest difference.
        same: share of rows on which both choose the same class.
    """

    relative: float
    max_diff: float
    same: float


@dataclass(frozen=True)
class Variant:
    """One graph and all that was found.

    Attributes:
        name: of the graph.
        exported: by us; the others are what it is compared with.
        footprint, error, cells: figures.
    """

    name: str
    exported: bool
    footprint: Footprint
    error: Error
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TaskMemory:
    """Memory of a process that answers with so many tasks, through `maskpack.runtime.Session`.

    Attributes:
        tasks: in memory at once.
        process: all of it, Python and ONNX Runtime included; None where the system does not tell.
        added: what the tasks added, their tokenizer included.
    """

    tasks: int
    process: Memory | None
    added: Memory | None


@dataclass(frozen=True)
class BenchResult:
    """All figures of a benchmark.

    Attributes:
        task: what was measured.
        machine: where.
        reference: where the float32 graph came from, in words.
        rows: inputs behind the errors.
        inputs: what these inputs were.
        variants: the reference first.
        tasks: memory of one task and of all at hand.
    """

    task: str
    machine: Machine
    reference: str
    rows: int
    inputs: str
    variants: tuple[Variant, ...]
    tasks: tuple[TaskMemory, ...]

    def to_json(self) -> str:
        """Sorted and indented."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def cells_of(
    found: Sequence[Mapping[str, Any]],
    shapes: Sequence[tuple[int, int]],
    *,
    threads: int,
    name: str,
    reference: str,
) -> list[Cell]:
    """Cells of one graph from the runs of all, one entry a shape."""
    return [
        Cell.of(
            Spent(**row[name]),
            Spent(**row[reference]),
            threads=threads,
            batch=batch,
            length=length,
        )
        for row, (batch, length) in zip(found, shapes, strict=True)
    ]


def memory_of(tree: Mapping[str, float] | None) -> Memory | None:
    """Memory from a process's JSON."""
    return None if tree is None else Memory(**tree)
