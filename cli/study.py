"""`compress study`: a sweep that answers one question, from options instead of a file."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.sweep import sweep
from maskpack.cli.task_data import find_named_task
from maskpack.compressor.config import BudgetConfig
from maskpack.compressor.mask_config import ESTIMATORS, levels_of
from maskpack.formats import ConfigError
from maskpack.formats.writer import check_writable, write_bytes
from maskpack.tasks.options import TaskOptions

_PLAN, _RESULTS = "study.yaml", "study.jsonl"


class Question(StrEnum):
    """What a study asks."""

    BITS = "bits"
    ZEROS = "zeros"


@opt.with_options
def study(
    question: Annotated[
        Question, Argument(help="What is asked: how does quality fall with bits, or with zeros?")
    ],
    model: opt.Model,
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder of plan, results and pictures. [study]")
    ] = Path("study"),
    data: opt.Data = None,
    *,
    columns: TaskOptions,
    bits: Annotated[str | None, Option(help="Widths with commas. [8,4,2,1; of zeros: 4]")] = None,
    shares: Annotated[
        str | None,
        Option(
            help="Of zeros: shares of zeros that each run passes, with commas. [0.05, then 0.1 to 0.9]"
        ),
    ] = None,
    estimators: Annotated[
        str | None,
        Option(help=f"Of bits: estimators with commas: {', '.join(ESTIMATORS)}. [threshold]"),
    ] = None,
    seeds: Annotated[str, Option(help="Seeds with commas.")] = "0,1,2",
    taught: Annotated[
        bool,
        Option(
            "--taught/--alone", help="Masks learn from the dense model of their seed, or alone."
        ),
    ] = True,
    sparsity: Annotated[
        float | None, Option(help="Of bits: share of zeros of estimators that need one. [0.1]")
    ] = None,
    budget: BudgetConfig,
    pictures: Annotated[
        bool,
        Option("--pictures/--no-pictures", help="Draw quality against bits, or against zeros."),
    ] = True,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Write the plan, list the runs, stop.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Ask one question of a model and a task: runs over bits or zeros, and seeds; a table and a figure.

    Of zeros one run a width and seed passes all shares, and leaves a task at each: give it enough `--epochs`. The plan is a file
    for `compress sweep`; a stopped study goes on with the same command.

    Example: compress study bits demo --task reviews --seeds 0 -o study

    Example: compress study zeros demo --task reviews --epochs 20 -o zeros
    """
    own = {"shares": shares, "estimators": estimators, "sparsity": sparsity}
    common = {
        "model": model,
        "task": find_named_task(task, data, columns, quiet=True).name,
        "data": data,
        "columns": columns,
        "seeds": tuple(_numbers("seeds", seeds)),
        "taught": taught,
        "budget": budget,
        **({} if bits is None else {"bits": tuple(_numbers("bits", bits))}),
    }
    plan = _plan(question, common, {name: v for name, v in own.items() if v is not None})
    check_writable(out / _PLAN)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / _PLAN, yaml.safe_dump(plan, sort_keys=False).encode())
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


_OWN = {Question.BITS: ("estimators", "sparsity"), Question.ZEROS: ("shares",)}


def _plan(question: Question, common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep that answers a question.

    Args:
        question: which one.
        common: what every study is told.
        own: options that are given, and belong to one question.
    """
    from maskpack.compressor.sweep import study as studies  # noqa: PLC0415 - keeps --help fast

    if foreign := [name for name in own if name not in _OWN[question]]:
        raise ConfigError(
            f"`--{foreign[0]}` says nothing about a study of {question}", "leave it out"
        )
    if question is Question.ZEROS:
        passed = {name: _shares(text) for name, text in own.items()}
        return studies.study_of_zeros(studies.ZerosStudy(**{**common, **passed}))
    told = dict(own)
    if "estimators" in own:
        told["estimators"] = tuple(name.strip() for name in own["estimators"].split(","))
    return studies.study_of_bits(studies.StudyRequest(**{**common, **told}))


def _shares(text: str) -> tuple[float, ...]:
    try:
        return levels_of(text)
    except ValueError:
        raise ConfigError(
            f"`shares` is `{text}`", "write numbers with commas, such as 0.1,0.5"
        ) from None


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
