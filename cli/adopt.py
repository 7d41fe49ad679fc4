"""`compress adopt`: fine-tuned checkpoints of one base become one backbone and a mask each."""

from __future__ import annotations

import json as codec
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace as replaced
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.effects import show_effects
from maskpack.cli.exportable import SkipExportCheck, check_export
from maskpack.cli.hints import shell_word
from maskpack.cli.task_data import data_by_task
from maskpack.compressor.config import FitConfig
from maskpack.formats import ArtifactError, is_artifact, open_artifact
from maskpack.formats.extras import check_package
from maskpack.formats.files import scratch_folder
from maskpack.formats.writer import check_free
from maskpack.tasks.options import TaskOptions

if TYPE_CHECKING:
    from maskpack.compressor.adopt import AdoptedTask, AdoptResult
    from maskpack.compressor.training.progress import OnProgress, Progress
    from maskpack.exporters import ExportRequest
    from maskpack.exporters.report import Report

Rows = Annotated[
    list[str] | None,
    Option(
        "--data",
        help="TASK=PATH of a task's rows, with labels or without; PATH alone for one checkpoint; repeatable.",
    ),
]
EvalRows = Annotated[
    list[str] | None,
    Option("--eval-data", help="TASK=PATH of rows with labels to evaluate a task on; repeatable."),
]


