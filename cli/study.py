"""`compress study`: a sweep that answers one question, from options instead of a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import yaml
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.sweep import sweep
from maskpack.cli.task_data import find_named_task
from maskpack.compressor.config import BudgetConfig
from maskpack.compressor.mask_config import ESTIMATORS
from maskpack.formats import ConfigError
from maskpack.formats.writer import check_writable, write_bytes
from maskpack.tasks.options import TaskOptions

_PLAN, _RESULTS = "study.yaml", "study.jsonl"


class Question(StrEnum):
    """What a study asks."""

    BITS = "bits"


@opt.with_options
def study(
    question: Annotated[
        Question, Argument(help="What is asked. bits: how does quality fall with them?")
    ],
    model: opt.Model,
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder of plan, results and pictures. [study]")
    ] = Path("study"),
    data: opt.Data = None,
    *,
    columns: TaskOptions,
    bits: Annotated[str, Option(help="Widths with commas.")] = "8,4,2,1",
    estimators: Annotated[
        str, Option(help=f"Estimators with commas: {', '.join(ESTIMATORS)}.")
    ] = "threshold",
    seeds: Annotated[str, Option(help="Seeds with commas.")] = "0,1,2",
    taught: Annotated[
        bool,
        Option(
            "--taught/--alone", help="Masks learn from the dense model of their seed, or alone."
        ),
    ] = True,
    sparsity: Annotated[float, Option(help="Share of zeros of estimators that need one.")] = 0.1,
    budget: BudgetConfig,
    pictures: Annotated[
        bool, Option("--pictures/--no-pictures", help="Draw quality against bits.")
    ] = True,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Write the plan, list the runs, stop.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Ask one question of a model and a task: runs over bits, estimators and seeds, a table and a figure.

    The plan is a file for `compress sweep`; a stopped study goes on with the same command.

    Example: compress study bits demo --task reviews --seeds 0 -o study
    """
    from maskpack.compressor.sweep.study import StudyRequest, study_of_bits  # noqa: PLC0415

    del question  # there is one so far
    request = StudyRequest(
        model=model,
        task=find_named_task(task, data, columns, quiet=True).name,
        data=data,
        columns=columns,
        bits=tuple(_numbers("bits", bits)),
        estimators=tuple(name.strip() for name in estimators.split(",")),
        seeds=tuple(_numbers("seeds", seeds)),
        taught=taught,
        sparsity=sparsity,
        budget=budget,
    )
    check_writable(out / _PLAN)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / _PLAN, yaml.safe_dump(study_of_bits(request), sort_keys=False).encode())
    render.words(f"the plan is in {out / _PLAN}")
    sweep(
        out / _PLAN,
        out=out / _RESULTS,
        plots=out if pictures and not dry_run else None,
        device=device,
        threads=threads,
        dry_run=dry_run,
        json=json,
        quiet=quiet,
    )


def _numbers(what: str, text: str) -> list[int]:
    """Numbers with commas.

    >>> _numbers("seeds", "0, 2")
    [0, 2]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"`{what}` is `{text}`", "write numbers with commas, such as 8,4"
        ) from None
