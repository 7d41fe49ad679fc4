"""Pictures with matplotlib: a sweep's plots as PNG and SVG, an artifact's curves and zeros as PNG.

A sweep has one panel a task and one for their mean; error bars are SD over seeds, the band is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskpack.compressor.sweep.plan import slug
from maskpack.compressor.sweep.table import Table, TableRow
from maskpack.formats import ConfigError
from maskpack.formats.extras import check_package
from maskpack.formats.writer import write_bytes
from maskpack.report.charts import Level, short_size
from maskpack.report.figures import (
    PLOTS,
    Plot,
    Point,
    curves_in,
    deviation,
    levels_in,
    panels_of,
    points_of,
    shift,
    shown_in,
    title_in,
)
from maskpack.report.view import ArtifactView, TaskView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (  # Okabe and Ito's, told apart by colour-blind readers too
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F5539",
    "#6A4C93",
    "#8C8C00",
    "#222222",  # the last two are ours
    "#B2182B",
)
_MARKERS = "osD^vP*XpH<>"
_LINES = ("-", "--", ":", "-.")
_GREY = "#555555"
_COLUMNS = 3
_LEGEND_WIDTH, _LEGEND_LINE = 2.6, 0.2  # inches
STYLE: dict[Any, Any] = {  # matplotlib types the keys as its 300 literals
    "font.size": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "svg.hashsalt": "maskpack",  # same input, same bytes
    "svg.fonttype": "none",
}


def check_installed() -> None:
    """Refuse before the first run what would fail after the last.

    Raises:
        MissingPackageError: matplotlib is missing.
    """
    check_package("matplotlib", "a plot")


def draw(
    tables: Sequence[Table], folder: Path, *, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write every plot that has something to show; return the files.

    Raises:
        MissingPackageError: matplotlib is missing.
        ConfigError: the folder cannot be made.
        ArtifactError: a picture cannot be written.
    """
    check_installed()
    import matplotlib as mpl  # noqa: PLC0415 - optional

    make_folder(folder)
    written = []
    with mpl.rc_context(STYLE):
        for table in tables:
            for plot in PLOTS:
                figure = _figure(table, plot)
                if figure is not None:
                    prefix = f"{slug(table.model)}-" if len(tables) > 1 else ""
                    written += save(figure, folder / f"{prefix}{plot.name}", kinds)
    return written


def make_folder(folder: Path) -> None:
    """Make a folder for pictures, unless it is there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write plots into `{folder}`: {error.strerror}") from error


def save(figure: Figure, stem: Path, kinds: Sequence[str]) -> list[Path]:
    """Write a figure as files of these kinds, such as `png`; return them.

    Raises:
        ArtifactError: no permission or space; an old picture stays.
    """
    paths = []
    for kind in kinds:
        metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {}
        drawn = BytesIO()
        figure.savefig(drawn, format=kind, dpi=150, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_bytes(paths[-1], drawn.getvalue())
    return paths


def _figure(table: Table, plot: Plot) -> Figure | None:
    """The figure, or None if it would show fewer than two points."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    shown = shown_in(table, plot)
    if not shown:
        return None
    panels = panels_of(table)
    columns = 2 if len(panels) in {2, 4} else min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    figure = Figure(
        figsize=(4.0 * columns + _LEGEND_WIDTH, 3.4 * lines + 0.4), layout="constrained"
    )
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    looks = _looks(table, [name for _, name in shown], joined=plot.joined)
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, table, plot, panel=panel, shown=shown, looks=looks)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _legend(figure)
    figure.suptitle(f"{table.model}: mean and SD over seeds", fontsize=11)
    return figure


def _looks(table: Table, names: Sequence[str], *, joined: bool) -> dict[str, dict[str, Any]]:
    """Series -> colour, marker and line: a colour each, or one a family where there are too many."""
    families = list(dict.fromkeys(row.arm.family for row in table.rows))
    series = list(dict.fromkeys(names))
    by_family = len(series) > len(_COLOURS)
    looks: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for place, name in enumerate(series):
        family = next(each for each in families if name == each or name.startswith(f"{each} "))
        turn = seen[family] = seen.get(family, -1) + 1
        colour = families.index(family) if by_family else place
        looks[name] = {
            "color": _COLOURS[colour % len(_COLOURS)],
            "marker": _MARKERS[(turn if by_family else place) % len(_MARKERS)],
            "linestyle": _LINES[turn % len(_LINES) if by_family else 0] if joined else "none",
        }
    return looks


