"""`compress demo`: the whole pipeline on two small tasks, offline, ending in one table.

Everything is the real thing: the same calls as `fit`, `baseline` and `export`, and a timing of both
graphs in alternation.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.formats import MaskpackError
from maskpack.formats.schema import BACKBONE

if TYPE_CHECKING:
    from maskpack.compressor.results import RunResult
    from maskpack.exporters.report import Report

TASKS = ("tickets", "reviews")
MODEL = "demo"
EPOCHS = 20
BATCH_SIZE = 16
MAX_LENGTH = 64
BITS = 4
LATENCY_LENGTH = 128
LATENCY_RUNS = 21


@dataclass(frozen=True)
class Row:
    """One task's figures: its dense twin, its mask, its graph."""

    task: str
    dense: RunResult
    masked: RunResult
    report: Report
    dense_ms: float
    graph_ms: float


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep artifact and graphs in this folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all runs.")] = 0,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit two small tasks into one 4-bit artifact, export, verify and compare. Offline, minutes.

    Tickets (5 intents) and reviews (sentiment) were written for this project and ship with it.
    """
    if out is not None and out.exists():
        raise MaskpackError(f"`{out}` already exists", "choose another place with `-o`")
    work = Path(tempfile.mkdtemp(prefix="maskpack-demo-"))
    try:
        rows = [_run_task(task, work, seed=seed, quiet=quiet) for task in TASKS]
        _show(rows, (work / "artifact" / BACKBONE).stat().st_size, json=json)
        if out is not None:
            shutil.copytree(work, out)
            render.words(f"kept in {out}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not all(row.report.ok for row in rows):
        raise typer.Exit(1)


def _run_task(name: str, work: Path, *, seed: int, quiet: bool) -> Row:
    """Dense twin, mask, graph and timing of one task."""
    from maskpack.compressor import (  # noqa: PLC0415 - imports torch
        BaselineConfig,
        BaselineRequest,
        FitConfig,
        FitRequest,
        find_task,
        fit_task,
        run_baseline,
    )
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx  # noqa: PLC0415
    from maskpack.exporters.latency import compare_latency  # noqa: PLC0415

    task = find_task(name)
    budget: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "max_length": MAX_LENGTH,
        "seed": seed,
    }
    twin, artifact, graph = work / f"{name}-dense", work / "artifact", work / f"{name}-onnx"
    with render.progress(f"{name}, dense twin", quiet=quiet) as observe:
        dense = run_baseline(
            BaselineRequest(MODEL, task, BaselineConfig(**budget), out=twin), observe=observe
        )
    with render.progress(f"{name}, mask", quiet=quiet) as observe:
        masked = fit_task(
            FitRequest(MODEL, task, artifact, FitConfig(bits=BITS, **budget)), observe=observe
        )
    if not quiet:
        render.words(f"{name}: export and verify")
    tolerance = Tolerance.of(Compute.INT8, atol=None, max_drop=1.0)  # one row of a hundred
    report = export_onnx(
        ExportRequest(artifact, name, graph, Compute.INT8, tolerance, reference=str(twin))
    )
    assert report is not None
    folder = graph if report.ok else graph.with_name(graph.name + ".failed")
    dense_ms, graph_ms = compare_latency(
        twin, folder / "model.onnx", length=LATENCY_LENGTH, runs=LATENCY_RUNS
    )
    return Row(name, dense, masked, report, dense_ms, graph_ms)


def _show(rows: list[Row], backbone: int, *, json: bool) -> None:
    """One table: what the dense models cost, and what the artifact costs."""
    if json:
        import json as codec  # noqa: PLC0415 - the option has the module's name

        tree = [
            {
                "dense": codec.loads(row.dense.to_json()),
                "mask": codec.loads(row.masked.to_json()),
                "report": codec.loads(row.report.to_json()),
                "dense_ms": row.dense_ms,
                "graph_ms": row.graph_ms,
            }
            for row in rows
        ]
        render.data(codec.dumps(tree))
        return
    dense_total = sum(row.dense.patch_bytes for row in rows)
    patches = sum(row.masked.patch_bytes for row in rows)
    cell: Callable[[float], str] = "{:.3f}".format
    table = [
        (
            row.task,
            render.size(row.dense.patch_bytes),
            render.size(row.masked.patch_bytes),
            render.size(row.masked.count.entropy_bytes + row.masked.head_bytes),
            cell(row.masked.majority[row.masked.metric]),
            cell(row.dense.score),
            cell(row.masked.score),
            cell(row.report.accuracy.graph if row.report.accuracy else float("nan")),
            f"{row.dense_ms:.1f}",
            f"{row.graph_ms:.1f}",
            f"{row.dense_ms / row.graph_ms:.1f}x",
        )
        for row in rows
    ]
    head = (
        "task",
        "dense fp32",
        "patch",
        "patch, ideal coder",
        "majority",
        "dense",
        "mask",
        "mask in ORT int8",
        "dense ms",
        "ms",
        "faster",
    )
    render.table("dense fp32 against one 4-bit artifact (accuracy; ms for 1 x 128)", head, table)
    render.data(
        f"all tasks: dense {render.size(dense_total)}; "
        f"artifact {render.size(backbone + patches)} = backbone {render.size(backbone)} "
        f"+ patches {render.size(patches)}"
    )
