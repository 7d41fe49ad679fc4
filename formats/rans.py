"""Entropy coding of bits whose chances both sides know: range ANS, many lanes at once.

Duda 2013 (arXiv 1311.2540), with 32-bit states and 16-bit words; lanes interleaved over one stream as
in Giesen 2014 (arXiv 1402.3392), so that numpy does a whole step of lanes at a time. A step takes one
bit a lane:

    read    q = x % 2**16;  the bit is 1 if q < f, with chance f / 2**16
            x = f * (x >> 16) + q                   for a 1
            x = (2**16 - f) * (x >> 16) + q - f     for a 0
            x = x << 16 | next word                 if x < 2**16

Writing runs the same backwards, so a writer starts with the last bit. Every lane starts (for a
reader: ends) at 2**16; whoever ends elsewhere has read something that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError

_ONE = 1 << 16
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
        share = np.where(bits, wide, _ONE - wide).astype(np.uint64)
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
            x[:] = np.where(bits, f * high + q, (_ONE - f) * high + q - f)
            empty = np.flatnonzero(x < _START)
            words = self._words[self._next : self._next + len(empty)]
            if len(words) < len(empty):
                raise ArtifactError("coded bits end too early")
            x[empty] = x[empty] << np.uint64(16) | words
            self._next += len(empty)
        return found

    def finish(self) -> None:
        """Raise ArtifactError unless all was read and every lane is where writing began."""
        if self._next != len(self._words) or (self._states != _START).any():
            raise ArtifactError("coded bits do not end where they should: damaged, or of others")
