"""What a sweep's plots show: quality against bits, sparsity and bytes. No drawing, no matplotlib.

One panel a task and one for their mean. `plots.py` draws it with matplotlib, `charts.py` for a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from maskpack.compressor.sweep_table import Spread, Table, TableRow

MEAN = "mean over tasks"
_SIZES = frozenset({"sparsity", "target_bpp", "target_bytes"})


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
    return row.coded_bytes if panel == MEAN else row.cells[panel].coded_bytes


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


def score_in(row: TableRow, panel: str) -> Spread | None:
    """A row's score in a panel; None where it has no finished run."""
    if panel == MEAN:
        return row.score
    return row.cells[panel].score if panel in row.cells else None


def collapsed_in(row: TableRow, panel: str) -> bool:
    """Whether a seed of the row is no better than always giving the same answer."""
    cells = row.cells.values() if panel == MEAN else [row.cells[panel]]
    return any(cell.collapsed for cell in cells)


def majority_in(table: Table, panel: str) -> float | None:
    """The score of always giving the commonest class; None where it is not known."""
    if panel != MEAN:
        return table.majority.get(panel)
    if len(table.majority) < len(table.metrics):
        return None
    return sum(table.majority.values()) / len(table.majority)


def panels_of(table: Table) -> list[str]:
    """A panel a task, and their mean where there are several."""
    return [*table.metrics, *([MEAN] if len(table.metrics) > 1 else [])]


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
        score = score_in(row, panel)
        if score is not None:
            place = plot.x(row, panel)
            points.setdefault(name, []).append(Point(place, score, collapsed_in(row, panel)))
    return points
