"""Long texts as several windows, which evaluation joins as devices do with `windows`: to one output a text, or to one of each token.

A row is all windows of a text, so that everything that works on rows, their labels and their logits works on texts. A model
reads each window as a text of its own; outputs are joined before anybody sees them, in training too: the loss is that of the joined
logits, which are what a device answers with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.tags import IGNORED
from maskpack.runtime.windows import Window, best_places, shares_of
from maskpack.tasks.batches import EncodedTokens, Feeds
from maskpack.tasks.token_rows import TokenRows, chained

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class EncodedPieces(EncodedTokens, ABC):
    """Rows of one window or more: the tokens of all windows stand one after the other.

    Attributes:
        counts: windows of each row, int64 `(rows)`.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first window of each row."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of all windows of each row."""
        return np.asarray(np.add.reduceat(self.ids.lengths, self._starts))

    def row_of(self, place: int) -> int:
        """Number of the split's row that the window at a place of `ids` is of."""
        return int(np.searchsorted(self._starts, place, side="right")) - 1

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given."""
        windows = self._windows(rows)
        return replace(
            self,
            ids=self.ids.take(windows),
            types=None if self.types is None else self.types.take(windows),
            labels=self.labels[rows],
            labelled=None if self.labelled is None else self.labelled[rows],
            counts=self.counts[rows],
            **self._joins_of(rows),
        )

    def followed_by(self, others: Sequence[EncodedTokens]) -> Self:
        """The rows and, behind them, those of others."""
        pieces = [one for one in (self, *others) if isinstance(one, type(self))]
        counts = np.concatenate([one.counts for one in pieces])
        return replace(super().followed_by(others), counts=counts, **self._joins_with(pieces))

    @abstractmethod
    def _joins_of(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """The fields that say how windows are joined, of some rows."""

    @abstractmethod
    def _joins_with(self, pieces: Sequence[Any]) -> dict[str, Any]:
        """The same fields, of the rows of all pieces."""

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The windows of the rows as one padded batch."""
        return super().feeds(self._windows(rows))

    def _windows(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places of the windows of some rows."""
        return _stretches(self._starts[rows], self.counts[rows])


@dataclass(frozen=True, eq=False)
class EncodedTextPieces(EncodedPieces):
    """Rows of windows that have one output a text.

    Attributes:
        shares: of its text that each window stands for, float64 `(windows)`; those of a row add up to 1. See `shares_of`.
        highest: whether a row's output is the highest of its windows', for each label; else their mean, each with its share.
    """

    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    highest: bool = False

    @classmethod
    def of_windows(
        cls, plain: EncodedTokens, windows: Sequence[Sequence[Window]]
    ) -> EncodedTextPieces:
        """The rows of a split.

        Args:
            plain: the tokens of all windows, one row behind the other, and the labels of rows: `(rows, c)` where each may have several.
            windows: of each row.
        """
        shares = np.concatenate([shares_of(own) for own in windows])
        highest = plain.labels.ndim > 1
        counts = _counts(windows)
        return cls(**_fields_of(plain), counts=counts, shares=shares, highest=highest)

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Outputs of a batch of rows, `(b, c)`, from those of their windows."""
        counts = self.counts[rows]
        starts = np.cumsum(counts) - counts
        if self.highest:
            return np.asarray(np.maximum.reduceat(logits, starts, axis=0))
        shares = self.shares[self._windows(rows)][:, None]
        return np.add.reduceat(logits * shares, starts, axis=0).astype(np.float32)

    def per_row(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """The same of a step, `(b, c)`."""
        import torch  # noqa: PLC0415 - reading rows imports no torch

        parts = torch.split(logits, self.counts[rows].tolist())
        if self.highest:
            return torch.stack([one.amax(dim=0) for one in parts])
        shares = torch.from_numpy(self.shares[self._windows(rows)]).to(logits)
        weighted = torch.split(logits * shares[:, None], self.counts[rows].tolist())
        return torch.stack([one.sum(dim=0) for one in weighted])

    def _joins_of(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return {"shares": self.shares[self._windows(rows)]}

    def _joins_with(self, pieces: Sequence[EncodedTextPieces]) -> dict[str, Any]:
        return {"shares": np.concatenate([one.shares for one in pieces])}


@dataclass(frozen=True, eq=False)
class EncodedTokenPieces(EncodedPieces):
    """Rows of windows that have an output for each token of a text, which is that of one of the windows that hold the token.

    `labels` are `(rows, tokens)` of the texts' own tokens, those that windows divide among them; padding stands behind a window.

    Attributes:
        sources: for each token of a text its place among the tokens of all windows of its row, see `best_places`.
    """

    sources: TokenRows = field(default_factory=lambda: TokenRows.of([]))

    @classmethod
    def of_windows(
        cls, plain: EncodedTokens, windows: Sequence[Sequence[Window]]
    ) -> EncodedTokenPieces:
        """The rows of a split.

        Args:
            plain: the tokens of all windows, one row behind the other, and the labels of the texts' own tokens.
            windows: of each row.
        """
        counts, sources = _counts(windows), []
        lengths = np.split(plain.ids.lengths, np.cumsum(counts)[:-1])
        for own, tokens in zip(windows, lengths, strict=True):
            chosen, places = best_places(own)
            sources.append((np.cumsum(tokens) - tokens)[chosen] + places)
        return cls(**_fields_of(plain), counts=counts, sources=TokenRows.of(sources))

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Outputs of a batch of rows, `(b, tokens, c)` in the width of the longest text of all, 0 where none counts."""
        found = np.zeros((len(rows), *self.labels.shape[1:], logits.shape[-1]), dtype=logits.dtype)
        row, token, source = self._places(rows, logits.shape[1])
        found[row, token] = logits.reshape(-1, logits.shape[-1])[source]
        return found

    def per_row(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """The same of a step, in the width of the longest text of these rows."""
        import torch  # noqa: PLC0415 - reading rows imports no torch

        width = max(1, int(self.sources.lengths[rows].max()))
        places = (
            torch.from_numpy(each).to(logits.device) for each in self._places(rows, logits.shape[1])
        )
        row, token, source = places
        found = logits.new_zeros(len(rows), width, logits.shape[-1])
        return found.index_put((row, token), logits.flatten(0, 1)[source])

    def _places(self, rows: NDArray[np.intp], width: int) -> tuple[NDArray[np.intp], ...]:
        """Row and token of the outputs that count, and their places among the outputs of all windows of a batch.

        Args:
            rows: of the batch.
            width: tokens of its longest window, to which the others are padded.
        """
        row, token = (self.labels[rows] != IGNORED).nonzero()
        lengths = self.ids.lengths[self._windows(rows)]
        unpadded = np.flatnonzero(np.arange(width) < lengths[:, None])
        before = np.cumsum(self.lengths[rows]) - self.lengths[rows]
        own = self.sources.take(rows)
        start = np.cumsum(own.lengths) - own.lengths
        return row, token, unpadded[before[row] + own.flat()[start[row] + token]]

    def _joins_of(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        return {"sources": self.sources.take(rows)}

    def _joins_with(self, pieces: Sequence[EncodedTokenPieces]) -> dict[str, Any]:
        return {"sources": chained([one.sources for one in pieces])}

    def in_width(self, width: int) -> Self:
        """The same rows with labels of so many tokens; those behind a text do not count."""
        more = ((0, 0), (0, width - self.labels.shape[1]))
        return replace(self, labels=np.pad(self.labels, more, constant_values=IGNORED))

    def followed_by(self, others: Sequence[EncodedTokens]) -> Self:
        """The rows and, behind them, those of others, all in the width of the longest text."""
        parts = [one for one in (self, *others) if isinstance(one, EncodedTokenPieces)]
        width = max(one.labels.shape[1] for one in parts)
        return super(EncodedTokenPieces, self.in_width(width)).followed_by(
            [one.in_width(width) for one in parts[1:]]
        )


def _fields_of(plain: EncodedTokens) -> dict[str, Any]:
    return {each.name: getattr(plain, each.name) for each in fields(EncodedTokens)}


def _counts(windows: Sequence[Sequence[Window]]) -> NDArray[np.int64]:
    return np.array([len(own) for own in windows], dtype=np.int64)


def _stretches(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Numbers that follow each other, so many from each start on.

    >>> _stretches(np.array([7, 2]), np.array([2, 3])).tolist()
    [7, 8, 2, 3, 4]
    """
    first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return np.asarray(first + np.arange(counts.sum()), dtype=np.intp)
