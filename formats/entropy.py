"""Entropy coding of mask bits: an adaptive model of their probabilities, and range ANS with many lanes at once.

The coder is that of Duda 2013 (arXiv 1311.2540), with 32-bit states and 16-bit words. Lanes are interleaved
over one stream as in Giesen 2014 (arXiv 1402.3392), so that numpy does a whole step of lanes at a time. A
step takes one bit a lane:

    read    q = x % 2**16;  the bit is 1 if q < f, with chance f / 2**16
            x = f * (x >> 16) + q                   for a 1
            x = (2**16 - f) * (x >> 16) + q - f     for a 0
            x = x << 16 | next word                 if x < 2**16

Writing runs the same backwards, so a writer starts with the last bit. Every lane starts (for a
reader: ends) at 2**16; a reader whose lanes end elsewhere has read a damaged stream.

The model predicts a mask bit from what writer and reader both know before it, in whole numbers. A weight is removed
more often where it is small, and in rows and columns that have lost weights before. So a position has two
classes,

* its *size*: the magnitude of its weight, four classes an octave around the matrix's median,
* its *place*: how often its row and its column were removed so far against the whole matrix, the
  product of both in half octaves,

and each pair of classes counts its removed and kept positions. A pair with few positions is predicted from its size and
its place separately. The counts are not stored: writer and reader count the same bits in the same order. There is
no floating-point arithmetic here except the product that makes a weight (SPEC.md section 4), which
is one correctly rounded operation; so every machine computes the same classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensors import QuantTensor

ONE = 1 << 16
"""Frequencies are shares of this."""

_START = 1 << 16  # states live in _START ... 2**32 - 1

Bits = tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]


def write_bits(blocks: Sequence[Bits], lanes: int) -> NDArray[np.uint16]:
    """Code blocks of bits; inverse of `BitReader`.

    Args:
        blocks: frequencies of a 1, in `1 ... 2**16 - 1`, and bits, `(n)` each.
        lanes: states that run side by side, 1 or more.

    Returns:
        The final states, low half first, then the words in the order in which they are read.

    >>> bits = np.array([False, True, False, False])
    >>> chances = np.array([9000, 50000, 9000, 9000])
    >>> [hex(word) for word in write_bits([(chances, bits)], 1)]
    ['0x6f78', '0x2']
    """
    states = np.full(lanes, _START, dtype=np.uint64)
    words: list[NDArray[np.uint16]] = []
    for frequencies, bits in reversed(blocks):
        wide = frequencies.astype(np.int64)
        share = np.where(bits, wide, ONE - wide).astype(np.uint64)
        start = np.where(bits, 0, wide).astype(np.uint64)
        for first in reversed(range(0, len(bits), lanes)):
            step = slice(first, first + lanes)
            x, f = states[: len(share[step])], share[step]
            full = x >= f << np.uint64(16)
            words.append((x[full] & np.uint64(0xFFFF)).astype(np.uint16))
            x[full] >>= np.uint64(16)
            whole, rest = np.divmod(x, f)
            x[:] = (whole << np.uint64(16)) + rest + start[step]
    ends = states.astype("<u4").view("<u2").astype(np.uint16)
    return np.concatenate([ends, *reversed(words)])


class BitReader:
    """Reads the bits of `write_bits`, given the same frequencies in the same blocks.

    Args:
        words: uint16 `(n)`.
        lanes: as written.

    Raises:
        ArtifactError: too few words for the lanes.
    """

    def __init__(self, words: NDArray[np.uint16], lanes: int) -> None:
        if len(words) < 2 * lanes:
            raise ArtifactError(f"{len(words)} words of coded bits cannot hold {lanes} lanes")
        halves = words[: 2 * lanes].astype(np.uint64).reshape(lanes, 2)
        self._states = halves[:, 0] | halves[:, 1] << np.uint64(16)
        self._words = words[2 * lanes :].astype(np.uint64)
        self._next = 0

    def take(self, frequencies: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The next block of bits `(n)`.

        Raises:
            ArtifactError: the words end first.
        """
        lanes, found = len(self._states), np.empty(len(frequencies), dtype=np.bool_)
        chances = frequencies.astype(np.uint64)
        for first in range(0, len(found), lanes):
            step = slice(first, first + lanes)
            f = chances[step]
            x = self._states[: len(f)]
            q = x & np.uint64(0xFFFF)
            bits = np.less(q, f, out=found[step])
            high = x >> np.uint64(16)
            x[:] = np.where(bits, f * high + q, (ONE - f) * high + q - f)
            empty = np.flatnonzero(x < _START)
            words = self._words[self._next : self._next + len(empty)]
            if len(words) < len(empty):
                raise ArtifactError("coded bits end too early")
            x[empty] = x[empty] << np.uint64(16) | words
            self._next += len(empty)
        return found

    def finish(self) -> None:
        """Raise ArtifactError unless all words were read and every lane ends at its initial state."""
        if self._next != len(self._words) or (self._states != _START).any():
            raise ArtifactError("coded bits do not end where they should: damaged, or of others")


_SIZES, _PLACES = 32, 16
_MEDIAN = 20  # size class of the median
_BLOCK = 8192  # positions of a block, at least
_BLOCKS = 64  # blocks of a matrix, about at most
_STRIPS = 4  # blocks side by side: a row's history comes from those to the left
_FADE = 2  # bits by which counts shrink from one matrix to the next
_BELIEF = 2  # prior, in removed positions, that a row or column is like the others
_LEAN = 60  # prior, in positions, of the classes alone
# half octaves around 1: 64 * 2**(k / 2) for k = -7.5 ... 6.5
_STEPS = np.array([5, 7, 10, 13, 19, 27, 38, 54, 76, 108, 152, 215, 304, 431, 609])


