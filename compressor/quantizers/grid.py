"""What every symmetric quantiser shares: groups of a row, storable scales, rounding to codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import QuantTensor
from maskpack.formats.bits import code_limit

SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Levels:
    """The values that a code may have.

    Attributes:
        bits: width of a code.
        zero_free: the odd numbers up to the limit instead of all whole ones. A mask supplies the 0,
            so at 2 bits and below none of the few levels is spent on it: 2 bits and a mask make 5
            levels, 1 bit and a mask make 3.
    """

    bits: int
    zero_free: bool = False

    @property
    def limit(self) -> int:
        """Largest magnitude: 127, 7, 1 for 8, 4, 2 bits; 3, 1 for 2, 1 zero-free bits."""
        return code_limit(self.bits, zero_free=self.zero_free)

    def round(self, ratio: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest level of each weight over scale, of any shape; nothing is spent on -0."""
        level = 2 * np.floor(ratio / 2) + 1 if self.zero_free else np.rint(ratio)
        return np.asarray(np.clip(level, -self.limit, self.limit), dtype=np.float32)


def to_groups(weight: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """Split rows `(o, i)` into `(o, g, group)`; a short last group is filled with zeros."""
    rows, width = weight.shape
    groups = -(-width // group)
    padded = np.zeros((rows, groups * group), dtype=np.float32)
    padded[:, :width] = weight
    return padded.reshape(rows, groups, group)


def from_groups(blocks: NDArray[np.int8], width: int) -> NDArray[np.int8]:
    """Join `(o, g, group)` to rows `(o, width)`; inverse of `to_groups`."""
    return np.ascontiguousarray(blocks.reshape(blocks.shape[0], -1)[:, :width])


def storable_scales(scales: NDArray[np.float32]) -> NDArray[np.floating]:
    """Round scales to float16, or keep float32 where float16 would lose digits or overflow.

    Codes are chosen *after* this rounding, so that they fit the scale a reader will see.
    """
    positive = scales[scales > 0]
    fits = positive.size == 0 or (
        float(positive.min()) >= SMALLEST_NORMAL and float(positive.max()) < 65504.0
    )
    return scales.astype(np.float16) if fits else scales.astype(np.float32)


def round_to_codes(
    blocks: NDArray[np.float32], scales: NDArray[np.floating], levels: Levels
) -> NDArray[np.int8]:
    """Nearest code of each weight: `blocks (o, g, group)`, `scales (o, g)`.

    A zero scale gives 0, or the code nearest to it.
    """
    wide = scales.astype(np.float32)[:, :, None]
    ratio = np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide > 0)
    return levels.round(ratio).astype(np.int8)


def encode(
    weight: NDArray[np.float32], scales: NDArray[np.float32], levels: Levels, group: int
) -> QuantTensor:
    """`weight (o, i)` as its nearest codes under `scales (o, g)`."""
    stored = storable_scales(scales)
    codes = round_to_codes(to_groups(weight, group), stored, levels)
    return QuantTensor(
        from_groups(codes, weight.shape[1]), stored, levels.bits, group, levels.zero_free
    )
