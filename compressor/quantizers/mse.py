"""Scales by grid search: the share of the full range that gives the least squared error.

At 4 bits the full range of min-max wastes codes on rare large weights: on heavy-tailed weights its
relative error is several times larger. Clipping the range is the standard remedy (for example
Q-BERT, arXiv 1909.05840); the grid is 40 shares from 0.42 to 1 of the largest magnitude.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantizers.grid import (
    code_limit,
    from_groups,
    round_to_codes,
    storable_scales,
    to_groups,
)
from maskpack.formats import QuantTensor

_SHARES = np.linspace(1.0, 0.42, 40, dtype=np.float32)
_ROWS = 256  # rows a pass: bounds the memory, changes no result


def quantize_mse(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)` with the scale of least squared error for each group.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code.
        group: weights that share a scale, or None for one scale a row.
    """
    size = min(group or weight.shape[1], weight.shape[1])
    blocks, limit = to_groups(weight, size), code_limit(bits)
    best = np.concatenate(
        [_best_scales(blocks[row : row + _ROWS], limit) for row in range(0, len(blocks), _ROWS)]
    )
    scales = storable_scales(best)
    codes = from_groups(round_to_codes(blocks, scales, limit), weight.shape[1])
    return QuantTensor(codes, scales, bits, size)


def _best_scales(blocks: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """`(o, g, group)` to the scale `(o, g)` of least squared error; ties keep the wider range."""
    full = np.abs(blocks).max(axis=-1) / np.float32(limit)
    best, least = full, np.full(full.shape, np.inf, dtype=np.float32)
    for share in _SHARES:
        scale = (full * share)[:, :, None]
        ratio = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)
        error = blocks - np.clip(np.rint(ratio), -limit, limit) * scale
        squared = np.square(error).sum(axis=-1)
        better = squared < least
        best, least = np.where(better, scale[:, :, 0], best), np.where(better, squared, least)
    return np.asarray(best, dtype=np.float32)
