"""`compress lr-find`: at which learning rate the loss of a short run falls best."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.task_data import find_named_task
from maskpack.compressor.config import BaselineConfig
from maskpack.formats import ConfigError
from maskpack.tasks.options import CacheOptions, TaskOptions

if TYPE_CHECKING:
    from maskpack.compressor.lr_find import RateCurve
    from maskpack.compressor.types import BaselineRequest, FitRequest

    Request = TypeVar("Request", FitRequest, BaselineRequest)

_STEPS = 100
_LINES, _WIDE = 20, 40  # of the plot, and characters of its longest bar


@opt.with_options
def lr_find(
    ctx: typer.Context,
    model: opt.Model,
    task: opt.OwnTaskName = None,
    data: opt.Data = None,
    *,
    columns: TaskOptions,
    rows: CacheOptions,
    chosen: opt.Replayed[BaselineConfig],
    picture: Annotated[
        Path | None, Option(help="Draw the curve into this file, .png or .svg.")
    ] = None,
    revision: opt.Revision = None,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Find a learning rate: a short run whose rate rises with every step, until its loss grows.

    `--steps` says how many, 100 if it is left out. Of a mask: `compress fit --find-lr`, for estimators whose rate matters.

    Example: compress lr-find demo --task reviews --method full

    Example: compress lr-find demo --task reviews --method head --picture rates.png
    """
    from maskpack.compressor.lr_find import find_learning_rate  # noqa: PLC0415 - imports torch
    from maskpack.compressor.types import BaselineRequest  # noqa: PLC0415

    if picture is not None and picture.suffix not in {".png", ".svg"}:
        raise ConfigError(f"`{picture}` is no name of a picture", "end it in .png or .svg")
    request = BaselineRequest(
        model=model,
        task=find_named_task(task, data, columns, quiet=quiet),
        config=chosen,
        data=data,
        revision=revision,
        device=device,
        threads=threads,
        cache=rows.cache,
    )
    steps, title = chosen.steps or _STEPS, f"{request.task.name}: {chosen.method}"
    with render.progress(title, quiet=quiet) as on_progress:
        curve = find_learning_rate(request, steps=steps, on_progress=on_progress)
    if picture is not None:
        from maskpack.report.rates import draw_rates  # noqa: PLC0415 - needs jinja2

        draw_rates(picture, curve, title)
    if json:
        told = {"suggestion": curve.suggestion, "lowest": curve.lowest, "steepest": curve.steepest}
        render.json({**asdict(curve), **told})
        return
    show_curve(curve)
    render.words(f"next: {_options(curve)}")


def found_rate(request: Request, *, quiet: bool) -> Request:
    """The request with the rate that a range test suggests, which is told."""
    from maskpack.compressor.lr_find import find_learning_rate, with_rate  # noqa: PLC0415 - imports torch

    with render.progress(f"{request.task.name} rates", quiet=quiet) as on_progress:
        curve = find_learning_rate(request, on_progress=on_progress)
    render.words(f"note: the range test suggests {_options(curve)}")
    return replace(request, config=with_rate(request.config, curve))


def show_curve(curve: RateCurve) -> None:
    """Loss against rate, as bars; where training diverges they end."""
    places = range(0, len(curve.rates), max(1, len(curve.rates) // _LINES))
    most = max(curve.losses[0], min(curve.losses))
    rows = [
        (
            f"{curve.rates[place]:.1e}",
            f"{curve.losses[place]:.4f}",
            "#" * min(_WIDE, round(_WIDE * curve.losses[place] / most)),
        )
        for place in places
    ]
    render.table(f"range test of {curve.option}", ("rate", "loss", ""), rows)
    facts = {"suggestion": curve.suggestion, "smallest loss at": curve.lowest}
    facts |= {"steepest fall at": curve.steepest}
    render.table("", ("rate", "value"), [(name, f"{rate:.2g}") for name, rate in facts.items()])


def _options(curve: RateCurve) -> str:
    """The suggestion as options of a command."""
    name = curve.option.replace("_", "-")
    head = "" if curve.option == "head_lr" else f" --head-lr {curve.suggestion * curve.ratio:.2g}"
    return f"--{name} {curve.suggestion:g}{head}"
