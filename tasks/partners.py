"""Rows that are learned beside another row of their label: texts, each with another text of its label, another one in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from maskpack.tasks.batches import EncodedGroups, EncodedTokens, Feeds


@dataclass(frozen=True, eq=False)
class Partners:
    """For each row those of its label, in a random order that is the same each time.

    Attributes:
        order: int64 `(rows)`, the rows, those of one label one behind the other.
        places: int64 `(rows)`, the place of each row in `order`.
        firsts: int64 `(rows)`, the place in `order` at which the label of each row begins.
        counts: int64 `(rows)`, rows of the label of each row.
    """

    order: NDArray[np.int64]
    places: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[Any]) -> Partners:
        """The partners among rows with these labels, which are numbers `(rows)`."""
        order = np.random.default_rng(0).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        _, firsts, numbers, counts = np.unique(
            labels[order], return_index=True, return_inverse=True, return_counts=True
        )
        own = numbers.reshape(-1)[places]
        return cls(order, places, firsts[own], counts[own])

    def at(self, rows: NDArray[np.intp], turn: int) -> NDArray[np.intp]:
        """The partner of each of some rows in a turn; a row alone with its label is its own.

        In a turn every row is the partner of one row. A row has met all others of its label before it meets one again.

        >>> partners = Partners.of(np.array([3, 5, 3, 7, 3]))
        >>> [partners.at(np.arange(5), turn).tolist() for turn in range(3)]
        [[2, 1, 4, 3, 0], [4, 1, 0, 3, 2], [2, 1, 4, 3, 0]]
        """
        counts = self.counts[rows]
        steps = 1 + turn % np.maximum(counts - 1, 1)
        firsts = self.firsts[rows]
        places = firsts + (self.places[rows] - firsts + steps) % counts
        return np.asarray(self.order[places], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class EncodedByLabel(EncodedGroups):
    """Texts alone, as metrics read them; in an epoch each stands before its partner, whose tokens are those of another row.

    `labels` are numbers of classes. Rows whose label does not count have partners of their own: none of the labelled ones.

    Attributes:
        partners: of the rows; None: they follow from the labels.
        turn: of the partners, which follows from seed and epoch; None: texts stand alone.
    """

    partners: Partners | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partners is None:
            counts = True if self.labelled is None else self.labelled
            found = Partners.of(2 * self.labels.astype(np.int64) + counts)
            object.__setattr__(self, "partners", found)

    def of_epoch(self, seed: int, epoch: int) -> Self:
        """The rows with the partners of an epoch: other ones than in the epoch before, as far as there are others."""
        first = int(np.random.default_rng(seed).integers(1 << 31))
        return replace(self, turn=first + epoch)

    def read_with(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Each row and its partner."""
        if self.turn is None:
            return rows
        assert self.partners is not None
        return np.stack([rows, self.partners.at(rows, self.turn)], axis=1).reshape(-1)

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The texts of the rows and of their partners as one padded batch, `(b, s)` or `(2 b, s)`."""
        return super().feeds(self.read_with(rows))

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given; partners are among them."""
        return replace(super().take(rows), partners=None)

    def followed_by(self, others: Sequence[EncodedTokens]) -> Self:
        """The rows and, behind them, those of others; rows of all parts may be partners."""
        return replace(super().followed_by(others), partners=None)
