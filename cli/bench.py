"""`compress bench`: what an exported task costs beside the ordinary alternatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.exporters.options import BenchGrid, BenchRequest

if TYPE_CHECKING:
    from maskpack.exporters.bench.memory import Memory
    from maskpack.exporters.bench.result import BenchResult, Cell, Variant

_SUSPICIOUS = 0.3  # relative error from which graphs are hardly of one model


@opt.with_options
def bench(
    folder: Annotated[Path, Argument(help="Folder that `compress export --onnx` wrote.")],
    task: Annotated[str | None, Option("--task", "-t", help="Which, of several.")] = None,
    beside: Annotated[
        list[Path] | None,
        Option(help="Another exported folder of the same task to measure; repeatable."),
    ] = None,
    against: Annotated[
        str | None,
        Option(
            help="Dense model to compare with: fine-tuned folder, hub id, or float32 .onnx file. "
            "[the graph itself with float weights]"
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        Option("--artifact", "-a", help="Compare with this artifact's task in float32."),
    ] = None,
    texts: Annotated[
        Path | None,
        Option(help="Texts to measure errors on, one a line, a tab in a pair. [random]"),
    ] = None,
    images: Annotated[
        list[Path] | None,
        Option(
            help="Instead, of a task of images: a file, or a folder that is looked through; can be given several times. [random]"
        ),
    ] = None,
    *,
    grid: BenchGrid,
    provider: opt.Providers = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure an exported task beside dense float32 and quantize_dynamic, in ONNX Runtime.

    Bytes, time and memory to load, latency, and the error of the logits. Graphs take turns in one
    process; memory is of fresh processes. Read ratios before milliseconds: docs/bench.md.

    Example: compress bench tickets --artifact artifact --texts texts.txt

    Example: compress bench pets --artifact artifact --images photos/
    """
    from maskpack.exporters.bench.run import bench as run  # noqa: PLC0415 - imports torch

    request = BenchRequest(
        folder=folder,
        task=task,
        beside=tuple(beside or ()),
        against=against,
        artifact=artifact,
        texts=texts,
        images=tuple(images or ()),
        **asdict(grid),
        providers=tuple(provider or ()),
    )
    result = run(request, say=(lambda _: None) if quiet else render.words)
    if json:
        render.data(result.to_json())
    else:
        _show(result)
    _remark(result)


def _show(result: BenchResult) -> None:
    render.data(f"{result.task}; times as fast as {result.reference} in ONNX Runtime")
    _table_of_cells(result, "times as fast", lambda cell: f"{cell.speedup:.2f}")
    if _busy(result):
        _table_of_cells(
            result,
            "times as fast, by processor time: others shared the cores",
            lambda cell: f"{cell.cpu_speedup:.2f}",
            threads=1,
        )
    render.table(
        f"logits on {result.rows} rows, {result.inputs}",
        ("graph", "relative error", "largest", "same class"),
        [
            (v.name, f"{v.error.relative:.2%}", f"{v.error.max_diff:.3f}", f"{v.error.same:.2%}")
            for v in result.variants
        ],
    )
    render.table(
        "files, load and memory (RSS = own + mapped)",
        ("graph", "file", "weights beside", "load ms", "peak MiB", "loaded", "after runs"),
        [_cost(variant) for variant in result.variants],
    )
    render.table(
        "tasks in one process, MiB",
        ("tasks", "they add", "whole process"),
        [(f"{t.tasks}", _memory(t.added), _memory(t.process)) for t in result.tasks],
    )
    _show_together(result)
    _table_of_cells(
        result, "milliseconds, p50 / p90", lambda cell: f"{cell.p50:.2f} / {cell.p90:.2f}"
    )
    _show_machine(result)


def _show_together(result: BenchResult) -> None:
    """Time of all tasks of the folder over that of one, where there are several."""
    if result.together:
        render.table(
            f"{result.together[0].tasks} tasks on the same text, one thread",
            ("batch x length", f"{result.task}, ms", "all, ms", "all over one"),
            [
                (f"{t.batch} x {t.length}", f"{t.one:.2f}", f"{t.all:.2f}", f"{t.ratio:.2f}")
                for t in result.together
            ],
        )


def _table_of_cells(
    result: BenchResult, title: str, text: Callable[[Cell], str], *, threads: int | None = None
) -> None:
    """A row for each shape, a column for each graph; of all numbers of threads, or of one."""
    rows = zip(*(variant.cells for variant in result.variants), strict=True)
    render.table(
        title,
        ("threads: batch x length", *(variant.name for variant in result.variants)),
        [
            (f"{row[0].threads}: {row[0].batch} x {row[0].length}", *map(text, row))
            for row in rows
            if threads is None or row[0].threads == threads
        ],
    )


def _show_machine(result: BenchResult) -> None:
    machine = result.machine
    load = " to ".join("?" if one is None else f"{one:.1f}" for one in machine.load)
    sets = ", ".join(machine.instructions) or "none that matter"
    render.data(f"{machine.cpu}, {machine.cores} cores ({sets}); {machine.system}")
    ran = f"onnxruntime {machine.onnxruntime} on {', '.join(result.providers)}"
    render.data(f"Python {machine.python}, {ran}; load {load}")


def _busy(result: BenchResult) -> bool:
    """Whether others took turns with the benchmark."""
    return max((one for one in result.machine.load if one is not None), default=0.0) > (
        result.machine.cores
    )


def _remark(result: BenchResult) -> None:
    """What a reader of the figures should know."""
    if _busy(result):
        render.words("note: the machine was busy with other things: read ratios only")
    for variant in result.variants:
        if variant.exported and not variant.error.relative <= _SUSPICIOUS:
            render.words(
                f"note: logits of `{variant.name}` are {variant.error.relative:.0%} off: "
                "is the dense model the same one?"
            )


def _cost(variant: Variant) -> tuple[str, ...]:
    cost = variant.footprint
    return (
        variant.name,
        render.size(cost.bytes),
        render.size(cost.shared_bytes) if cost.shared_bytes else "-",
        f"{cost.load_ms:.0f}",
        "?" if cost.peak is None else f"{cost.peak:.0f}",
        _memory(cost.loaded),
        _memory(cost.running),
    )


def _memory(memory: Memory | None) -> str:
    if memory is None:
        return "?"
    return f"{memory.rss:.0f} = {memory.anon:.0f} + {memory.mapped:.0f}"
