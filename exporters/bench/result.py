"""Figures of a benchmark as values with JSON, and its machine. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from maskpack.exporters.bench.memory import Memory
from maskpack.exporters.session import Spent, quantile, speedup
from maskpack.formats.checks import spell_out

NOTABLE = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets on which the speed of integer products depends, as Linux names them."""


@dataclass(frozen=True)
class Machine:
    """The machine of the figures.

    Attributes:
        cpu: model.
        cores: that this process may use.
        instructions: those of `NOTABLE` that are there.
        system, python, onnxruntime, numpy: names and versions.
        load: average number of running processes in the last minute, before and after; None where the
            system does not tell. Above the number of cores, others took turns with the benchmark.
    """

    cpu: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    onnxruntime: str
    numpy: str
    load: tuple[float | None, float | None]


def this_machine(load_before: float | None) -> Machine:
    """The machine as it is now.

    Args:
        load_before: of `load_average`, when the figures were begun.
    """
    facts = read_cpuinfo(Path("/proc/cpuinfo"))
    return Machine(
        cpu=facts[0] or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        instructions=facts[1],
        system=f"{_system()}, {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=str(onnxruntime.__version__),
        numpy=np.__version__,
        load=(load_before, load_average()),
    )


def read_cpuinfo(path: Path) -> tuple[str, tuple[str, ...]]:
    """Model and notable instruction sets from Linux's `/proc/cpuinfo`; empty where it is silent."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ()
    rows = [line.partition(":") for line in reversed(lines)]
    facts = {key.strip(): value.strip() for key, _, value in rows}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return facts.get("model name", ""), tuple(name for name in NOTABLE if name in flags)


def load_average() -> float | None:
    """Running processes, averaged over the last minute; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _system() -> str:
    """Name and version of the operating system; of Linux, its distribution's."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


@dataclass(frozen=True)
class Cell:
    """Latency of one graph on one shape with so many threads.

    Attributes:
        threads, batch, length: of the runs; `length` counts tokens of a text, or pixels of an image.
        p50, p90, best: milliseconds.
        speedup: times as fast as the reference: median of one ratio a round.
        cpu: milliseconds of processor time, median.
        cpu_speedup: as `speedup`, in processor time, which does not count waiting for other programs.
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
        """Figures from the runs of a graph and those of the reference."""
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
    """Bytes, time to load and memory of a graph. Memory is that above a process without it.

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
    """One graph and its figures.

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
        added: of that, by the tasks, their tokenizer included.
    """

    tasks: int
    process: Memory | None
    added: Memory | None


@dataclass(frozen=True)
class AllTasks:
    """Time of all tasks of a folder on the same tokens over the time of one, one thread.

    Attributes:
        tasks: of the folder.
        batch, length: of the rows, as of a cell.
        one: milliseconds of the measured task, median.
        all: of all tasks: with a trunk one pass of it and each task's own graph, else a graph a task.
        ratio: of all over one: median of one ratio a round.
        runs: that were measured.
    """

    tasks: int
    batch: int
    length: int
    one: float
    all: float
    ratio: float
    runs: int

    @classmethod
    def of(cls, one: Spent, every: Spent, *, tasks: int, batch: int, length: int) -> AllTasks:
        """Figures from runs in turn."""
        return cls(
            tasks=tasks,
            batch=batch,
            length=length,
            one=quantile(one.wall, 0.5),
            all=quantile(every.wall, 0.5),
            ratio=speedup(every.wall, one.wall),
            runs=len(one.wall),
        )


@dataclass(frozen=True)
class BenchResult:
    """All figures of a benchmark.

    Attributes:
        task: what was measured.
        machine: where.
        providers: execution providers that sessions really had, the preferred one first.
        reference: origin of the float32 graph, in words.
        rows: inputs behind the errors.
        inputs: what these inputs were.
        variants: the reference first.
        tasks: memory of one task and of all at hand.
        together: time of all tasks at hand, a shape each; none where there is one task.
    """

    task: str
    machine: Machine
    providers: tuple[str, ...]
    reference: str
    rows: int
    inputs: str
    variants: tuple[Variant, ...]
    tasks: tuple[TaskMemory, ...]
    together: tuple[AllTasks, ...] = ()

    def to_json(self) -> str:
        """Sorted and indented; what is no finite number as a word."""
        tree = spell_out(asdict(self))
        return json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n"
