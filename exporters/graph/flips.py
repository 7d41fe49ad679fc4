"""A task's masks as the bytes its graph holds, pure: removed positions, or one bit a weight.

All matrices of a graph lie one after the other, flat, in the order the graph names them. *Flips* are a
byte for each removed weight, and one more wherever the next is far: a step of 1 to 255 goes on so many
positions and removes the weight there, a step of 0 goes on 255 and removes nothing. *Bits* are an
eighth of a byte for each weight; every matrix starts on a byte. `masks.py` has the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FAR = 255

Removed = Mapping[str, NDArray[np.bool_]]
"""Name of a matrix -> flat positions in the graph's order, true where a weight is removed."""


def encode_flips(removed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Steps to the positions that are True, in order. Inverse of `decode_flips`.

    >>> encode_flips(np.array([False, True, True, False])).tolist()
    [2, 1]
    >>> far = np.zeros(600, dtype=bool); far[[254, 599]] = True
    >>> encode_flips(far).tolist()
    [255, 0, 90]
    """
    gaps = np.diff(np.flatnonzero(removed.ravel()), prepend=-1)
    jumps = (gaps - 1) // FAR
    steps = np.zeros(len(gaps) + int(jumps.sum()), dtype=np.uint8)
    steps[np.cumsum(jumps + 1) - 1] = gaps - FAR * jumps
    return steps


def decode_flips(steps: NDArray[np.uint8], length: int) -> NDArray[np.bool_]:
    """True where a weight is removed, `(length)`; inverse of `encode_flips`.

    >>> decode_flips(np.array([2, 1], dtype=np.uint8), 4).tolist()
    [False, True, True, False]
    """
    removed = np.zeros(length, dtype=np.bool_)
    removed[_ends(steps)[steps != 0]] = True
    return removed


def stack_flips(removed: Removed) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Steps through all matrices as one, and how many of them end in each matrix.

    >>> steps, counts = stack_flips({"a": np.array([True, False]), "b": np.array([True, True])})
    >>> steps.tolist(), counts.tolist()
    ([1, 2, 1], [1, 2])
    """
    steps = encode_flips(np.concatenate(list(removed.values())))
    borders = np.cumsum([gone.size for gone in removed.values()])
    before = np.searchsorted(_ends(steps), borders)
    return steps, np.diff(before, prepend=0).astype(np.int64)


def _ends(steps: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Position that each step ends at."""
    return np.cumsum(np.where(steps == 0, FAR, steps.astype(np.int64))) - 1


def unstack_flips(
    steps: NDArray[np.uint8], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.bool_]]:
    """Inverse of `stack_flips`, with the weights of each matrix."""
    whole = decode_flips(steps, sum(sizes.values()))
    borders = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, np.split(whole, borders), strict=True))


def stack_bits(removed: Removed) -> NDArray[np.uint8]:
    """A bit a weight, 1 for kept; least significant first, every matrix on a byte of its own."""
    return np.concatenate([np.packbits(~gone, bitorder="little") for gone in removed.values()])


def unstack_bits(
    packed: NDArray[np.uint8], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.bool_]]:
    """Inverse of `stack_bits`, with the weights of each matrix."""
    borders = np.cumsum([byte_count(size) for size in sizes.values()])[:-1]
    return {
        name: ~np.unpackbits(part, count=size, bitorder="little").astype(np.bool_)
        for (name, size), part in zip(sizes.items(), np.split(packed, borders), strict=True)
    }


def byte_count(weights: int) -> int:
    """Bytes of a bit a weight."""
    return -(-weights // 8)
