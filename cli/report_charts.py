"""Which charts a report shows, and of what: views in, `Chart` values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskpack.cli.charts import Chart, Level, Line, Value, chart
from maskpack.cli.plot_data import (
    MEAN,
    PLOTS,
    Curve,
    Plot,
    Point,
    curves_in,
    deviation,
    majority_in,
    panels_of,
    points_of,
    reference_in,
    shift,
    shown_in,
)
from maskpack.compressor.report_view import TaskView
from maskpack.compressor.sweep.table import Table

if TYPE_CHECKING:
    from maskpack.compressor.scores.judgement import Judgement  # imports torch


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


def pair_chart(judgement: Judgement) -> Chart | None:
    """Given against true values of a regression, on the same scale: a line where both are one."""
    points = tuple(
        Value(true, given, words=f"true {true:g}, given {given:.3g}")
        for true, given in judgement.pairs
    )
    if not points:
        return None
    ends = [end(value for pair in judgement.pairs for value in pair) for end in (min, max)]
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
        title = panel if panel == MEAN else f"{panel}, {table.metrics[panel]}"
        made = chart(
            title, lines, x_label=plot.label, levels=_levels(table, panel), scale=plot.scale
        )
        if made is not None:
            panels.append(made)
            legend.update({line.name: line for line in lines})
    levels = {rule.level.name: rule.level for panel in panels for rule in panel.rules}
    title = f"quality against {plot.label}"
    return Figure(title, tuple(panels), tuple(legend.values()), tuple(levels.values()))


def _value(name: str, point: Point, factor: float) -> Value:
    spread = deviation(point.y)
    more = f" ± {spread:.4f}" if spread else ""
    words = f"{name}: {point.y.mean:.4f}{more} at {point.x:,.4g}"
    return Value(point.x * factor, point.y.mean, spread, words, hollow=point.collapsed)


def _levels(table: Table, panel: str) -> list[Level]:
    levels = []
    score = reference_in(table, panel)
    if score is not None:
        levels.append(Level(f"{table.reference} (reference)", score.mean, deviation(score)))
    majority = majority_in(table, panel)
    if majority is not None:
        levels.append(Level("majority class", majority, dashed=True))
    return levels
