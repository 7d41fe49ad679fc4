"""The bits of masks of which two of every four neighbours in a row stay, each under an adaptive model.

Such masks (2:4, Mishra et al. 2021, arXiv 2104.08378) say little beside their pattern: of the six ways to remove two of four weights
one costs log2(6) bits, .646 bits a weight, and less where weights have a code of 0. Those are removed first, and need no bit: of a group
with three live weights one goes, of one with two or fewer none.

The bits of a group are asked for in the order of its weights' sizes, smallest first, until what is left all stays or all goes.
So writer and reader know before each bit how many weights are left and how many of them go. The model predicts a bit from

* the *state*: weights left, and how many of them go (and whether the group has three or four);
* the *gap*: how much larger the weight is that would stay if the smallest went, in eighths of an octave;
* the *lean*: whether this weight's column lost more than that one's so far.

Counts, blocks and the coder are as in `entropy.py`. A mask by magnitude is then nearly free, one that learned pays for what it changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.entropy import ONE
from maskpack.formats.tensors import QuantTensor

GROUP, KEPT = 4, 2
_STATES, _GAPS, _LEANS = 6, 16, 5
_OCTAVE = 20  # bits of a float32 below an eighth of an octave
_LEAN_STEPS = np.array([5, 7, 10, 13])  # eighths, of one column's losses over another's
_BLOCK = 2048  # groups of a block, at least
_BLOCKS = 64  # blocks of a matrix, about at most
_FADE = 2  # bits by which counts shrink from one matrix to the next
_BELIEF = 20  # prior, in positions, of state and gap alone
_FIRST = 8  # of each class, in 16ths of a position
# number of a state, by weights of the group, left, and to go
_STATE = {(4, 4, 2): 0, (4, 3, 2): 1, (4, 3, 1): 2, (4, 2, 1): 3, (3, 3, 1): 4, (3, 2, 1): 5}


def has_groups(removed: NDArray[np.bool_], tensor: QuantTensor) -> bool:
    """Whether a mask is one of these: of every four neighbours as many are removed as the zeros among their codes leave.

    Args:
        removed: `(o, i)`, of which positions with a code of 0 do not count.
        tensor: the backbone's weights, `(o, i)`.

    >>> codes = np.array([[1, 2, 3, 4, 0, 5, 6, 7]], dtype=np.int8)
    >>> tensor = QuantTensor(codes, np.ones((1, 1), dtype=np.float16), 4, 8)
    >>> has_groups(np.array([[True, True, False, False, False, True, False, False]]), tensor)
    True
    >>> has_groups(np.array([[True, True, True, False, False, True, False, False]]), tensor)
    False
    """
    if removed.shape[1] % GROUP:
        return False
    live = (tensor.codes != 0).reshape(-1, GROUP)
    gone = removed.reshape(-1, GROUP) & live
    return bool((gone.sum(axis=1) == _to_go(live.sum(axis=1))).all())


def _to_go(live: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of so many live weights of a group are removed."""
    return np.maximum(live - KEPT, 0)


class GroupCounts:
    """How often each class was removed and kept, over all matrices so far."""

    def __init__(self) -> None:
        self._removed = np.full((_STATES, _GAPS, _LEANS), _FIRST, dtype=np.int64)
        self._kept = self._removed.copy()

    def fade(self) -> None:
        """Shrink the counts before the next matrix."""
        self._removed = (self._removed >> _FADE) + _FIRST
        self._kept = (self._kept >> _FADE) + _FIRST

    def table(self) -> NDArray[np.int64]:
        """Chance of a removal for each class, `(states * gaps * leans)`."""
        seen = self._removed + self._kept
        alone = self._removed.sum(2, keepdims=True) * ONE // seen.sum(2, keepdims=True)
        mixed = (self._removed * ONE + 16 * _BELIEF * alone) // (seen + 16 * _BELIEF)
        table: NDArray[np.int64] = np.clip(mixed, 1, ONE - 1).ravel()
        return table

    def add(self, classes: NDArray[np.int64], removed: NDArray[np.bool_]) -> None:
        """Count bits `(n)` of classes `(n)`."""
        size = _STATES * _GAPS * _LEANS
        gone = np.bincount(classes[removed], minlength=size).reshape(self._removed.shape)
        seen = np.bincount(classes, minlength=size).reshape(self._removed.shape)
        self._removed += 16 * gone
        self._kept += 16 * (seen - gone)


