"""Round to nearest over the full range: `scale = max|w| / limit`, one scale a row or group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantizers.grid import Levels, encode, to_groups
from maskpack.formats import QuantTensor


def quantize_minmax(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)`; the largest weight of each group gets the largest code.

    At 2 bits the codes are -1, 0 and 1; at 1 bit, where there is no other choice, -1 and 1.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code.
        group: weights that share a scale, or None for one scale a row.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), Levels(bits, bits == 1)
    scales = np.abs(to_groups(weight, size)).max(axis=-1) / np.float32(levels.limit)
    return encode(weight, scales, levels, size)


def quantize_minmax_tensor(
    weight: NDArray[np.float32], bits: int, group: int | None
) -> QuantTensor:
    """The same with one scale for the whole matrix, stored once a row; `group` has no say.

    Probably what Wang 2020 used ("The curious case of developmental BERTology", table 1; the essay
    does not state it): at 2 bits nearly every weight of a trained matrix rounds to 0.
    """
    del group
    levels = Levels(bits, bits == 1)
    scale = np.abs(weight).max(initial=0.0) / np.float32(levels.limit)
    scales = np.full((weight.shape[0], 1), scale, dtype=np.float32)
    return encode(weight, scales, levels, weight.shape[1])
