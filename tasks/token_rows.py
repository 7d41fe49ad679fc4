"""Token ids of many rows without a Python object a row: flat arrays, and where in them each row stands.

The arrays are in memory, or maps of a file (`token_cache.py`); nothing else knows which. Some rows of them are a choice of
starts and lengths, so that no token is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_DTYPE = np.int32


@dataclass(frozen=True, eq=False)
class TokenRows(Sequence[NDArray[Any]]):
    """Rows of integers, of any length each.

    Attributes:
        parts: flat arrays `(n)` of integers; one or more.
        part: int32, one a row: the array in which the row stands.
        starts: int64, one a row: its first entry there.
        lengths: int64, one a row.
    """

    parts: tuple[NDArray[Any], ...]
    part: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | NDArray[Any]]) -> TokenRows:
        """Rows in memory.

        >>> rows = TokenRows.of([[5, 6], [7]])
        >>> rows.lengths, rows[1], rows.take(np.array([1, 0]))[1]
        (array([2, 1]), array([7], dtype=int32), array([5, 6], dtype=int32))
        """
        arrays = [np.asarray(row, dtype=_DTYPE) for row in rows]
        flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=_DTYPE)
        lengths = np.array([len(row) for row in arrays], dtype=np.int64)
        return cls.of_flat([flat], [lengths])

    @classmethod
    def of_flat(
        cls, parts: Sequence[NDArray[Any]], lengths: Sequence[NDArray[np.int64]]
    ) -> TokenRows:
        """Rows that stand one after the other in flat arrays.

        Args:
            parts: the arrays.
            lengths: of the rows of each.
        """
        sizes = [len(each) for each in lengths]
        starts = [np.cumsum(each, dtype=np.int64) - each for each in lengths]
        return cls(
            tuple(parts),
            np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            np.concatenate([np.zeros(0, dtype=np.int64), *starts]),
            np.concatenate([np.zeros(0, dtype=np.int64), *lengths]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, row: int) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, row: slice) -> TokenRows: ...

    def __getitem__(self, row: int | slice) -> NDArray[Any] | TokenRows:
        if isinstance(row, slice):
            return TokenRows(self.parts, self.part[row], self.starts[row], self.lengths[row])
        start, flat = self.starts[row], self.parts[self.part[row]]
        found: NDArray[Any] = flat[start : start + self.lengths[row]]
        return found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: NDArray[np.intp]) -> TokenRows:
        """Some of the rows, in the order given; the arrays are shared."""
        return TokenRows(self.parts, self.part[rows], self.starts[rows], self.lengths[rows])

    def flat(self) -> NDArray[Any]:
        """All entries, row after row."""
        return np.concatenate([np.zeros(0, dtype=_DTYPE), *self._stretches()])

    def largest(self) -> int:
        """The largest entry of all; -1 if there is none."""
        return max((int(row.max()) for row in self._stretches()), default=-1)

    def first_above(self, limit: int) -> int | None:
        """The first row that has an entry of `limit` or more; None: there is none."""
        if self.largest() < limit:
            return None
        return next((n for n, row in enumerate(self) if len(row) and int(row.max()) >= limit), None)

    def _stretches(self) -> Iterator[NDArray[Any]]:
        """All entries, in as few pieces as rows that follow each other in an array make."""
        if not len(self):
            return
        follows = (self.part[1:] == self.part[:-1]) & (
            self.starts[1:] == self.starts[:-1] + self.lengths[:-1]
        )
        cuts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        last = np.concatenate([cuts[1:] - 1, [len(self) - 1]])
        ends = self.starts[last] + self.lengths[last]
        for part, start, end in zip(self.part[cuts], self.starts[cuts], ends, strict=True):
            if start < end:
                yield self.parts[part][start:end]


def chained(several: Sequence[TokenRows]) -> TokenRows:
    """The rows of all, one after the other; the arrays are shared."""
    before = np.cumsum([0, *(len(rows.parts) for rows in several)])
    shifted = [rows.part + np.int32(n) for rows, n in zip(several, before[:-1], strict=True)]
    return TokenRows(
        tuple(part for rows in several for part in rows.parts),
        np.concatenate(shifted),
        np.concatenate([rows.starts for rows in several]),
        np.concatenate([rows.lengths for rows in several]),
    )