@dataclass(frozen=True, eq=False)
class Turn:
    """Bits that are read together: the next one of each group of a band of rows that has one.

    Attributes:
        rows: the band.
        groups: their numbers in the band, row by row, int64 `(n)`.
        places: of the weight in its group, `(n)`.
        classes: `(n)`.
        frequencies: their chances of removal, in `1 ... ONE - 1`, `(n)`.
    """

    rows: slice
    groups: NDArray[np.int64]
    places: NDArray[np.int64]
    classes: NDArray[np.int64]
    frequencies: NDArray[np.int64]

    def bits_of(self, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The bits `(n)` of a mask whose removed positions are `(o, i)`."""
        bits: NDArray[np.bool_] = removed[self.rows].reshape(-1, GROUP)[self.groups, self.places]
        return bits


class GroupModel:
    """Predicts one matrix turn by turn; `learn` must have a turn's bits before the next turn is taken.

    Args:
        tensor: the backbone's weights, `(o, i)`, `i` a multiple of four.
        counts: of all matrices before it; this matrix is added.

    >>> codes = np.array([[3, -1, 2, 5]], dtype=np.int8)
    >>> model = GroupModel(QuantTensor(codes, np.ones((1, 1), np.float16), 4, 4), GroupCounts())
    >>> for turn in model.turns():  # -1 goes, 2 stays, 3 goes: then all is known
    ...     bit = np.array([turn.places[0] in (0, 1)])
    ...     model.learn(turn, bit)
    ...     print(int(codes[0, turn.places[0]]), int(turn.classes[0]) // 80, int(bit[0]))
    -1 0 1
    2 2 0
    3 3 1
    >>> model.removed().tolist()
    [[True, True, False, False]]
    """

    def __init__(self, tensor: QuantTensor, counts: GroupCounts) -> None:
        self._counts = counts
        rows, width = tensor.shape
        words = np.abs(tensor.dequantize()).view(np.uint32).reshape(rows, -1, GROUP)
        self._live = (tensor.codes != 0).reshape(words.shape)
        # weights without a code stand last, and are never asked for
        self._sizes = np.where(self._live, words, np.uint32(0xFFFFFFFF))
        self._removed = np.zeros(self._live.shape, dtype=np.bool_)
        self._lost = np.zeros(self._live.shape[1:], dtype=np.int64)
        across = width // GROUP
        self._high = max(-(-_BLOCK // across), -(-rows // _BLOCKS))
        counts.fade()

    def turns(self) -> Iterator[Turn]:
        """All turns: of each band of rows up to three."""
        for top in range(0, len(self._live), self._high):
            self._rows = slice(top, top + self._high)
            sizes = self._sizes[self._rows].reshape(-1, GROUP).astype(np.int64)
            self._order = sizes.argsort(axis=1, kind="stable")
            self._ranked = np.take_along_axis(sizes, self._order, axis=1)
            self._had = self._live[self._rows].sum(axis=2).ravel()
            self._left, self._to_go = self._had.copy(), _to_go(self._had)
            self._gone = np.zeros(sizes.shape, dtype=np.bool_)
            for _ in range(GROUP - 1):
                if (turn := self._turn()) is not None:
                    yield turn
            self._finish_band()

    def learn(self, turn: Turn, removed: NDArray[np.bool_]) -> None:
        """Take the bits `(n)` of a turn."""
        self._counts.add(turn.classes, removed)
        self._gone[turn.groups, turn.places] = removed
        self._left[turn.groups] -= 1
        self._to_go[turn.groups] -= removed

    def removed(self) -> NDArray[np.bool_]:
        """The mask's removed positions `(o, i)`, after the last turn."""
        return self._removed.reshape(len(self._removed), -1)

    def _turn(self) -> Turn | None:
        """The next bit of each group of the band that is not known yet; None: there is none."""
        groups = np.flatnonzero((self._to_go > 0) & (self._to_go < self._left))
        if not len(groups):
            return None
        had, left, to_go = (each[groups] for each in (self._had, self._left, self._to_go))
        first = had - left
        own, other = (self._order[groups, rank] for rank in (first, first + to_go))
        apart = self._ranked[groups, first + to_go] - self._ranked[groups, first]
        gaps = np.where(apart == 0, 0, 1 + np.minimum(apart >> _OCTAVE, _GAPS - 2))
        numbers = groups % self._lost.shape[0]
        lost = [self._lost[numbers, place] + 2 for place in (own, other)]
        leans = np.searchsorted(_LEAN_STEPS, 8 * lost[0] // lost[1], side="right")
        classes = (_states(had, left, to_go) * _GAPS + gaps) * _LEANS + leans
        return Turn(self._rows, groups, own, classes, self._counts.table()[classes])

    def _finish_band(self) -> None:
        """Remove what is left of groups in which all of it goes, and count what columns lost."""
        ranks = np.arange(GROUP)
        left = (ranks >= (self._had - self._left)[:, None]) & (ranks < self._had[:, None])
        all_go = left & (self._to_go == self._left)[:, None] & (self._to_go > 0)[:, None]
        rows, places = np.nonzero(all_go)
        self._gone[rows, self._order[rows, places]] = True
        band = self._gone.reshape(-1, *self._lost.shape)
        self._removed[self._rows] = band
        self._lost += band.sum(axis=0)


def _states(
    had: NDArray[np.int64], left: NDArray[np.int64], to_go: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Numbers of the states of groups `(n)`."""
    table = np.zeros((GROUP + 1, GROUP + 1, KEPT + 1), dtype=np.int64)
    for place, number in _STATE.items():
        table[place] = number
    numbers: NDArray[np.int64] = table[had, left, to_go]
    return numbers
