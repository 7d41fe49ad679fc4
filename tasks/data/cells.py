"""Cells of a table as texts, and checks of cells. Errors name the file, the row and the column."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from maskpack.formats import DataError
from maskpack.formats.errors import Hint

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, as spreadsheets write them

Row = tuple[str, ...]
"""The wanted columns of one row, in the order they were asked for."""


@dataclass(frozen=True)
class Wanted:
    """The columns to take from a file.

    Attributes:
        path: the file.
        columns: names of the columns.
        header: column names of a file without a header line, or empty.
        lists: whether the last column may hold a list; it comes as JSON.
    """

    path: Path
    columns: tuple[str, ...]
    header: tuple[str, ...] = ()
    lists: bool = False

    def row(self, values: Mapping[str, object], number: int) -> Row:
        """The wanted cells of one row.

        Raises:
            DataError: a column is not there, or holds no text and no number.
        """
        for column in self.columns:
            if column not in values:
                raise DataError(
                    f"row {number} of `{self.path}` has no field '{column}'",
                    f"{_nearest(column, list(values))}its fields: {column_list(list(values))}",
                )
        last = self.columns[-1]
        return tuple(
            self._cell(values[column], number, column, listed=column == last)
            for column in self.columns
        )

    def _cell(self, value: object, number: int, column: str, *, listed: bool) -> str:
        try:
            return as_text(value, lists=listed and self.lists)
        except TypeError as error:
            several = isinstance(value, list | tuple) and listed
            hint = "a task of the kind `multi-label` may have several labels a row"
            raise DataError(
                f"row {number} of `{self.path}` has {_shown(value)} in `{column}`, {error}",
                hint if several else None,
            ) from error


def as_text(value: object, *, lists: bool = False) -> str:
    """A cell as text; a list, where it may be one, as JSON.

    >>> as_text(3), as_text(True), as_text(["a", 1], lists=True)
    ('3', '1', '["a", "1"]')

    Raises:
        TypeError: nothing, not a number, or an object.
    """
    if isinstance(value, str):
        return value
    if lists and isinstance(value, list | tuple):
        return json.dumps([as_text(each) for each in value])
    missing = isinstance(value, float) and not math.isfinite(value)
    if value is None or missing or isinstance(value, dict | list | tuple):
        raise TypeError("expected a text or a number")
    return str(int(value)) if isinstance(value, bool) else str(value)


def check_columns(wanted: Wanted, names: Sequence[str]) -> None:
    """Raise DataError unless each wanted column is among `names`, once."""
    missing = [column for column in wanted.columns if column not in names]
    if missing:
        raise DataError(
            f"`{wanted.path}` has no column `{missing[0]}`",
            Hint(
                "{meant}its columns: {columns}; choose `text_field` and `label_field`, or rename them",
                meant=_nearest(missing[0], names),
                columns=column_list(names) or "none, it is empty",
            ),
        )
    twice = [column for column in wanted.columns if names.count(column) > 1]
    if twice:
        raise DataError(f"`{wanted.path}` has the column `{twice[0]}` more than once", "rename one")


def read_bytes(path: Path) -> bytes:
    """All of a file, unzipped if its name ends in `.gz`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read `{path}`: {error}") from error


def read_text(path: Path) -> str:
    """The same as text, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        other = "utf-16" if data[:2] in _UTF_16 else "latin1"
        raise DataError(
            f"line {line} of `{path}` is not UTF-8: byte 0x{data[error.start]:02x} "
            f"at offset {error.start}",
            f"convert it first: `iconv -f {other} -t utf-8 IN > OUT`",
        ) from error


def column_list(names: Sequence[str]) -> str:
    """Names of columns as words; names that would be read wrongly are quoted.

    >>> column_list(["id", "Text ", "a, b"])
    "id, 'Text ', 'a, b'"
    """
    plain = {name for name in names if name and name == name.strip() and "," not in name}
    return ", ".join(name if name in plain else repr(name) for name in names)


def _nearest(name: str, names: Sequence[str]) -> str:
    """`did you mean ...? `, or nothing."""
    folded = {one.casefold(): one for one in names}
    close = [folded[one] for one in get_close_matches(name.casefold(), list(folded), n=2)]
    return f"did you mean {' or '.join(f'`{one}`' for one in close)}? " if close else ""


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
