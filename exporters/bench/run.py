"""An exported folder compared with the usual alternatives: size, memory, latency and error.

Every figure of memory is of a fresh process, and all latencies of a number of threads are of one
process in which the graphs take turns. `child.py` does both; this module prepares the graphs and
collects the figures. The reference is a dense float32 graph (`reference.py`); quantize_dynamic's graphs are made of it.
All graphs made here are in a temporary folder that is removed.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskpack.exporters.bench.memory import Memory
from maskpack.exporters.bench.reference import (
    PEERS,
    dense_graph,
    float_graph,
    masked_graph,
    write_peers,
)
from maskpack.exporters.bench.result import (
    AllTasks,
    BenchResult,
    Cell,
    Error,
    Footprint,
    TaskMemory,
    Variant,
    load_average,
    this_machine,
)
from maskpack.exporters.bench.rows import BatchShape, rows_of
from maskpack.exporters.options import BenchRequest
from maskpack.exporters.session import Spent
from maskpack.exporters.vocabularies import check_numbers_of_artifact, check_numbers_of_model
from maskpack.formats import ConfigError, ExportError, open_artifact
from maskpack.formats.errors import Hint
from maskpack.formats.files import scratch_folder
from maskpack.formats.processors import threads_now
from maskpack.formats.writer import write_bytes
from maskpack.runtime.graph import external_files
from maskpack.runtime.providers import find_providers, report_start
from maskpack.runtime.task import (
    ADAPTER_SUFFIX,
    TaskConfig,
    TaskFiles,
    base_beside,
    find_tasks,
    find_trunk,
    pick_task,
)
from maskpack.tasks.types import TASK_TYPES

_LOG = logging.getLogger(__name__)

REFERENCE = "dense fp32"
_ONNX = ".onnx"
_LOADS = 3  # processes a graph is loaded in, unless `runs` are fewer; medians

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Bench:
    """A request with its graphs made."""

    request: BenchRequest
    place: TaskFiles
    config: TaskConfig
    vocabulary: int
    shapes: list[BatchShape]
    graphs: dict[str, Path]
    work: Path


def bench(request: BenchRequest, *, say: Say = lambda _: None) -> BenchResult:
    """Measure.

    Args:
        request: graphs and grid.
        say: called with a line for each stage.

    Raises:
        MaskpackError: no exported task there, no such dense model, or one with other inputs or
            outputs; a file of weights that is not the graph's.
    """
    providers = find_providers(request.providers)
    place = pick_task(request.folder, request.task)
    config = place.read_config()
    rows = rows_of(config)
    given = rows.given(request, config)  # what cannot be read should fail now, not after minutes
    load_before = _load_before(request.threads)
    with scratch_folder("maskpack-bench-") as root:
        work = Path(root)
        say("making the dense graph and its quantize_dynamic forms")
        dense, reference = _reference(request, place, config, work)
        graphs = {REFERENCE: dense.resolve(), **write_peers(dense, work)}
        graphs |= _exported(request, place, config, taken=graphs)
        vocabulary, shapes = rows.vocabulary(place), rows.shapes(request, place)
        prepared = _Bench(request, place, config, vocabulary, shapes, graphs, work)
        say("memory of tasks in one process")
        tasks, together = _task_memory(prepared), _together(prepared, say)
        errors, variants = _variants(prepared, None if given is None else given[0], say)
    report_start(providers, errors["providers"])
    return BenchResult(
        task=config.name,
        machine=this_machine(load_before),
        reference=reference,
        providers=tuple(errors["providers"]),
        rows=errors["rows"],
        inputs=rows.noise if given is None else given[1],
        variants=variants,
        tasks=tasks,
        together=together,
    )


def _variants(
    prepared: _Bench, given: list[Any] | None, say: Say
) -> tuple[dict[str, Any], tuple[Variant, ...]]:
    """What the job of errors found, and every graph with its figures."""
    say("errors of logits")
    request = prepared.request
    errors = _child(
        prepared.work,
        "errors",
        graphs=prepared.graphs,
        reference=REFERENCE,
        shapes=prepared.shapes,
        vocabulary=prepared.vocabulary,
        given=given,
        files=asdict(prepared.place),
        providers=request.providers,
    )
    footprints = {}
    for name in prepared.graphs:
        say(f"load and memory: {name}")
        footprints[name] = _footprint(prepared, name)
    cells = _latencies(prepared, say)
    return errors, tuple(
        Variant(
            name=name,
            exported=name not in {REFERENCE, *PEERS},
            footprint=footprints[name],
            error=Error(**errors["graphs"][name]),
            cells=tuple(cells[name]),
        )
        for name in prepared.graphs
    )


def _reference(
    request: BenchRequest, files: TaskFiles, config: TaskConfig, work: Path
) -> tuple[Path, str]:
    """The dense graph, given or written into `work`, and its origin."""
    dense, against = work / f"dense{_ONNX}", request.against
    if against is not None and against.endswith(_ONNX):
        if not Path(against).is_file():
            raise ExportError(
                f"no graph at `{against}`",
                "give a float32 graph, a fine-tuned folder, or leave `against` out",
            )
        return Path(against), f"the graph {Path(against).name}"
    if against is not None:
        check_numbers_of_model(files, against)
        data = dense_graph(against, TASK_TYPES[config.kind])
        source = f"the model {Path(against).name}"
    elif request.artifact is not None:
        artifact = open_artifact(request.artifact)
        check_numbers_of_artifact(files, artifact)
        data = masked_graph(artifact, config.name)
        source = f"the masked model of {request.artifact.name}"
    elif files.adapter is not None or files.trunk is not None:
        raise ConfigError(
            f"`{files.graph.name}` alone is no task, so no dense graph can be made of it",
            "give the dense model as `artifact` or `against`",
        )
    else:
        data, source = float_graph(files.graph), "the exported graph with its weights as floats"
    write_bytes(dense, data)
    return dense, source


def _exported(
    request: BenchRequest, files: TaskFiles, config: TaskConfig, taken: Collection[str]
) -> dict[str, Path]:
    """Name -> graph or adapter of the exported folders; a name that is not the only one gets a number."""
    places = [files, *(pick_task(folder, request.task or config.name) for folder in request.beside)]
    names = [folder.resolve().name for folder in (request.folder, *request.beside)]
    named: dict[str, Path] = {}
    for number, (name, one) in enumerate(zip(names, places, strict=True), start=1):
        twice = names.count(name) > 1 or name in {*taken, *named}
        named[f"{name} ({number})" if twice else name] = (one.adapter or one.graph).resolve()
    return named


def _task_memory(prepared: _Bench) -> tuple[TaskMemory, ...]:
    """Memory of the measured task alone, and of all tasks of the folder."""
    request, name = prepared.request, prepared.config.name
    folder, where = request.folder, request.providers
    others = sorted(set(find_tasks(folder)) - {name})
    memories = []
    for names in [[name], [name, *others]] if others else [[name]]:
        answer = _child(prepared.work, "tasks", folder=folder, names=names, providers=where)
        added = _memory(answer["tasks"])
        memories.append(TaskMemory(len(names), _memory(answer["process"]), added))
    return tuple(memories)


def _together(prepared: _Bench, say: Say) -> tuple[AllTasks, ...]:
    """Time of all tasks of the folder over that of the measured one; nothing where there is one task."""
    request, places = prepared.request, find_tasks(prepared.request.folder)
    if len(places) == 1:
        return ()
    say("time of all tasks together")
    graphs = [(one.adapter or one.graph).resolve() for one in places.values()]
    rows = _child(
        prepared.work,
        "together",
        one=(prepared.place.adapter or prepared.place.graph).resolve(),
        graphs=graphs,
        shapes=prepared.shapes,
        runs=request.runs,
        seconds=request.seconds,
        vocabulary=prepared.vocabulary,
        providers=request.providers,
    )
    return tuple(
        AllTasks.of(
            Spent(**row["one"]),
            Spent(**row["all"]),
            tasks=len(graphs),
            batch=batch,
            length=length,
        )
        for row, (batch, length) in zip(rows, prepared.shapes, strict=True)
    )


def _footprint(prepared: _Bench, name: str) -> Footprint:
    """Files, time to load and memory of one graph: medians over processes."""
    graph = prepared.graphs[name]
    runs = [
        _child(
            prepared.work,
            "load",
            graph=graph,
            shape=prepared.shapes[-1],
            vocabulary=prepared.vocabulary,
            providers=prepared.request.providers,
        )
        for _ in range(min(_LOADS, prepared.request.runs))
    ]
    usual = sorted(runs, key=lambda run: float(run["peak"] or 0))[len(runs) // 2]
    return Footprint(
        bytes=graph.stat().st_size,
        shared_bytes=sum(path.stat().st_size for path in weight_files(graph)),
        load_ms=statistics.median(run["load_ms"] for run in runs),
        peak=usual["peak"],
        loaded=_memory(usual["loaded"]),
        running=_memory(usual["running"]),
    )


def _memory(told: Mapping[str, float] | None) -> Memory | None:
    return None if told is None else Memory(**told)


def weight_files(graph: Path) -> list[Path]:
    """Files beside a graph that hold weights of it; of an adapter: its graph too; of a task on a trunk: the trunk too."""
    if graph.suffix == ADAPTER_SUFFIX:
        base = base_beside(graph)
        return [base, *weight_files(base)]
    trunk = find_trunk(graph.parent)
    below = [] if trunk is None or trunk == graph else [trunk]
    return [*below, *(graph.parent / name for name in sorted(external_files(graph)))]


def _load_before(threads: Sequence[int]) -> float | None:
    """The load average; one line of the log if other programs leave fewer cores than there are to be threads."""
    found = threads_now()
    if found.lowered and max(threads) > found.count:
        _LOG.info(
            "other programs keep %d of %d cores busy: times say little for more than %d threads",
            found.busy,
            found.cores,
            found.count,
        )
    return load_average()


def _latencies(prepared: _Bench, say: Say) -> dict[str, list[Cell]]:
    """Cells of every graph: a process for each number of threads."""
    request, graphs = prepared.request, prepared.graphs
    cells: dict[str, list[Cell]] = {name: [] for name in graphs}
    for threads in request.threads:
        say(f"latency, {threads} thread{'' if threads == 1 else 's'}")
        results = _child(
            prepared.work,
            "times",
            graphs=graphs,
            threads=threads,
            shapes=prepared.shapes,
            runs=request.runs,
            seconds=request.seconds,
            vocabulary=prepared.vocabulary,
            providers=request.providers,
        )
        for row, (batch, length) in zip(results, prepared.shapes, strict=True):
            spent = {name: Spent(**times) for name, times in row.items()}
            for name, own in spent.items():
                cell = Cell.of(own, spent[REFERENCE], threads=threads, batch=batch, length=length)
                cells[name].append(cell)
    return cells


def _child(work: Path, kind: str, **arguments: Any) -> Any:
    """Do a job of `child.py` in a fresh process.

    Raises:
        ExportError: it failed, with its own message, or was killed.
    """
    job, result = work / "job.json", work / "result.json"
    result.unlink(missing_ok=True)
    write_bytes(job, json.dumps({"kind": kind, "arguments": arguments}, default=str).encode())
    command = [sys.executable, "-m", "maskpack.exporters.bench.child", str(job), str(result)]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if not result.is_file():
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ExportError(
            f"the process that measures `{kind}` ended with code {done.returncode}: {said}",
            "killed? it may have run out of memory: give smaller `batches` or `lengths`",
        )
    answer = json.loads(result.read_text(encoding="utf-8"))
    if "error" in answer:
        hint = Hint(answer["hint"], **answer["fields"]) if "hint" in answer else None
        raise ExportError(answer["error"], hint)
    return answer["result"]
