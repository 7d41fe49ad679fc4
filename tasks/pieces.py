"""Long texts as several windows, of which each text has one output: evaluation joins windows as devices do with `windows`.

A row is all windows of a text, so that everything that works on rows, their labels and their logits works on texts. A model
reads each window as a text of its own; outputs are joined before anybody sees them, in training too: the loss is that of the joined
logits, which are what a device answers with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from maskpack.tasks.batches import EncodedTokens, Feeds

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class EncodedPieces(EncodedTokens):
    """Rows of one window or more: the tokens of all windows stand one after the other.

    Attributes:
        counts: windows of each row, int64 `(rows)`.
        shares: of its text that each window stands for, float64 `(windows)`; those of a row add up to 1. See `shares_of`.
        highest: whether a row's output is the highest of its windows', for each label; else their mean, each with its share.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    highest: bool = False

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
        types = None if self.types is None else self.types.take(windows)
        labelled = None if self.labelled is None else self.labelled[rows]
        return replace(
            self,
            ids=self.ids.take(windows),
            types=types,
            labels=self.labels[rows],
            labelled=labelled,
            counts=self.counts[rows],
            shares=self.shares[windows],
        )

    def followed_by(self, others: Sequence[EncodedTokens]) -> Self:
        """The rows and, behind them, those of others."""
        pieces = [one for one in (self, *others) if isinstance(one, EncodedPieces)]
        counts, shares = ([getattr(one, name) for one in pieces] for name in ("counts", "shares"))
        whole = super().followed_by(others)
        return replace(whole, counts=np.concatenate(counts), shares=np.concatenate(shares))

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

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The windows of the rows as one padded batch."""
        return super().feeds(self._windows(rows))

    def _windows(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places of the windows of some rows."""
        counts = self.counts[rows]
        first = np.repeat(self._starts[rows] - (np.cumsum(counts) - counts), counts)
        return np.asarray(first + np.arange(counts.sum()), dtype=np.intp)
