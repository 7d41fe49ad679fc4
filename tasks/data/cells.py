"""Cells of a table as texts, and checks of cells. Errors name the file, the row and the column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from maskpack.formats import DataError
from maskpack.formats.errors import Hint
from maskpack.formats.files import half_letter
from maskpack.runtime.images import url_of_bytes

_NO_TEXT = (dict, list, tuple, bytes, bytearray)

NO_LABEL = "\0"
"""What a cell without a value is read as, where the reader takes such cells; no text of a table holds this."""

MISSING = {"", "nan", "none", "null"}
"""Cells as tables are written by programs that lack a value."""

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
        crowded: whether a row may have more fields than the header, as some of GLUE's have.
        gaps: whether the last column may lack a value; it comes as `NO_LABEL`.
        structured: whether cells may hold lists and objects; they come as JSON.
        images: whether cells may hold the bytes of an image, as `datasets` keeps them; they come as data URLs.
        lines: whether a `.txt` file holds a text a line, whose column has no name in it; else it is a table.
    """

    path: Path
    columns: tuple[str, ...]
    header: tuple[str, ...] = ()
    lists: bool = False
    crowded: bool = False
    gaps: bool = False
    structured: bool = False
    images: bool = False
    lines: bool = False

    def row(self, values: Mapping[str, object], number: int) -> Row:
        """The wanted cells of one row.

        Raises:
            DataError: a column is not there, or holds no text and no number.
        """
        last = self.columns[-1]
        for column in self.columns:
            if column not in values and not (self.gaps and column == last):
                raise DataError(
                    f"row {number} of `{self.path}` has no field '{column}'",
                    f"{_nearest(column, list(values))}its fields: {column_list(list(values))}",
                )
        return tuple(
            self._cell(values.get(column), number, column, last=column == last)
            for column in self.columns
        )

    def _cell(self, value: object, number: int, column: str, *, last: bool) -> str:
        if last and self.gaps and _is_missing(value):
            return NO_LABEL
        try:
            if self.images and isinstance(value, dict) and (image := _image_of(value)) is not None:
                return image
            if self.structured and isinstance(value, list | tuple | dict):
                return _as_json(value)
            return as_text(value, lists=last and self.lists)
        except TypeError as error:
            several = isinstance(value, list | tuple) and last and not self.lists
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
        TypeError: nothing, not a number, bytes or an object, or a text with half a letter.
    """
    if isinstance(value, str):
        if half_letter(value):
            raise TypeError("which holds half of a surrogate pair")
        return value
    if lists and isinstance(value, list | tuple):
        return json.dumps([as_text(each) for each in value])
    infinite = isinstance(value, float) and math.isinf(value)
    if _is_missing(value) or infinite or isinstance(value, _NO_TEXT):
        raise TypeError("expected a text or a number")
    return str(int(value)) if isinstance(value, bool) else str(value)


def _as_json(value: object) -> str:
    """A list or an object as JSON, with all that is in it.

    Raises:
        TypeError: JSON has no form for something in it, or a text holds half a letter.
    """
    text = json.dumps(value, ensure_ascii=False)
    if half_letter(text):
        raise TypeError("which holds half of a surrogate pair")
    return text


def _image_of(value: Mapping[str, object]) -> str | None:
    """An image as `datasets` keeps it, with its bytes or its path, as the text of a row; None: it holds neither.

    >>> _image_of({"bytes": b"GIF", "path": None}), _image_of({"bytes": None, "path": "a.png"})
    ('data:image/*;base64,R0lG', 'a.png')
    """
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, bytes):
        return url_of_bytes(data)
    return path if isinstance(path, str) else None


def _is_missing(value: object) -> bool:
    """Whether a table has no value there: null, or NaN as pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


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
        raise DataError(
            f"`{wanted.path}` has the column `{twice[0]}` more than once",
            "give each column of the file a name of its own",
        )


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
