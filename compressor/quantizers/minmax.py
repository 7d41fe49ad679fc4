"""Round to nearest over the full range: `scale = max|w| / limit`, one scale a row or group."""

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


def quantize_minmax(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)`; the largest weight of each group gets the largest code.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code.
        group: weights that share a scale, or None for one scale a row.
    """
    size = min(group or weight.shape[1], weight.shape[1])
    blocks, limit = to_groups(weight, size), code_limit(bits)
    scales = storable_scales(np.abs(blocks).max(axis=-1) / np.float32(limit))
    codes = from_groups(round_to_codes(blocks, scales, limit), weight.shape[1])
    return QuantTensor(codes, scales, bits, size)
