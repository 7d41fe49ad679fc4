"""Half-quadratic quantisation (HQQ; Badri & Shaji 2023) on symmetric codes.

The error of a group is measured by a norm `|x|**p` with p = 0.7, which forgives a few large errors, and is split in two: a part `E` that
may be large but sparse, and the rest, which the scale fits. Each round,

    X = W - s Q,   E = sign(X) relu(|X| - |X|**(p - 1) / b),   s = sum Q (W - E) / sum Q**2,   b = 1.01 b

with codes `Q` of the present scale. What differs: HQQ keeps the scale and moves a zero point of floats; here a zero is a code, since a mask
writes it, so that the scale is moved instead. A group keeps the scale of least error under that norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantization.rounding import (
    Levels,
    best_levels,
    best_scales,
    encode,
    ratios,
    to_groups,
)
from maskpack.formats import QuantTensor

_POWER, _START, _GROWTH, _ROUNDS = 0.7, 10.0, 1.01, 20
_TINY = np.float32(1e-12)

Blocks = NDArray[np.float32]


def quantize_hqq(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)` with the scale of least `|error|**0.7` for each group that the rounds find.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code; 2 and 1 give zero-free codes.
        group: weights that share a scale, or None for one scale a row.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), best_levels(bits)
    first = best_scales(weight, levels, size)
    scales = _moved(to_groups(weight, size), first[:, :, None], levels)
    return encode(weight, scales[:, :, 0], levels, size)


def _moved(blocks: Blocks, scales: Blocks, levels: Levels) -> Blocks:
    """Scales `(o, g, 1)` after the rounds, of blocks `(o, g, group)`."""
    unit = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), _TINY)
    blocks, scales = (
        blocks / unit,
        scales / unit,
    )  # the sharpness of the split is of weights about 1
    best, least, sharpness = scales, np.full_like(scales, np.inf), _START
    for _ in range(_ROUNDS):
        codes = np.where(blocks == 0, 0, levels.round(ratios(blocks, scales)))
        rest = blocks - codes * scales
        size = np.abs(rest)
        error = (size**_POWER).sum(axis=-1, keepdims=True)
        better = error < least
        best, least = np.where(better, scales, best), np.where(better, error, least)
        shrunk = np.maximum(size - np.maximum(size, _TINY) ** (_POWER - 1) / sharpness, 0)
        fitted = blocks - np.sign(rest) * shrunk
        above = (codes * fitted).sum(axis=-1, keepdims=True)
        below = np.square(codes).sum(axis=-1, keepdims=True)
        scales = np.where((below > 0) & (above > 0), above / np.maximum(below, _TINY), scales)
        sharpness *= _GROWTH
    return np.asarray(best * unit, dtype=np.float32)