def _panel(
    axes: Axes,
    table: Table,
    plot: Plot,
    *,
    panel: str,
    shown: Sequence[tuple[TableRow, str]],
    looks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Points, the reference's band, the majority's line and the axes of one panel."""
    points = points_of(shown, plot, panel)
    for turn, (name, series) in enumerate(points.items()):
        factor = shift(plot, turn, len(points))
        _draw_series(axes, name, series, look=looks[name], factor=factor)
    _limits(axes, [point for series in points.values() for point in series])
    _draw_levels(axes, levels_in(table, panel))
    _scale(axes, plot.scale, [point.x for series in points.values() for point in series])
    axes.set_title(title_in(table, panel), fontsize=10)
    axes.set_xlabel(plot.label)
    axes.set_axisbelow(True)


def _draw_series(
    axes: Axes, name: str, series: list[Point], *, look: Mapping[str, Any], factor: float
) -> None:
    """One line with error bars; a cross over each collapsed point."""
    ordered = sorted(series, key=lambda point: point.x)
    axes.errorbar(
        [point.x * factor for point in ordered],
        [point.y.mean for point in ordered],
        yerr=[deviation(point.y) for point in ordered],
        label=name,
        capsize=2.5,
        markersize=5.5,
        linewidth=1.4,
        elinewidth=1.0,
        **look,
    )
    lost = [point for point in ordered if point.collapsed]
    if lost:
        axes.plot(
            [point.x * factor for point in lost],
            [point.y.mean for point in lost],
            "x",
            color="black",
            markersize=9,
            zorder=5,
            label="has a collapsed seed",
        )


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Room for every point and bar, and nothing that would flatten them."""
    tops = [point.y.mean + deviation(point.y) for point in points]
    bottoms = [point.y.mean - deviation(point.y) for point in points]
    if points:
        room = max(0.1 * (max(tops) - min(bottoms)), 0.004)
        axes.set_ylim(min(bottoms) - room, max(tops) + room)


def _draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """The reference's band and the majority's line, or a note where they would flatten the rest."""
    low, high = axes.get_ylim()
    for level in levels:
        if level.dashed and not level.y > low - 1.5 * (high - low):
            axes.annotate(
                f"{level.name} {level.y:.3f}, below",
                (0.02, 0.02),
                xycoords="axes fraction",
                fontsize=8,
                color=_GREY,
            )
            low -= 0.08 * (high - low)
            continue
        ends = (level.y - level.spread, level.y + level.spread)
        style, width = ("--", 1.2) if level.dashed else ("-", 1.0)
        if not level.dashed:
            axes.axhspan(*ends, color=_GREY, alpha=0.15, linewidth=0)
        axes.axhline(level.y, color=_GREY, linestyle=style, linewidth=width, label=level.name)
        low, high = _stretched(low, high, ends)
    axes.set_ylim(low, high)


def _stretched(low: float, high: float, level: tuple[float, float]) -> tuple[float, float]:
    """Limits that hold a level too, with some room."""
    room = 0.06 * (max(high, level[1]) - min(low, level[0]))
    return (
        level[0] - room if level[0] < low + room else low,
        level[1] + room if level[1] > high - room else high,
    )


def _scale(axes: Axes, scale: str, places: Sequence[float]) -> None:
    """Ticks that people read: the widths themselves, or bytes with their unit."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 - optional

    if scale == "linear" or not places:
        return
    axes.set_xscale("log", base=2 if scale == "bits" else 10)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if scale == "bits":
        widths = sorted(set(places))
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.minorticks_off()
        axes.set_xlim(widths[0] / 1.3, widths[-1] * 1.3)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_size(value)))
        low, high = min(places), max(places)
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
        axes.set_xlim(10.0**first, 10.0**last)
        axes.set_xticks([10.0**n for n in range(first, last + 1, 1 if last - first < 5 else 2)])


def _legend(figure: Figure) -> None:
    """One legend for all panels, outside of them; the figure grows by what it takes."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    last = [name for name in found if name.endswith("(reference)")]
    last += [name for name in ("majority class", "has a collapsed seed") if name in found]
    order = [*(name for name in found if name not in last), *last]
    columns = -(-len(order) // int(figure.get_figheight() / _LEGEND_LINE))
    figure.set_figwidth(figure.get_figwidth() + (columns - 1) * _LEGEND_WIDTH)
    figure.legend(
        [found[name] for name in order],
        order,
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        ncols=columns,
    )


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
