"""Numbers that follow from a seed and a name, in integer arithmetic: the same bits on every machine. DRAWN.md says how.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), counter by counter, as numpy's
`Philox` computes it. Its key is the seed and the parameter's name, so that no parameter's numbers depend on another's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import CODE_BITS, ZERO_FREE_BITS, code_limit, row_bytes, unpack_codes

FEATURE = "drawn"
"""Weights that a reader makes again, as `requires` of a manifest names them."""

LARGEST_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON holds."""

FLOAT_BITS = 8
"""Width of the codes that drawn float16 parameters are multiples of."""

_PIECE = 1 << 18  # words that are drawn together


def parameter_key(name: str) -> int:
    """The second word of a parameter's key: the first 8 bytes of the SHA-256 of its name in UTF-8, lowest first.

    >>> hex(parameter_key("l"))
    '0x90ca09e6c086acac'
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def words_of(seed: int, name: str, count: int) -> Iterator[NDArray[np.uint64]]:
    """The first `count` words of 64 bits of a parameter, in pieces.

    >>> [f"{word:016x}" for piece in words_of(7, "l", 2) for word in piece.tolist()]
    ['acd68c27ca278200', '213666da46a994bd']
    """
    key = np.array([seed, parameter_key(name)], dtype=np.uint64)
    stream = np.random.Philox(counter=0, key=key)
    for start in range(0, count, _PIECE):
        yield stream.random_raw(min(_PIECE, count - start))


def drawn_codes(seed: int, name: str, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
    """Codes of a parameter, all of them as likely, none of them 0.

    Of 3 bits or fewer they are zero-free, and their fields are the bits of the words. Of 4 and 8 bits each takes 16 bits `h`: the
    magnitude is `1 + ((h >> 1) * limit >> 15)`, and the sign that of a set lowest bit.

    Args:
        seed: from 0 to `LARGEST_SEED`.
        name: of the parameter.
        shape: of the codes.
        bits: 1, 2, 3, 4 or 8.

    >>> drawn_codes(7, "l", (1, 12), 1).tolist(), drawn_codes(7, "l", (2, 2), 8).tolist()
    ([[-1, -1, -1, -1, -1, -1, -1, -1, -1, 1, -1, -1]], [[65, -101], [-70, 86]])
    """
    assert 0 <= seed <= LARGEST_SEED, seed
    assert bits in {*CODE_BITS, *ZERO_FREE_BITS}, bits
    count = math.prod(shape)
    draw = _zero_free if bits in ZERO_FREE_BITS else _signed
    return draw(seed, name, count, bits).reshape(shape)


def _zero_free(seed: int, name: str, count: int, bits: int) -> NDArray[np.int8]:
    size = row_bytes(count, bits)
    words = np.concatenate(list(words_of(seed, name, -(-size // 8))))
    row = words.astype("<u8").view(np.uint8)[:size]
    if left := count * bits % 8:  # what is left of the last byte belongs to no code
        row[-1] &= (1 << left) - 1
    codes: NDArray[np.int8] = unpack_codes(row[None, :], bits, count, zero_free=True)[0]
    return codes


def _signed(seed: int, name: str, count: int, bits: int) -> NDArray[np.int8]:
    limit, codes, start = code_limit(bits), np.empty(count, dtype=np.int8), 0
    for words in words_of(seed, name, -(-count // 4)):
        halves = words.astype("<u8").view("<u2")[: count - start].astype(np.uint32)
        size = (1 + ((halves >> 1) * np.uint32(limit) >> 15)).astype(np.int8)
        codes[start : start + len(size)] = np.where(halves & 1, -size, size)
        start += len(size)
    return codes


def drawn_floats(seed: int, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float16]:
    """A float16 parameter: codes of 8 bits times a scale, in float32, rounded once, ties to even."""
    codes = drawn_codes(seed, name, shape, FLOAT_BITS)
    return (codes.astype(np.float32) * np.float32(scale)).astype(np.float16)


def mean_square(bits: int) -> int:
    """The mean of the squares of drawn codes of a width, a whole number.

    >>> [mean_square(bits) for bits in (1, 2, 3, 4, 8)]
    [1, 5, 21, 20, 5440]
    """
    if bits in ZERO_FREE_BITS:
        return int((4**bits - 1) // 3)
    limit = code_limit(bits)
    return (limit + 1) * (2 * limit + 1) // 6
