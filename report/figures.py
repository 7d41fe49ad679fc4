"""What figures show: a sweep's quality against bits, sparsity and bytes, a task's curves; as `Chart` values.

A sweep has one panel a task and one for their mean. `plots.py` draws the same with matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskpack.compressor.sweep.table import Spread, Table, TableRow
from maskpack.report.charts import Chart, Level, Line, Value, chart
from maskpack.report.view import TaskView

if TYPE_CHECKING:
    from maskpack.tasks.evaluation.evaluate import ErrorAnalysis  # imports torch


MEAN = "mean over tasks"
_SIZES = frozenset({"sparsity", "target_bpp", "target_bytes"})
_APART = 1.3  # room that series share round a width, so that their error bars stand side by side


@dataclass(frozen=True)
class Point:
    """A row's place in one panel."""

    x: float
    y: Spread
    collapsed: bool


@dataclass(frozen=True)
class Plot:
    """What one figure shows.

    Attributes:
        name: stem of the files.
        label: of the horizontal axis.
        series: name of the series a row belongs to, or None to leave the row out.
        x: a row's place on the axis, for a task or for `MEAN`.
        scale: of the horizontal axis: `bits` and `bytes` are logarithmic.
        joined: whether the points of a series are joined.
    """

    name: str
    label: str
    series: Callable[[TableRow], str | None]
    x: Callable[[TableRow, str], float]
    scale: str = "linear"
    joined: bool = True


def _series_without(hidden: Iterable[str]) -> Callable[[TableRow], str]:
    """Name a row by its family and what varies, except what the axis shows."""

    def name(row: TableRow) -> str:
        varied = [f"{key}={value}" for key, value in row.arm.varied.items() if key not in hidden]
        return " ".join([row.arm.family, *varied])

    return name


def _by_bits(row: TableRow) -> str | None:
    return _series_without({"bits"})(row) if row.bits < 32 else None


def _by_sparsity(row: TableRow) -> str | None:
    return _series_without(_SIZES)(row) if row.sparsity is not None else None


def _zeros(row: TableRow, panel: str) -> float:
    share = row.sparsity if panel == MEAN else row.cells[panel].sparsity
    return 100 * (share or 0.0)


def _bytes(row: TableRow, panel: str) -> float:
    count = row.coded_bytes if panel == MEAN else row.cells[panel].coded_bytes
    return max(1.0, count)  # the axis is logarithmic


PLOTS = (
    Plot("quality-bits", "bits of a backbone weight", _by_bits, lambda row, _: row.bits, "bits"),
    Plot("quality-sparsity", "zeros in the mask, %", _by_sparsity, _zeros),
    Plot(
        "quality-bytes",
        "bytes a task adds, coded",
        lambda row: row.arm.label,
        _bytes,
        "bytes",
        joined=False,
    ),
)


def metric_in(row: TableRow, panel: str) -> Spread | None:
    """A row's score in a panel; None where it has no finished run."""
    if panel == MEAN:
        return row.score
    return row.cells[panel].score if panel in row.cells else None


def collapsed_in(row: TableRow, panel: str) -> bool:
    """Whether a seed of the row is no better than always giving the same answer."""
    cells = row.cells.values() if panel == MEAN else [row.cells[panel]]
    return any(cell.collapsed for cell in cells)


def levels_in(table: Table, panel: str) -> list[Level]:
    """Scores in a panel that others are compared with, where they are known.

    These are the reference's with its SD, and, dashed, that of always giving the commonest class.
    """
    levels = []
    row = next((row for row in table.rows if row.arm.label == table.reference), None)
    score = None if row is None else metric_in(row, panel)
    if score is not None:
        levels.append(Level(f"{table.reference} (reference)", score.mean, deviation(score)))
    majority = table.majority.get(panel)
    if panel == MEAN and len(table.majority) == len(table.metrics):
        majority = sum(table.majority.values()) / len(table.majority)
    if majority is not None:
        levels.append(Level("majority class", majority, dashed=True))
    return levels


def deviation(spread: Spread) -> float:
    """Length of an error bar: the SD, 0 of a single value."""
    return 0.0 if math.isnan(spread.sd) else spread.sd


def shift(plot: Plot, turn: int, count: int) -> float:
    """Factor that sets one of `count` series beside the others where they share a width."""
    return _APART ** ((turn + 0.5) / count - 0.5) if plot.scale == "bits" else 1.0


def panels_of(table: Table) -> list[str]:
    """A panel a task, and their mean where there are several."""
    return [*table.metrics, *([MEAN] if len(table.metrics) > 1 else [])]


def title_in(table: Table, panel: str) -> str:
    """A task and its metric, or what the panel of the mean is called."""
    return panel if panel == MEAN else f"{panel}, {table.metrics[panel]}"


