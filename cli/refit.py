"""`compress refit`: tasks of one artifact are carried onto another backbone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.adopt import EvalRows, Rows, task_bars
from maskpack.cli.exportable import SkipExportCheck, check_export
from maskpack.cli.task_data import data_by_task
from maskpack.compressor.config import FitConfig
from maskpack.formats import is_artifact, open_artifact

if TYPE_CHECKING:
    from maskpack.compressor.refit import RefitResult, RefittedTask


@opt.with_options
def refit(
    ctx: typer.Context,
    artifact: Annotated[Path, Argument(help="Artifact whose tasks are carried over.")],
    onto: Annotated[
        str,
        Option(
            help="Artifact with the other backbone, or a pretrained model of the same architecture."
        ),
    ],
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Artifact to write, or to add the tasks to. [that of --onto]"),
    ] = None,
    task: Annotated[
        list[str] | None, Option("--task", "-t", help="Task to carry over; repeatable. [all]")
    ] = None,
    data: Rows = None,
    eval_data: EvalRows = None,
    texts: opt.Texts = None,
    *,
    chosen: opt.Replayed[FitConfig],
    replace: Annotated[
        bool, Option("--replace", help="Learn tasks again that are already there.")
    ] = False,
    resume: Annotated[
        bool,
        Option("--resume", help="Leave tasks that are there already, go on with the stopped one."),
    ] = False,
    revision: opt.Revision = None,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    skip_export_check: SkipExportCheck = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Carry tasks onto another backbone: their masks and heads are starts, the old tasks teachers.

    For a backbone of fewer bits, or of a model of the same architecture that was trained further. Rows without
    labels do: a text a line, a table, or a folder of images. Where rows have labels, both are used.

    Example: compress refit artifact --onto demo --bits 2 --texts corpus.txt -o smaller

    Example: compress refit artifact --onto newer -t tickets --data tickets=rows.csv
    """
    from maskpack.compressor.refit import RefitRequest, refit_tasks  # noqa: PLC0415 - imports torch

    names = tuple(task or open_artifact(artifact).manifest.tasks)
    request = RefitRequest(
        artifact,
        onto,
        out,
        chosen,
        tuple(task or ()),
        data=data_by_task(data or [], names),
        eval_data=data_by_task(eval_data or [], names),
        texts=texts,
        resume=resume,
        replace=replace,
        bits_given=opt.is_given(ctx, "bits"),
        revision=revision,
        device=device,
        threads=threads,
    )
    if not is_artifact(Path(onto)):
        check_export(onto, revision, skip=skip_export_check)
    with ExitStack() as stack:
        result = refit_tasks(request, on_progress=task_bars(stack, quiet=quiet))
    show_refitted(result, json=json)


def show_refitted(result: RefitResult, *, json: bool) -> None:
    """Print each task on its new backbone beside itself on the old one."""
    if json:
        render.json(result.to_dict())
        return
    render.table(
        f"tasks over `{result.model}` in {result.bits} bits: {len(result.tasks)}",
        ("task", "metric", "before", "after", "same answers", "packed before", "packed"),
        [_row(task) for task in result.tasks],
    )
    before, after = map(render.size, (result.backbone_bytes_before, result.backbone_bytes))
    render.table("", ("bytes", "before", "after"), [("backbone", before, after)])


def _row(task: RefittedTask) -> Sequence[str]:
    run = task.result
    packed = (render.size(task.packed_bytes_before), render.size(task.packed_bytes))
    if run is None:
        return (task.name, "there already", "", "", "", *packed)
    before = "" if run.original is None else f"{run.original[run.metric]:.4f}"
    same = "" if run.same_answers is None else f"{run.same_answers:.1%}"
    return (task.name, run.metric, before, f"{run.score:.4f}", same, *packed)
