"""Which charts a report shows, and of what: views in, `Chart` values out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskpack.cli.charts import Chart, Level, Line, Value, chart
from maskpack.cli.plot_data import (
    MEAN,
    PLOTS,
    Plot,
    Point,
    majority_in,
    panels_of,
    points_of,
    score_in,
    shown_in,
)
from maskpack.compressor.report_view import TaskView
from maskpack.compressor.sweep_table import Table

if TYPE_CHECKING:
    from maskpack.compressor.judgement import Judgement  # imports torch

_APART = 1.3  # room that series share round a width, so that their error bars stand side by side


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
    curves = task.curves
    if curves is None:
        return ()
    weights = max(1, task.count.weights)
    zeros = [100 * count / weights for count in curves.zeros]
    made = (
        _curve("training loss", curves.steps, curves.loss, slot=0),
        _curve(f"{task.metric} on evaluation rows", curves.score_steps, curves.scores, slot=2),
        _curve("zeros in the mask, %", curves.steps, zeros, slot=1),
    )
    return tuple(each for each in made if each is not None)


def _curve(title: str, steps: Sequence[int], values: Sequence[float], *, slot: int) -> Chart | None:
    points = tuple(
        Value(step, value, words=f"step {step:,}: {value:.4g}")
        for step, value in zip(steps, values, strict=True)
    )
    line = Line(title, points, slot=slot, dots=len(points) < 12)
    return chart(title, [line], x_label="step")


def pair_chart(judgement: Judgement) -> Chart | None:
    """Given against true values of a regression."""
    points = tuple(
        Value(true, given, words=f"true {true:g}, given {given:.3g}")
        for true, given in judgement.pairs
    )
    line = Line("rows", points, joined=False)
    return chart("rows", [line], x_label="true value", y_label="given")


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
                tuple(_value(name, point, _shift(plot, turn, len(points))) for point in each),
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


def _shift(plot: Plot, turn: int, count: int) -> float:
    """Factor that sets series side by side where they share a width."""
    return _APART ** ((turn + 0.5) / count - 0.5) if plot.scale == "bits" else 1.0


def _value(name: str, point: Point, shift: float) -> Value:
    spread = 0.0 if math.isnan(point.y.sd) else point.y.sd
    more = f" ± {spread:.4f}" if spread else ""
    words = f"{name}: {point.y.mean:.4f}{more} at {point.x:,.4g}"
    return Value(point.x * shift, point.y.mean, spread, words, hollow=point.collapsed)


def _levels(table: Table, panel: str) -> list[Level]:
    levels = []
    reference = next((row for row in table.rows if row.arm.label == table.reference), None)
    score = None if reference is None else score_in(reference, panel)
    if score is not None:
        spread = 0.0 if math.isnan(score.sd) else score.sd
        levels.append(Level(f"{table.reference} (reference)", score.mean, spread))
    majority = majority_in(table, panel)
    if majority is not None:
        levels.append(Level("majority class", majority, dashed=True))
    return levels
