"""Rows from which tokens are hidden: for metrics always the same ones, in training others in every epoch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.cloze import (
    MOST_LOGITS,
    ClozeRule,
    choose,
    chosen_for_metrics,
    hide,
    most_chosen,
    reduced,
    table_of,
)
from maskpack.tasks.batches import EncodedTokens
from maskpack.tasks.encoded import Feeds
from maskpack.tasks.token_rows import TokenRows


@dataclass(frozen=True, eq=False)
class EncodedCloze(EncodedTokens):
    """Blocks of texts, of each of which some tokens are hidden; batches have `labels` beside the inputs.

    Attributes:
        rule: which tokens may be hidden.
        sources: number of the text that each block is of.
        draw: seed and epoch of the hidden tokens; None: those of `labels`, on which metrics are measured.
    """

    rule: ClozeRule = field(default_factory=lambda: ClozeRule(0, 1, ()))
    sources: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    draw: tuple[int, int] | None = None
    redrawn: ClassVar[bool] = True

    @classmethod
    def of(
        cls,
        ids: TokenRows,
        types: TokenRows | None,
        *,
        pad: int,
        rule: ClozeRule,
        sources: NDArray[np.intp],
    ) -> EncodedCloze:
        """Blocks with the tokens on which metrics are measured."""
        width = max(1, most_chosen(int(ids.lengths.max(initial=0))))
        labels = table_of((chosen_for_metrics(row, rule) for row in ids), width)
        return cls(ids, types, labels, pad, per_token=True, rule=rule, sources=sources)

    def over(self, ids: TokenRows, types: TokenRows | None) -> EncodedCloze:
        """The same rule over other tokens of the same texts."""
        return self.of(ids, types, pad=self.pad, rule=self.rule, sources=self.sources)

    @property
    def together(self) -> NDArray[np.intp]:
        """The text of each block."""
        return np.unique(self.sources, return_inverse=True)[1]

    @property
    def most_rows(self) -> int:
        """Rows whose logits of all tokens, which a graph gives, are `MOST_LOGITS` at most."""
        return max(1, MOST_LOGITS // (self.widest * self.rule.vocabulary))

    def of_epoch(self, seed: int, epoch: int) -> EncodedCloze:
        """The same blocks; which tokens are hidden follows from seed, epoch and the number of the block."""
        return replace(self, draw=(seed, epoch))

    def row_of(self, place: int) -> int:
        """Number of the split's row that a block is of."""
        return int(self.sources[place])

    def take(self, rows: NDArray[np.intp]) -> EncodedCloze:
        """Some of the blocks, in the order given."""
        taken = super().take(rows)
        assert isinstance(taken, EncodedCloze)
        return replace(taken, sources=self.sources[rows])

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """What metrics read of a batch's logits, `(b, k, 3)`: logits of a whole split are held nowhere."""
        width = int(self.ids.lengths[rows].max())
        labels = hide(np.zeros((len(rows), width), dtype=np.int64), self.labels[rows])
        return reduced(logits, labels, self.labels.shape[1])

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The blocks as one padded batch with hidden tokens, and `labels (b, s)`: the tokens that are right there."""
        batch = super().feeds(rows)
        batch["labels"] = hide(batch["input_ids"], self._chosen(rows))
        return batch

    def _chosen(self, rows: NDArray[np.intp]) -> NDArray[np.int32]:
        """The hidden tokens of some blocks."""
        if self.draw is None:
            return np.asarray(self.labels[rows])
        own = (
            choose(self.ids[row], self.rule, np.random.default_rng([*self.draw, int(row)]))
            for row in rows
        )
        return table_of(own, self.labels.shape[1])