@dataclass(frozen=True, eq=False)
class Block:
    """Positions that are read together.

    Attributes:
        rows, columns: where in the matrix.
        live: bool `(r, c)`: positions whose code is not 0; the others have no bit.
        pairs: int64 `(n)`: classes of the live positions, in row-major order.
        frequencies: int64 `(n)`: their chances of removal, in `1 ... ONE - 1`.
    """

    rows: slice
    columns: slice
    live: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    frequencies: NDArray[np.int64]


class Counts:
    """How often each pair of classes was removed and kept, over all matrices so far."""

    def __init__(self) -> None:
        self._removed = np.full((_SIZES, _PLACES), 1, dtype=np.int64)  # in 16ths of a position
        self._kept = np.full((_SIZES, _PLACES), 63, dtype=np.int64)

    def fade(self) -> None:
        """Shrink the counts before the next matrix."""
        self._removed = (self._removed >> _FADE) + 1
        self._kept = (self._kept >> _FADE) + 15

    def table(self) -> NDArray[np.int64]:
        """Chance of a removal for each pair, `(sizes * places)`."""
        seen = self._removed + self._kept
        size = self._removed.sum(1, keepdims=True) * ONE // seen.sum(1, keepdims=True)
        place = self._removed.sum(0, keepdims=True) * ONE // seen.sum(0, keepdims=True)
        overall = np.maximum(1, self._removed.sum() * ONE // seen.sum())
        alone = np.clip(size * place // overall, 1, ONE - 1)
        mixed = (self._removed * ONE + 16 * _LEAN * alone) // (seen + 16 * _LEAN)
        table: NDArray[np.int64] = np.clip(mixed, 1, ONE - 1).ravel()
        return table

    def add(self, pairs: NDArray[np.int64], removed: NDArray[np.bool_]) -> None:
        """Count bits `(n)` at pairs `(n)`."""
        shape = (_SIZES, _PLACES)
        gone = np.bincount(pairs[removed], minlength=_SIZES * _PLACES).reshape(shape)
        seen = np.bincount(pairs, minlength=_SIZES * _PLACES).reshape(shape)
        self._removed += 16 * gone
        self._kept += 16 * (seen - gone)


class MatrixModel:
    """Predicts one matrix block by block; `learn` must have a block's bits before the next block is taken.

    Args:
        tensor: the backbone's weights.
        counts: of all matrices before it; this matrix is added.
    """

    def __init__(self, tensor: QuantTensor, counts: Counts) -> None:
        self._counts = counts
        self._live = tensor.codes != 0
        self._sizes = _size_classes(tensor, self._live)
        rows, width = tensor.shape
        self._wide = -(-width // _STRIPS)
        self._high = max(-(-_BLOCK // self._wide), -(-rows * _STRIPS // _BLOCKS))
        self._lost_rows = np.zeros(rows, dtype=np.int64)
        self._lost_columns = np.zeros(width, dtype=np.int64)
        counts.fade()

    def blocks(self) -> Iterator[Block]:
        """All blocks, from left to right, then down."""
        rows, width = self._live.shape
        for top in range(0, rows, self._high):
            for left in range(0, width, self._wide):
                down, across = slice(top, top + self._high), slice(left, left + self._wide)
                seen = top * width + left * min(self._high, rows - top)
                live = self._live[down, across]
                pairs = (self._sizes[down, across] + self._places(down, across, seen))[live]
                yield Block(down, across, live, pairs, self._counts.table()[pairs])

    def learn(self, block: Block, removed: NDArray[np.bool_]) -> None:
        """Count which of a block's live positions `(n)` were removed."""
        self._counts.add(block.pairs, removed)
        gone = np.zeros(block.live.shape, dtype=np.int64)
        gone[block.live] = removed
        self._lost_rows[block.rows] += gone.sum(axis=1)
        self._lost_columns[block.columns] += gone.sum(axis=0)

    def _places(self, down: slice, across: slice, seen: int) -> NDArray[np.int64]:
        """Place class of every position of a block, after `seen` positions of the matrix."""
        total = int(self._lost_rows.sum())
        rows = _against_all(self._lost_rows[down], across.start, total, seen)
        columns = _against_all(self._lost_columns[across], down.start, total, seen)
        ratios = (rows[:, None] * columns[None, :]) >> 6
        classes: NDArray[np.int64] = np.searchsorted(_STEPS, ratios, side="right")
        return classes


def _against_all(lost: NDArray[np.int64], length: int, total: int, seen: int) -> NDArray[np.int64]:
    """Losses of lines over what is usual for their length, in 64ths.

    Args:
        lost: by line.
        length: positions of each line so far.
        total: losses of the matrix so far.
        seen: its positions so far.

    >>> _against_all(np.array([0, 4, 16]), 100, 40, 1000)  # 4 would be usual
    array([ 21,  64, 192])
    """
    if total == 0 or length == 0:
        return np.full(len(lost), 64, dtype=np.int64)
    return 64 * (lost + _BELIEF) * seen // (length * total + _BELIEF * seen)


def _size_classes(tensor: QuantTensor, live: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Size class of every weight, times the number of places."""
    octaves = np.abs(tensor.dequantize()).view(np.uint32) >> 21  # exponent and two bits
    counts = np.cumsum(np.bincount(octaves[live], minlength=1))
    median = int(np.searchsorted(counts, (int(counts[-1]) + 1) // 2))
    classes = np.clip(octaves.astype(np.int64) - median + _MEDIAN, 0, _SIZES - 1)
    sizes: NDArray[np.int64] = classes * _PLACES
    return sizes
