"""An artifact's pictures with matplotlib: learning curves and zeros of each matrix, as PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from maskpack.cli.plot_data import curves_in
from maskpack.cli.plots import STYLE, make_folder, save
from maskpack.compressor.report_view import ArtifactView, TaskView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_tasks(view: ArtifactView, folder: Path) -> list[Path]:
    """Write what there is to draw of each task; return the files.

    Raises:
        ConfigError: the folder cannot be made.
        ArtifactError: a picture cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415 - optional

    make_folder(folder)
    written = []
    with mpl.rc_context(STYLE):
        for task in view.tasks:
            pictures = {"curves": _curves(task), "zeros": _zeros(task)}
            for name, figure in pictures.items():
                if figure is not None:
                    written += save(figure, folder / f"{task.name}-{name}", ("png",))
    return written


def _curves(task: TaskView) -> Figure | None:
    """Loss, metric and zeros over steps; None if nothing of it was kept."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    curves = [curve for curve in curves_in(task) if curve.values]
    if not curves:
        return None
    figure = Figure(figsize=(4.0 * len(curves), 3.4), layout="constrained")
    grid = figure.subplots(1, len(curves), squeeze=False).flat
    for axes, curve in zip(grid, curves, strict=True):
        axes.plot(curve.steps, curve.values, marker="o" if len(curve.values) < 12 else None)
        axes.set_title(curve.title, fontsize=10)
        axes.set_xlabel("step")
    figure.suptitle(task.name, fontsize=11)
    return figure


def _zeros(task: TaskView) -> Figure | None:
    """Share of zeros of each matrix, by part and layer."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    heat = task.heat
    if not heat.parts:
        return None
    size = (2.6 + 0.75 * len(heat.layers), 1.4 + 0.42 * len(heat.parts))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    shares = [[float("nan") if c is None else 100 * c.share for c in row] for row in heat.cells]
    axes.imshow(shares, cmap="Blues", vmin=0.0, aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(range(len(heat.parts)), heat.parts)
    axes.set_xticks(range(len(heat.layers)), [layer or "none" for layer in heat.layers])
    axes.set_xlabel("layer")
    axes.set_title(f"{task.name}: zeros in %", fontsize=10)
    _write_shares(axes, shares, 100 * heat.highest)
    return figure


def _write_shares(axes: Axes, shares: list[list[float]], highest: float) -> None:
    """The numbers themselves, light on dark cells."""
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            if not math.isnan(value):  # there is a mask
                colour = "white" if value > 0.5 * highest else "black"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour
                )
