"""Scales by grid search: the share of the full range that gives the least squared error.

At 4 bits the full range of min-max wastes codes on rare large weights: on heavy-tailed weights its
relative error is several times larger. Clipping the range is the standard remedy (for example
Q-BERT, arXiv 1909.05840). At 2 bits and below the codes are zero-free, and at 1 bit the best scale
has a closed form, the mean magnitude (Rastegari et al. 2016, "XNOR-Net", section 3.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantizers.grid import Levels, encode, to_groups
from maskpack.formats import QuantTensor
from maskpack.formats.bits import ZERO_FREE_BITS

_SHARES = np.linspace(1.0, 0.42, 40, dtype=np.float32)
_LOW_BIT_SHARES = np.linspace(1.0, 0.1, 91, dtype=np.float32)  # tails are clipped far harder
_ROWS = 256  # rows a pass: bounds the memory, changes no result


def quantize_mse(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)` with the scale of least squared error for each group.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code; 2 and 1 give zero-free codes.
        group: weights that share a scale, or None for one scale a row.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), best_levels(bits)
    return encode(weight, best_scales(weight, levels, size), levels, size)


def best_levels(bits: int) -> Levels:
    """The levels that lose least beside a mask: zero-free where levels are few."""
    return Levels(bits, bits in ZERO_FREE_BITS)


def best_scales(weight: NDArray[np.float32], levels: Levels, group: int) -> NDArray[np.float32]:
    """`weight (o, i)` to the scale `(o, g)` of least squared error for each group."""
    if levels.limit == 1 and levels.zero_free:
        return _mean_magnitudes(weight, group)
    blocks = to_groups(weight, group)
    passes = range(0, len(blocks), _ROWS)
    return np.concatenate([_searched(blocks[row : row + _ROWS], levels) for row in passes])


def _mean_magnitudes(weight: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    present = to_groups(np.ones_like(weight[:1]), group).sum(axis=-1)  # a last group may be short
    return np.asarray(np.abs(to_groups(weight, group)).sum(axis=-1) / present, dtype=np.float32)


def _searched(blocks: NDArray[np.float32], levels: Levels) -> NDArray[np.float32]:
    """`(o, g, group)` to scales `(o, g)` on the grid; ties keep the wider range."""
    full = np.abs(blocks).max(axis=-1) / np.float32(levels.limit)
    best, least = full, np.full(full.shape, np.inf, dtype=np.float32)
    for share in _LOW_BIT_SHARES if levels.zero_free else _SHARES:
        scale = (full * share)[:, :, None]
        ratio = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)
        # where a short last group is filled up there is no weight to be wrong about
        error = np.where(blocks == 0, np.float32(0), blocks - levels.round(ratio) * scale)
        squared = np.square(error).sum(axis=-1)
        better = squared < least
        best, least = np.where(better, scale[:, :, 0], best), np.where(better, squared, least)
    return np.asarray(best, dtype=np.float32)
