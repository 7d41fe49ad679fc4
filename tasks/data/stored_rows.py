"""Rows of a large file: read once into a table on disk, then read from it by pages.

`StoredRows` is a sequence as a tuple of rows is, and the functions below treat both alike.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.waiting import Counted
from maskpack.tasks.data.cache import Cache, Recipe, file_digest, unpacked_size
from maskpack.tasks.data.cells import Row, Wanted
from maskpack.tasks.data.tables import stream_rows

_LOG = logging.getLogger(__name__)
PAGE = 8192
"""Rows that are in memory at once."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, eq=False)
class StoredTable:
    """A mapped table of texts.

    Attributes:
        cache: where it is kept.
        key: digest of what it was made of.
        pages: record batches.
        ends: rows of the table up to the end of each page.
        size, width: rows and columns.
    """

    cache: Cache
    key: str
    pages: tuple[Any, ...]
    ends: NDArray[np.int64]
    size: int
    width: int

    @classmethod
    def of(cls, cache: Cache, key: str, table: Any) -> StoredTable:
        """The table of pyarrow's."""
        pages = tuple(page for page in table.to_batches() if page.num_rows)
        ends = np.cumsum([page.num_rows for page in pages], dtype=np.int64)
        return cls(cache, key, pages, ends, table.num_rows, table.num_columns)

    def rows(self, places: NDArray[np.intp], columns: Sequence[int]) -> list[Row]:
        """Some columns of some rows, in memory."""
        numbers = np.searchsorted(self.ends, places, side="right")
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        found: list[Row] = []
        for some in np.split(places, cuts) if len(places) else ():
            number = int(np.searchsorted(self.ends, some[0], side="right"))
            page = self.pages[number]
            local = some - (self.ends[number] - page.num_rows)
            cells = (page.column(column).take(_indices(local)).to_pylist() for column in columns)
            found += zip(*cells, strict=True)
        return found


@dataclass(frozen=True, eq=False)
class StoredRows(Sequence[T], Generic[T]):
    """Rows of a table, each in some form.

    Attributes:
        table: where they stand.
        places: their numbers there, in order.
        columns: which cells a row has.
        form: what becomes of the cells.
    """

    table: StoredTable
    places: NDArray[np.intp]
    columns: tuple[int, ...]
    form: Callable[[Row], T]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: slice) -> StoredRows[T]: ...

    def __getitem__(self, row: int | slice) -> T | StoredRows[T]:
        if isinstance(row, slice):
            return replace(self, places=self.places[row])
        return self.form(self.table.rows(self.places[row : row + 1 or None], self.columns)[0])

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), PAGE):
            rows = self.table.rows(self.places[start : start + PAGE], self.columns)
            yield from map(self.form, rows)

    def take(self, rows: NDArray[np.intp]) -> StoredRows[T]:
        """Some of them, in the order given."""
        return replace(self, places=self.places[rows])

    def map(self, form: Callable[[T], U]) -> StoredRows[U]:
        """All of them in another form, which is made again whenever a row is read."""
        own = self.form
        return StoredRows(self.table, self.places, self.columns, lambda row: form(own(row)))

    def only(self, *columns: int) -> StoredRows[Row]:
        """Some cells of each row, as the form of whole rows gives them."""
        if cast("Any", self.form) is not _as_they_are:
            return self.map(lambda row: tuple(cast("Row", row)[column] for column in columns))
        chosen = tuple(self.columns[column] for column in columns)
        return StoredRows(self.table, self.places, chosen, _as_they_are)

    @property
    def key(self) -> str:
        """Digest of which rows they are, whatever their form."""
        places = hashlib.sha256(self.places.astype("<i8").tobytes()).hexdigest()
        return f"{self.table.key} {places} {self.columns}"


def _indices(places: NDArray[np.intp]) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    return pa.array(places)


def _as_they_are(row: Row) -> Row:
    return row


def stored_rows(cache: Cache, wanted: Wanted) -> StoredRows[Row]:
    """Rows of a file in a cache, as `stream_rows` gives them.

    Raises:
        DataError: as of `stream_rows`; the cache cannot be written.
    """
    path, asked = wanted.path, asdict(wanted)
    ending = "".join(asked.pop("path").suffixes[-2:]).lower()
    recipe = Recipe(
        kind="rows",
        what=f"the rows of `{path}`",
        of={"file": file_digest(path), "ending": ending, **asked},
        pages=lambda: _pages(wanted),
        size=lambda: unpacked_size(path),
    )
    table = StoredTable.of(cache, recipe.key, cache.table(recipe))
    return StoredRows(table, np.arange(table.size), tuple(range(table.width)), _as_they_are)


def _pages(wanted: Wanted) -> Iterator[Any]:
    """Rows as record batches of texts; one empty batch if there are none."""
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    names = [f"cell{number}" for number in range(len(wanted.columns))]
    counted, first = Counted(_LOG, f"reading rows of `{wanted.path}`"), True
    for page in pages_of(stream_rows(wanted)):
        arrays = [pa.array(cells, pa.large_string()) for cells in zip(*page, strict=True)]
        yield pa.record_batch(arrays, names)
        counted.add(len(page))
        first = False
    if first:
        yield pa.record_batch([pa.array([], pa.large_string()) for _ in names], names)


def taken(rows: Sequence[T], places: NDArray[np.intp]) -> Sequence[T]:
    """Some rows, in the order given."""
    return rows.take(places) if isinstance(rows, StoredRows) else tuple(rows[i] for i in places)


def changed(rows: Sequence[T], form: Callable[[T], U]) -> Sequence[U]:
    """All rows in another form; stored ones get it whenever they are read."""
    return rows.map(form) if isinstance(rows, StoredRows) else tuple(map(form, rows))


def column_of(rows: Sequence[Row], column: int) -> Sequence[str]:
    """One cell of every row."""
    if isinstance(rows, StoredRows):
        return rows.only(column).map(lambda row: row[0])
    return tuple(row[column] for row in rows)


def first_columns(rows: Sequence[Row], width: int) -> Sequence[Row]:
    """The first cells of every row."""
    if isinstance(rows, StoredRows):
        return rows.only(*range(width))
    return tuple(row[:width] for row in rows)


def pages_of(rows: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """The rows, `PAGE` at a time."""
    every = iter(rows)
    while page := tuple(islice(every, PAGE)):
        yield page