def shown_in(table: Table, plot: Plot) -> list[tuple[TableRow, str]]:
    """Rows with the series each belongs to; none where they would be fewer than two points."""
    named = [(row, plot.series(row)) for row in table.rows]
    shown = [(row, name) for row, name in named if name is not None]
    places = {plot.x(row, next(iter(row.cells))) for row, _ in shown}
    return shown if len(places) > 1 else []


def points_of(
    shown: Sequence[tuple[TableRow, str]], plot: Plot, panel: str
) -> dict[str, list[Point]]:
    """Series -> its points in one panel."""
    points: dict[str, list[Point]] = {}
    for row, name in shown:
        score = metric_in(row, panel)
        if score is not None:
            place = plot.x(row, panel)
            points.setdefault(name, []).append(Point(place, score, collapsed_in(row, panel)))
    return points


@dataclass(frozen=True)
class Curve:
    """One value over the steps of a run; no points where it was not kept."""

    title: str
    steps: Sequence[int]
    values: Sequence[float]


def curves_in(task: TaskView) -> tuple[Curve, ...]:
    """Loss, metric and zeros over the steps of a task; none if no history was kept."""
    kept = task.curves
    if kept is None:
        return ()
    weights = max(1, task.count.weights)
    return (
        Curve("training loss", kept.steps, kept.loss),
        Curve(f"{task.metric} on evaluation rows", kept.score_steps, kept.scores),
        Curve("zeros in the mask, %", kept.steps, [100 * count / weights for count in kept.zeros]),
    )


@dataclass(frozen=True)
class Figure:
    """Panels with one legend.

    Attributes:
        title: what is shown against what.
        panels: its charts.
        legend: a line for each series.
        levels: names of horizontal lines in it.
    """

    title: str
    panels: tuple[Chart, ...]
    legend: tuple[Line, ...]
    levels: tuple[Level, ...] = ()


def curve_charts(task: TaskView) -> tuple[Chart, ...]:
    """Loss, metric and zeros over the steps of a task; none if they were not kept."""
    made = (_curve(curve, slot) for slot, curve in enumerate(curves_in(task)))
    return tuple(each for each in made if each is not None)


def _curve(curve: Curve, slot: int) -> Chart | None:
    points = tuple(
        Value(step, value, words=f"step {step:,}: {value:.4g}")
        for step, value in zip(curve.steps, curve.values, strict=True)
    )
    line = Line(curve.title, points, slot=slot, dots=len(points) < 12)
    return chart(curve.title, [line], x_label="step")


def pair_chart(analysis: ErrorAnalysis) -> Chart | None:
    """Given against true values of a regression, on the same scale: a line where both are one."""
    points = tuple(
        Value(true, given, words=f"true {true:g}, given {given:.3g}")
        for true, given in analysis.pairs
    )
    if not points:
        return None
    ends = [end(value for pair in analysis.pairs for value in pair) for end in (min, max)]
    exact = Line("exact", tuple(Value(end, end) for end in ends), slot=1, dots=False)
    rows = Line("rows", points, joined=False)
    return chart("value given, by true value", [exact, rows], x_label="true value")


def sweep_figures(table: Table) -> tuple[Figure, ...]:
    """Quality against bits, zeros and bytes, each where there are two points or more."""
    return tuple(figure for plot in PLOTS if (figure := _sweep_figure(table, plot)) is not None)


def _sweep_figure(table: Table, plot: Plot) -> Figure | None:
    shown = shown_in(table, plot)
    if not shown:
        return None
    slots = {name: slot for slot, name in enumerate(dict.fromkeys(name for _, name in shown))}
    panels, legend = [], {}
    for panel in panels_of(table):
        points = points_of(shown, plot, panel)
        lines = [
            Line(
                name,
                tuple(_value(name, point, shift(plot, turn, len(points))) for point in each),
                slot=slots[name],
                joined=plot.joined,
            )
            for turn, (name, each) in enumerate(points.items())
        ]
        title, levels = title_in(table, panel), levels_in(table, panel)
        made = chart(title, lines, x_label=plot.label, levels=levels, scale=plot.scale)
        if made is not None:
            panels.append(made)
            legend.update({line.name: line for line in lines})
    shown_levels = {rule.level.name: rule.level for panel in panels for rule in panel.rules}
    title = f"quality against {plot.label}"
    return Figure(title, tuple(panels), tuple(legend.values()), tuple(shown_levels.values()))


def _value(name: str, point: Point, factor: float) -> Value:
    spread = deviation(point.y)
    more = f" ± {spread:.4f}" if spread else ""
    words = f"{name}: {point.y.mean:.4f}{more} at {point.x:,.4g}"
    return Value(point.x * factor, point.y.mean, spread, words, hollow=point.collapsed)
