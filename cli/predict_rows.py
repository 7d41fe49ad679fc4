"""Rows of a table for `compress predict`: texts, and the label that each row has itself. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskpack.cli import render
from maskpack.compressor.data.columns import columns_hint, plain_columns, plain_texts, taken
from maskpack.compressor.data.labels import labels_of_cell
from maskpack.compressor.data.tables import column_names, read_rows
from maskpack.compressor.data.tasks import Kind, Task
from maskpack.formats import ConfigError, DataError

Expected = str | float | list[str]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read; all None: those with plain names.

    Attributes:
        text: of the text.
        pair: of a second text.
        label: of the label, if a row has one.
        separator: what stands between the labels of a cell.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and (self.pair, self.label) != (None, None):
            raise ConfigError("`--pair-field` and `--label-field` need `--text-field`")

    @property
    def texts(self) -> tuple[str, ...]:
        """Of one text, or of two."""
        return tuple(name for name in (self.text, self.pair) if name is not None)


@dataclass(frozen=True)
class Asked:
    """A row.

    Attributes:
        texts: one text, or two.
        expected: its own label or labels, or number; None if the table has none.
    """

    texts: tuple[str, ...]
    expected: Expected | None = None

    @property
    def question(self) -> str | tuple[str, str]:
        """As a session takes it."""
        return self.texts[0] if len(self.texts) == 1 else (self.texts[0], self.texts[1])


def rows_of(data: Path, columns: Columns, kind: Kind) -> list[Asked]:
    """The rows of a file.

    Args:
        data: CSV, TSV, JSON or Parquet.
        columns: which to read.
        kind: of the task, which tells what a label is.

    Raises:
        ConfigError: nobody says which column is the text.
        DataError: the file cannot be read, or a number is none.
    """
    columns = columns if columns.text is not None else _plain(data)
    wanted = (*columns.texts, *([] if columns.label is None else [columns.label]))
    several = kind is Kind.MULTI_LABEL and columns.label is not None
    rows = read_rows(data, wanted, lists=several)
    if columns.label is None:
        return [Asked(row) for row in rows]
    read = _reader(columns, kind)
    return [Asked(row[:-1], read(row[-1])) for row in rows]


def _reader(columns: Columns, kind: Kind) -> Callable[[str], Expected]:
    """What makes a label of a cell."""
    if kind is Kind.REGRESSION:
        return _number
    if kind is not Kind.MULTI_LABEL:
        return str
    task = Task(
        "rows", kind=kind, texts=columns.texts, metrics=("micro_f1",), separator=columns.separator
    )
    return lambda cell: list(labels_of_cell(task, cell))


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"`{cell[:60]}` is no number, and the task predicts one") from error


def _plain(data: Path) -> Columns:
    """Columns with plain names; a table of texts alone will do."""
    names = column_names(data)
    plain = plain_columns(names)
    texts: Sequence[str] | None = plain[:-1] if plain else plain_texts(names)
    if texts is None:
        raise ConfigError(f"which column of `{data}` is the text?", columns_hint(names, data))
    first, second = (*texts, None)[:2]
    columns = Columns(first, second, plain[-1] if plain else None)
    render.words(f"note: {taken(data, texts, columns.label)}")
    return columns
