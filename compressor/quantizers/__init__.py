"""Quantisers: float matrices to `QuantTensor`. One method a file, one line a method here.

All are pure, deterministic and data-free, and store symmetric codes only: a mask needs an exact
zero (research by Wang 2020: the pretrained parameters in integers, shared by all tasks).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantizers.minmax import quantize_minmax
from maskpack.compressor.quantizers.mse import quantize_mse
from maskpack.formats import QuantTensor


class Quantizer(StrEnum):
    """Names of the quantisers."""

    MINMAX = "minmax"
    MSE = "mse"


QUANTIZERS: dict[Quantizer, Callable[[NDArray[np.float32], int, int | None], QuantTensor]] = {
    Quantizer.MINMAX: quantize_minmax,
    Quantizer.MSE: quantize_mse,
}

__all__ = ["QUANTIZERS", "Quantizer", "quantize_minmax", "quantize_mse"]
