"""Rows of a table as rows of a task: columns of text that hold some, labels of the task's type, rows without a label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.data.cells import Row
from maskpack.tasks.data.stored_rows import StoredRows, changed, column_of, first_columns, taken
from maskpack.tasks.task import Task, Unlabelled
from maskpack.tasks.types import TaskType

_LOG = logging.getLogger(__name__)
MOST_CELLS = 1024
"""Different cells of labels whose form is kept: most tables have few, and a table of numbers has as many as rows."""

_SHOWN = 8  # row numbers that a line spells out


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """Rows whose labels have the form of the task's type.

    Attributes:
        texts: one or two a row.
        cells: of the label column, one a row.
        gaps: texts of further rows, which have no label.
        root: folder that paths of images are relative to; None: texts are no paths.
    """

    texts: Sequence[Row]
    cells: Sequence[str]
    gaps: Sequence[Row] = ()
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: NDArray[np.intp], *, gaps: bool) -> CheckedRows:
        """Some of the rows, in the order given, with those that have no label or without them."""
        kept = self.gaps if gaps else ()
        return CheckedRows(taken(self.texts, places), taken(self.cells, places), kept, self.root)


def checked_rows(
    task: Task,
    rows: Sequence[Row],
    where: str,
    *,
    learned: bool = False,
    root: Path | None = None,
) -> CheckedRows:
    """The rows, their labels as the type of the task keeps them, and the texts of rows without a label.

    Args:
        task: what to read, and what to do with rows without a label.
        rows: texts and a label each.
        where: they come from, in words.
        learned: whether they are training rows.
        root: folder that paths of images are relative to; None: texts are no paths.

    Raises:
        DataError: a label is missing or of another form, or a column of text is empty.
    """
    rows = _formed(task.type, rows, where)
    for index, column in enumerate(task.texts):
        if len(rows) and not any(text.strip() for text in column_of(rows, index)):
            raise DataError(
                f"column `{column}` of {where} is empty in every row", "choose another `text_field`"
            )
    texts, cells = first_columns(rows, len(task.texts)), column_of(rows, -1)
    gaps, present = _gaps(task, cells, where, learned=learned), np.arange(len(rows))
    checked = CheckedRows(texts, cells, root=root)
    if len(gaps):
        present = np.delete(present, gaps)
        kept, none = (taken(texts, places) for places in (present, gaps))
        checked = CheckedRows(kept, taken(cells, present), none, root)
    return checked if task.raw_labels else _with_labels(task, checked, present, where)


def _formed(kind: TaskType, rows: Sequence[Row], where: str) -> Sequence[Row]:
    """The rows as a type of task reads them, where it reads cells in several forms.

    Raises:
        DataError: a row that it cannot read.
    """
    if not kind.structured:
        return rows
    formed = (
        kind.row(row, f"data row {number} of {where}") for number, row in enumerate(rows, start=1)
    )
    if not isinstance(rows, StoredRows):
        return list(formed)
    for _ in formed:
        pass  # so that an error names the row
    return changed(rows, lambda row: kind.row(row, where))


def _with_labels(
    task: Task, rows: CheckedRows, numbers: NDArray[np.intp], where: str
) -> CheckedRows:
    """The rows with their labels as the type of the task keeps them.

    Args:
        task: names type and column.
        rows: labels as the table has them.
        numbers: of the rows in the table, from 0.
        where: they come from.

    Raises:
        DataError: a label is missing or of another form.
    """
    check, column, sound = task.type.check_cell, task.label, set[str]()
    for number, cell in zip(numbers, rows.cells, strict=True):
        if cell not in sound:
            check(cell, f"data row {number + 1} of {where}", column)
            if len(sound) < MOST_CELLS:
                sound.add(cell)
    kept = lru_cache(MOST_CELLS)(lambda cell: check(cell, where, column))
    return replace(rows, cells=changed(rows.cells, kept))


def _gaps(task: Task, cells: Sequence[str], where: str, *, learned: bool) -> NDArray[np.intp]:
    """Indices of the rows without a label, in order; none where such a row is an error.

    Raises:
        DataError: no row has a label.
    """
    if task.unlabelled is Unlabelled.STOP:
        return np.zeros(0, dtype=np.intp)
    kind, known = task.type, set(task.raw_labels)
    gaps = np.fromiter(
        (index for index, cell in enumerate(cells) if cell not in known and kind.lacks_label(cell)),
        dtype=np.intp,
    )
    if len(gaps) and len(gaps) == len(cells):
        raise DataError(
            f"none of the {len(cells):,} rows of {where} has a label in `{task.label}`",
            "choose another `label_field`",
        )
    if len(gaps):
        taught = learned and task.unlabelled is Unlabelled.TEACH
        first = ", ".join(str(index + 1) for index in gaps[:_SHOWN])
        _LOG.info(
            "%s of %s rows of %s have no label in `%s` and are %s: data rows %s%s",
            *(f"{len(gaps):,}", f"{len(cells):,}", where, task.label),
            "learned from the teacher" if taught else "left out",
            *(first, ", ..." if len(gaps) > _SHOWN else ""),
        )
    return gaps
