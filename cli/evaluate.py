"""`compress eval`: the metrics of a task, in torch or from its graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.sources import ArtifactSource
from maskpack.cli.task_data import data_by_task, only_task
from maskpack.formats import (
    ConfigError,
    open_artifact,
)
from maskpack.runtime.task import pick_task

if TYPE_CHECKING:
    from maskpack.tasks.evaluation.evaluate import Assessment


def evaluate(
    artifact: ArtifactSource,
    task: opt.OnlyTask = None,
    data: Annotated[
        list[str] | None,
        Option(
            help="Evaluation file, folder with a dev file, or hub:NAME[:CONFIG]; TASK=PATH as in `export`."
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        Option(
            help="Instead of the torch model: a folder of `compress export --onnx`, by its texts."
        ),
    ] = None,
    ensemble: opt.Ensemble = None,
    unlabelled: opt.UnlabelledRows = None,
    provider: opt.Providers = None,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Evaluate a task of an artifact in torch on its evaluation split, in total and for each label.

    Of a file from which the task was learned, the rows that were held out are evaluated. With --onnx an
    exported graph answers instead, as `compress predict` does; that needs no torch.

    Example: compress eval artifact -t tickets --data tickets.csv

    Example: compress eval artifact --onnx tickets-onnx --data tickets.csv

    Example: compress eval artifact --onnx all --ensemble tickets-1,tickets-2,tickets --data tickets.csv
    """
    opened = open_artifact(artifact)
    if provider and onnx is None:
        raise ConfigError("`--provider` is for `--onnx`; the torch model runs in torch")
    if device and onnx is not None:
        raise ConfigError("`--device` is for the torch model; `--onnx` has `--provider`")
    members = opt.members_of(ensemble, task)
    if members and onnx is None:
        raise ConfigError("`--ensemble` is for `--onnx`; graphs answer together, not torch models")
    task = members[0] if members else task
    name = only_task(opened, task) if onnx is None else pick_task(onnx, task).read_config().name
    rows: dict[str, Any] = {"data": data_by_task(data or [], [name]).get(name)}
    rows["unlabelled"] = unlabelled
    if onnx is not None:
        from maskpack.tasks.evaluation.exported import assess_exported  # noqa: PLC0415 - ONNX Runtime

        result = assess_exported(
            opened, onnx, name, providers=provider or (), ensemble=members[1:], **rows
        )
    else:
        from maskpack.tasks.evaluation.evaluate import assess  # noqa: PLC0415 - keeps --help fast

        result = assess(opened, name, device=device, **rows)
    if json:
        render.data(result.to_json())
        return
    columns = {"value": result.scores, "same answer always": result.majority}
    columns["when learned"] = result.recorded
    if result.original:
        columns["original model"] = result.original
    shown = [
        (name, *(f"{each[name]:.4f}" if name in each else "-" for each in columns.values()))
        for name in result.scores
    ]
    render.table(f"{result.task}: {result.rows} evaluation rows", ("metric", *columns), shown)
    if result.classes:
        render.table("", ("label", "precision", "recall", "f1", "rows", "given"), _by_class(result))
    if not result.same_data:
        render.words("note: these are not the rows that the task was scored on when learned")


def _by_class(result: Assessment) -> list[tuple[str, ...]]:
    return [
        (
            one.label,
            *(f"{value:.4f}" for value in (one.precision, one.recall, one.f1)),
            *map(str, (one.rows, one.given)),
        )
        for one in result.classes
    ]
