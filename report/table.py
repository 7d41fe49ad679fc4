"""A sweep's table in words: Markdown for people, a tree for programs."""

from __future__ import annotations

import math
from typing import Any

from maskpack.compressor.sweep.table import Cell, Spread, Table, TableRow

_MARK = "†"


def rows_of(table: Table) -> list[list[str]]:
    """The cells of the table: a row a method and share of zeros that its runs pass, and the majority class as the last one."""
    return [
        *(_cells(table, each) for row in table.rows for each in _with_stops(row)),
        _majority(table),
    ]


def notes_of(table: Table) -> list[str]:
    """A line for each method and task with a seed that collapsed."""
    return [
        f"{_MARK} `{row.arm.label}` on {task} is no better than always giving the same answer: "
        f"seed {', '.join(map(str, cell.collapsed))}"
        for first in table.rows
        for row in _with_stops(first)
        for task, cell in row.cells.items()
        if cell.collapsed
    ]


def _with_stops(row: TableRow) -> tuple[TableRow, ...]:
    """A row behind those of the shares of zeros that its runs pass."""
    return (*row.stops, row)


def as_tree(table: Table) -> dict[str, Any]:
    """The same figures for programs; NaN becomes null."""
    return {
        "model": table.model,
        "metrics": dict(table.metrics),
        "majority": dict(table.majority),
        "reference": table.reference,
        "planned": table.planned,
        "rows": [_row_tree(row) for row in table.rows],
    }


def _row_tree(row: TableRow) -> dict[str, Any]:
    return {
        "label": row.arm.label,
        "family": row.arm.family,
        "varied": dict(row.arm.varied),
        "tasks": {task: _cell_tree(cell) for task, cell in row.cells.items()},
        "mean": _spread_tree(row.score),
        "points": _spread_tree(row.points),
        "bits": row.bits,
        "sparsity": row.sparsity,
        "coded_bytes": row.coded_bytes,
        "seconds": row.seconds,
        "runs": row.runs,
        **({"stops": [_row_tree(stop) for stop in row.stops]} if row.stops else {}),
    }


def _cell_tree(cell: Cell) -> dict[str, Any]:
    return {
        "score": _spread_tree(cell.score),
        "by_seed": {str(seed): value for seed, value in cell.by_seed.items()},
        "matthews": _spread_tree(cell.mcc),
        "collapsed": list(cell.collapsed),
        "sparsity": cell.sparsity,
        "coded_bytes": cell.coded_bytes,
    }


def _spread_tree(spread: Spread | None) -> dict[str, float | None] | None:
    if spread is None:
        return None
    return {"mean": spread.mean, "sd": None if math.isnan(spread.sd) else spread.sd}


def head_of(table: Table) -> list[str]:
    """Names of the columns."""
    tasks = [f"{task}, {metric}" for task, metric in table.metrics.items()]
    mean = ["mean"] if len(tasks) > 1 else []
    points = [f"points to {table.reference}"] if table.reference is not None else []
    return ["method", *tasks, *mean, *points, "zeros", "coded bytes", "s", "runs"]


def _cells(table: Table, row: TableRow) -> list[str]:
    mark = f" {_MARK}" if any(cell.collapsed for cell in row.cells.values()) else ""
    mean = [spread_text(row.score) + mark] if len(table.metrics) > 1 else []
    return [
        row.arm.label,
        *(_score(row, task) for task in table.metrics),
        *mean,
        *([_points(table, row)] if table.reference is not None else []),
        "-" if row.sparsity is None else f"{row.sparsity:.2%}",
        f"{row.coded_bytes:,.0f}",
        f"{row.seconds:.0f}",
        f"{row.runs}/{table.planned}",
    ]


def _majority(table: Table) -> list[str]:
    """The row of always giving the commonest class."""
    values = [f"{table.majority[t]:.4f}" if t in table.majority else "-" for t in table.metrics]
    return ["majority class", *values, *["-"] * (len(head_of(table)) - 1 - len(values))]


def _score(row: TableRow, task: str) -> str:
    cell = row.cells.get(task)
    if cell is None:
        return "-"
    return spread_text(cell.score) + (f" {_MARK}" if cell.collapsed else "")


def _points(table: Table, row: TableRow) -> str:
    if row.arm.label == table.reference:
        return "reference"
    return "-" if row.points is None else spread_text(row.points, digits=2, sign="+")


def spread_text(spread: Spread | None, *, digits: int = 4, sign: str = "") -> str:
    """Mean and, where there is one, SD.

    >>> spread_text(Spread(0.5, 0.25)), spread_text(Spread(1.234, math.nan), digits=2, sign="+")
    ('0.5000 ± 0.2500', '+1.23')
    """
    if spread is None:
        return "-"
    sd = "" if math.isnan(spread.sd) else f" ± {spread.sd:.{digits}f}"
    return f"{spread.mean:{sign}.{digits}f}{sd}"
