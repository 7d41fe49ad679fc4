"""What every symmetric quantiser shares: groups of a row, storable scales, rounding to codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)


def code_limit(bits: int) -> int:
    """Largest magnitude of a symmetric code: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1)) - 1


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
    blocks: NDArray[np.float32], scales: NDArray[np.floating], limit: int
) -> NDArray[np.int8]:
    """Nearest code of each weight: `blocks (o, g, group)`, `scales (o, g)`; a zero scale gives 0."""
    wide = scales.astype(np.float32)[:, :, None]
    ratio = np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide > 0)
    return np.clip(np.rint(ratio), -limit, limit).astype(np.int8)
