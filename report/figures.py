"""What figures show: a sweep's quality against bits, sparsity and bytes, a task's curves; as `Chart` values.

A sweep has one panel a task and one for their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskpack.compressor.sweep.table import Cell, Table, TableRow
from maskpack.formats.extras import check_package
from maskpack.report.charts import Chart, Level, Line, Value, chart
from maskpack.report.view import TaskView

if TYPE_CHECKING:
    from maskpack.tasks.evaluation.evaluate import ErrorAnalysis  # imports torch


_MEAN = "mean over tasks"
_SIZES = frozenset({"sparsity", "continual", "target_bpp", "target_bytes"})
_APART = 1.3  # room that series share round a width, so that their error bars stand side by side


def check_installed() -> None:
    """Refuse a picture before the first run where it would fail after the last.

    Raises:
        MissingPackageError: a package of the extra `plots` is missing.
    """
    for module in ("resvg_py", "ttf_opensans"):
        check_package(module, "a picture")


@dataclass(frozen=True)
class Figure:
    """Panels with one legend.

    Attributes:
        name: stem of its files.
        title: what is shown against what.
        panels: its charts.
        legend: a line for each series.
        levels: names of horizontal lines in it.
    """

    name: str
    title: str
    panels: tuple[Chart, ...]
    legend: tuple[Line, ...] = ()
    levels: tuple[Level, ...] = ()

    @property
    def columns(self) -> int:
        """Panels side by side."""
        return 2 if len(self.panels) in {2, 4} else min(len(self.panels), 3)

    @property
    def hollow(self) -> bool:
        """Whether a mark is hollow."""
        lines = (line for panel in self.panels for line in panel.lines)
        return any(value.hollow for line in lines for value in line.values)


@dataclass(frozen=True)
class _Plot:
    """What one figure of a sweep shows.

    Attributes:
        name: stem of the files.
        label: of the horizontal axis.
        series: name of the series a row belongs to, or None to leave the row out.
        x: a row's place on the axis, given what it has of a task; for the mean, the row again.
        scale: of the horizontal axis: `bits` and `bytes` are logarithmic.
        joined: whether the points of a series are joined.
        stops: whether each share of zeros that a run passes is a point.
    """

    name: str
    label: str
    series: Callable[[TableRow], str | None]
    x: Callable[[TableRow, TableRow | Cell], float]
    scale: str = "linear"
    joined: bool = True
    stops: bool = False


def _series_without(row: TableRow, hidden: Iterable[str]) -> str:
    """A row's family and what varies in it, except what the axis shows."""
    varied = [f"{key}={value}" for key, value in row.arm.varied.items() if key not in hidden]
    return " ".join([row.arm.family, *varied])


def _by_bits(row: TableRow) -> str | None:
    return _series_without(row, {"bits"}) if row.bits < 32 else None


def _by_sparsity(row: TableRow) -> str | None:
    return _series_without(row, _SIZES) if row.sparsity is not None else None


_PLOTS = (
    _Plot("quality-bits", "bits of a backbone weight", _by_bits, lambda row, _: row.bits, "bits"),
    _Plot(
        "quality-sparsity",
        "zeros in the mask, %",
        _by_sparsity,
        lambda _, found: 100 * (found.sparsity or 0.0),
        stops=True,
    ),
    _Plot(
        "quality-bytes",
        "bytes a task adds, coded",
        lambda row: row.arm.label,
        lambda _, found: found.coded_bytes,
        "bytes",
        joined=False,
    ),
)


def curve_charts(task: TaskView) -> tuple[Chart, ...]:
    """Loss, metric and zeros over the steps of a task; none of what was not kept."""
    kept = task.curves
    if kept is None:
        return ()
    weights = max(1, task.count.weights)
    curves = (
        ("training loss", kept.steps, kept.loss),
        (f"{task.metric} on evaluation rows", kept.score_steps, kept.scores),
        ("zeros in the mask, %", kept.steps, [100 * count / weights for count in kept.zeros]),
    )
    made = (_curve(*curve, slot=slot) for slot, curve in enumerate(curves))
    return tuple(each for each in made if each is not None)


