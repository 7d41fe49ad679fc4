"""Cells of a label column as labels: which there are, in which order, and what a row has of them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.data.cells import Row
from maskpack.tasks.task import Kind, Task

_MOST = 50  # labels; with more, of which most stand once, the column is taken for something else
_MISSING = {"", "nan", "none", "null"}  # as tables are written by programs that lack a value


def labels_of_cell(task: Task, cell: str) -> tuple[str, ...]:
    """The labels of one row, each once.

    Where rows may have several, a cell is a list as JSON or Python writes one, or labels with the
    task's separator between them, or one label, or nothing.
    """
    if task.kind is not Kind.MULTI_LABEL:
        return (cell,)
    listed = _as_list(cell)
    if listed is None:
        listed = [cell] if task.separator is None else cell.split(task.separator)
    return tuple(dict.fromkeys(label.strip() for label in listed if label.strip()))


def checked_rows(task: Task, rows: list[Row], where: str) -> list[Row]:
    """The rows, without blanks around labels of the user's own.

    Raises:
        DataError: a label is missing or no number, or a column of text is empty.
    """
    for place, column in enumerate(task.texts):
        if rows and not any(row[place].strip() for row in rows):
            raise DataError(
                f"column `{column}` of {where} is empty in every row", "choose with `--text-field`"
            )
    if task.kind is Kind.REGRESSION:
        for number, row in enumerate(rows, start=1):
            _check_number(row[-1], f"data row {number} of {where}")
        return rows
    if task.raw_labels or task.kind is Kind.MULTI_LABEL:
        return rows
    for number, row in enumerate(rows, start=1):
        if row[-1].strip().casefold() in _MISSING:
            raise DataError(
                f"data row {number} of {where} has no label in `{task.label}` (`{row[-1]}`)",
                "give it one, or leave the row out",
            )
    return [(*row[:-1], row[-1].strip()) for row in rows]


def label_names(task: Task, rows: Sequence[Row]) -> tuple[str, ...]:
    """Distinct labels of a column: numbers by value, words by alphabet; none of a regression.

    Raises:
        DataError: there is one only, or nearly one a row.
    """
    if task.kind is Kind.REGRESSION:
        return ()
    found = {label for row in rows for label in labels_of_cell(task, row[-1])}
    numeric = all(re.fullmatch("-?[0-9]+", label) for label in found)
    names = tuple(sorted(found, key=int if numeric else None))
    if len(names) < 2:
        raise DataError(
            f"column `{task.label}` holds one label only: {', '.join(names) or 'none at all'}",
            "a task needs rows of two labels or more",
        )
    if len(names) > max(_MOST, len(rows) // 2):
        raise DataError(
            f"column `{task.label}` holds {len(names)} labels in {len(rows)} rows, "
            f"such as `{names[0][:40]}`",
            "choose the label's column with `--label-field`; for a number give `--regression`",
        )
    return names


def label_array(task: Task, raw: Sequence[str], rows: Sequence[Row], where: str) -> NDArray[Any]:
    """Labels as training has them.

    Returns:
        Class numbers int64 `(rows)`, values float32 `(rows)`, or for several labels a row 0 and 1 as
        int8 `(rows, c)`.

    Raises:
        DataError: a label that is not among `raw`.
    """
    if task.kind is Kind.REGRESSION:
        return np.array([float(row[-1]) for row in rows], dtype=np.float32)
    index = {label: number for number, label in enumerate(raw)}
    found: list[list[int]] = []
    for number, row in enumerate(rows):
        told = labels_of_cell(task, row[-1])
        odd = [label for label in told if label not in index]
        if odd:
            raise DataError(
                f"data row {number + 1} of the {where} has the unknown label `{odd[0]}`",
                f"labels: {', '.join(raw)}",
            )
        found.append([index[label] for label in told])
    if task.kind is Kind.CLASSIFICATION:
        return np.array([numbers[0] for numbers in found], dtype=np.int64)
    table = np.zeros((len(rows), len(raw)), dtype=np.int8)
    for number, numbers in enumerate(found):
        table[number, numbers] = 1
    return table


def _as_list(cell: str) -> list[str] | None:
    """A list of texts or numbers that a cell spells out, or None."""
    if not cell.lstrip().startswith("["):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
            return [str(one) for one in value]
    return None


def _check_number(cell: str, where: str) -> None:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{where} has `{cell}`, not a number")