@opt.with_options
def adopt(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        Argument(
            help="Fine-tuned checkpoints of one base: folder or hub id; NAME=PATH names the task.",
            metavar="MODEL...",
        ),
    ],
    base: Annotated[
        str | None,
        Option(help="The pretrained model they come from. [found from names and weights]"),
    ] = None,
    out: Annotated[
        Path, Option("--out", "-o", help="Artifact to write, or to add the tasks to.")
    ] = Path("artifact"),
    data: Rows = None,
    eval_data: EvalRows = None,
    texts: opt.Texts = None,
    *,
    columns: TaskOptions,
    chosen: opt.Replayed[FitConfig],
    replace: Annotated[
        bool, Option("--replace", help="Learn tasks again that are already there.")
    ] = False,
    resume: Annotated[
        bool,
        Option("--resume", help="Leave tasks that are there already, go on with the stopped one."),
    ] = False,
    onnx: Annotated[
        Path | None, Option("--onnx", help="Keep the int8 graph of each task in this folder.")
    ] = None,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    skip_export_check: SkipExportCheck = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn fine-tuned checkpoints of one base into one backbone and a small mask each.

    Each checkpoint teaches its task, so that rows without labels do: a text a line, a table, or a folder of images.
    Where rows have labels, both are used.

    Example: compress adopt runs/mood runs/topic --texts corpus.txt -o artifact

    Example: compress adopt mood=runs/a topic=runs/b --data mood=mood.csv --data topic=topic.txt -o artifact

    Example: compress adopt pets=runs/vit-pets --texts photos/ -o artifact
    """
    from maskpack.compressor.adopt import (  # noqa: PLC0415 - imports torch
        AdoptRequest,
        adopt_models,
        named_models,
    )

    if onnx is not None:
        check_package("onnxscript", "`--onnx`")
    named = named_models(models)
    request = AdoptRequest(
        models=named,
        out=out,
        base=base,
        config=chosen,
        data=data_by_task(data or [], list(named)),
        eval_data=data_by_task(eval_data or [], list(named)),
        texts=texts,
        columns=columns,
        resume=resume,
        replace=replace,
        device=device,
        threads=threads,
    )
    check_export(base or next(iter(named.values())), None, skip=skip_export_check)
    if onnx is not None:
        check_graphs(onnx, named, out, resume=resume)
    with ExitStack() as stack:
        result = adopt_models(request, on_progress=task_bars(stack, quiet=quiet))
    reports = make_graphs(result, out, onnx, request.eval_data, quiet=quiet)
    show_adopted(result, reports, json=json)
    if not all(report.ok for report in reports.values()):
        raise typer.Exit(1)
    if not quiet:
        graphs = f"compress export {shell_word(str(out))} --onnx --layout shared -o graphs"
        render.words(f"next: {graphs}")


def task_bars(stack: ExitStack, *, quiet: bool) -> Callable[[str], OnProgress]:
    """A progress bar for each task, the one before closed."""

    def start(name: str) -> OnProgress:
        stack.close()
        show = stack.enter_context(render.progress(name, quiet=quiet))

        def step(now: Progress) -> None:
            show(now)

        return step

    return start


def check_graphs(folder: Path, tasks: Iterable[str], artifact: Path, *, resume: bool) -> None:
    """Raise ArtifactError if the graphs have no place: a resumed run keeps those of tasks that are there already.

    Args:
        folder: for the graphs, one in it for each task.
        tasks: that are adopted.
        artifact: that may hold some of them.
        resume: whether the run goes on.
    """
    there = open_artifact(artifact).manifest.tasks if resume and is_artifact(artifact) else {}
    for place in [folder / name for name in tasks if name not in there] if resume else [folder]:
        try:
            check_free(place)
        except ArtifactError as error:
            raise ArtifactError(str(error), "choose another folder with `--onnx`") from error


def make_graphs(
    result: AdoptResult,
    artifact: Path,
    kept: Path | None,
    eval_data: Mapping[str, Path],
    *,
    quiet: bool,
) -> dict[str, Report]:
    """The verdict on the int8 graph of each new task, beside its checkpoint; empty without the packages that export.

    Args:
        result: of the adoption.
        artifact: that was written.
        kept: folder for the graphs; None: they are not kept. A task that an earlier run learned gets one if it has none there.
        eval_data: task -> rows on which the graph of such a task is measured.
        quiet: no progress.
    """
    if find_spec("onnxscript") is None:
        return {}
    from maskpack.exporters import export_onnx  # noqa: PLC0415 - imports torch

    reports = {}
    with ExitStack() as stack:
        folder = kept or Path(stack.enter_context(scratch_folder()))
        folder.mkdir(parents=True, exist_ok=True)
        for task in result.tasks:
            place = folder / task.name
            if task.rows is None and (kept is None or place.exists()):
                continue
            if not quiet:
                render.words(f"{task.name}: int8 graph")
            report = export_onnx(_graph_of(task, artifact, place, eval_data.get(task.name)))
            assert report is not None  # it is verified
            reports[task.name] = report
    return reports


def _graph_of(
    task: AdoptedTask, artifact: Path, place: Path, eval_data: Path | None
) -> ExportRequest:
    """The graph of a task, measured beside its checkpoint if that was loaded."""
    from maskpack.exporters import ExportRequest, Tolerance  # noqa: PLC0415 - imports torch

    request = ExportRequest(artifact, task.name, place, "int8", Tolerance.of("int8"))
    if task.rows is None:
        return replaced(request, data=eval_data)
    return replaced(request, reference=task.model, rows=task.rows)


def show_adopted(result: AdoptResult, reports: Mapping[str, Report], *, json: bool) -> None:
    """Print each task beside its checkpoint, and what is wrong with its graph."""
    if json:
        graphs = {name: codec.loads(report.to_json()) for name, report in reports.items()}
        render.json({**result.to_dict(), "graphs": graphs})
        return
    render.table(
        f"tasks over `{result.base}`: {len(result.tasks)}",
        ("task", "metric", "original", "mask", "int8 graph", "same answers", "packed"),
        [_row(task, reports.get(task.name)) for task in result.tasks],
    )
    for task in result.tasks:
        if task.result is not None:
            show_effects(task.result)
    render.table("", ("bytes", "size"), _sizes(result))
    for name, report in reports.items():
        for finding in report.findings:
            render.words(f"warning: the int8 graph of `{name}`: {finding}")


def _row(task: AdoptedTask, report: Report | None) -> Sequence[str]:
    """Metrics of checkpoint, mask and graph; rows that mask and graph answer as the checkpoint does."""
    run, packed = task.result, render.size(task.packed_bytes)
    if run is None:
        return (task.name, "there already", "", "", "", "", packed)
    original = "" if run.original is None else f"{run.original[run.metric]:.4f}"
    same, graph = [run.same_answers], ""
    if report is not None and report.accuracy is not None:
        same.append(report.accuracy.reference_agreement)
        graph = f"{report.accuracy.graph:.4f}"
    shares = ", ".join(f"{share:.1%}" for share in same if share is not None)
    return (task.name, run.metric, original, f"{run.score:.4f}", graph, shares, packed)


def _sizes(result: AdoptResult) -> list[tuple[str, str]]:
    return [
        ("checkpoints", render.size(result.bytes_before)),
        ("backbone", render.size(result.backbone_bytes)),
        ("backbone and packed tasks", render.size(result.bytes_after)),
    ]