def _curve(title: str, steps: Sequence[int], values: Sequence[float], *, slot: int) -> Chart | None:
    points = tuple(
        Value(step, value, words=f"step {step:,}: {value:.4g}")
        for step, value in zip(steps, values, strict=True)
    )
    line = Line(title, points, slot=slot, dots=len(points) < 12)
    return chart(title, [line], x_label="step")


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
    return tuple(figure for plot in _PLOTS if (figure := _sweep_figure(table, plot)) is not None)


def _sweep_figure(table: Table, plot: _Plot) -> Figure | None:
    rows = [each for row in table.rows for each in ((*row.stops, row) if plot.stops else (row,))]
    shown = [(row, name) for row in rows if (name := plot.series(row)) is not None]
    if len({plot.x(row, next(iter(row.cells.values()))) for row, _ in shown}) < 2:
        return None
    names = [*table.metrics, *([_MEAN] if len(table.metrics) > 1 else [])]
    made = (_panel(table, plot, shown, name) for name in names)
    panels = tuple(each for each in made if each is not None)
    legend = {line.name: line for panel in panels for line in panel.lines}
    levels = {level.name: level for panel in panels for level in panel.levels}
    title = f"quality against {plot.label}"
    return Figure(plot.name, title, panels, tuple(legend.values()), tuple(levels.values()))


def _panel(
    table: Table, plot: _Plot, shown: Sequence[tuple[TableRow, str]], panel: str
) -> Chart | None:
    """The rows of a figure on one task, or their means."""
    slots = {name: slot for slot, name in enumerate(dict.fromkeys(name for _, name in shown))}
    series: dict[str, list[Value]] = {}
    for row, name in shown:
        value = _value(name, row, plot, panel)
        if value is not None:
            series.setdefault(name, []).append(value)
    lines = []
    for turn, (name, values) in enumerate(series.items()):
        beside = _APART ** ((turn + 0.5) / len(series) - 0.5) if plot.scale == "bits" else 1.0
        moved = tuple(replace(value, x=value.x * beside) for value in values)
        lines.append(Line(name, moved, slot=slots[name], joined=plot.joined))
    return chart(
        panel if panel == _MEAN else f"{panel}, {table.metrics[panel]}",
        lines,
        x_label=plot.label,
        levels=_levels(table, plot, panel),
        scale=plot.scale,
    )


def _value(name: str, row: TableRow, plot: _Plot, panel: str) -> Value | None:
    """A row's point, hollow where a seed is no better than always giving the same answer.

    None where the row has no finished run.
    """
    found = row if panel == _MEAN else row.cells.get(panel)
    if found is None or found.score is None:
        return None
    place, score = plot.x(row, found), found.score
    spread = 0.0 if math.isnan(score.sd) else score.sd
    more = f" ± {spread:.4f}" if spread else ""
    words = f"{name}: {score.mean:.4f}{more} at {place:,.4g}"
    cells = row.cells.values() if panel == _MEAN else [row.cells[panel]]
    return Value(place, score.mean, spread, words, hollow=any(cell.collapsed for cell in cells))


def _levels(table: Table, plot: _Plot, panel: str) -> list[Level]:
    """Scores in a panel that others are compared with, where they are known.

    These are the reference's with its SD, and, dashed, that of always giving the commonest class.
    """
    levels = []
    row = next((row for row in table.rows if row.arm.label == table.reference), None)
    value = None if row is None else _value(row.arm.label, row, plot, panel)
    if value is not None:
        levels.append(Level(f"{table.reference} (reference)", value.y, value.spread))
    majority = table.majority.get(panel)
    if panel == _MEAN and len(table.majority) == len(table.metrics):
        majority = sum(table.majority.values()) / len(table.majority)
    if majority is not None:
        levels.append(Level("majority class", majority, dashed=True))
    return levels
