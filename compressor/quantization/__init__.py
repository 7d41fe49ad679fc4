"""Quantisers: float matrices to `QuantTensor`. One method a file, one line a method here.

All are pure and deterministic and store symmetric codes only: a mask needs an exact zero (Wang
2020: the pretrained parameters in integers, shared by all tasks). `DATA_FREE` ones see the weights,
`CALIBRATED` ones also the Gram matrix of the layer's inputs on unlabelled text.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantization.gptq import Gram, quantize_gptq
from maskpack.compressor.quantization.rounding import (
    quantize_minmax,
    quantize_minmax_tensor,
    quantize_mse,
)
from maskpack.formats import QuantTensor

Weight = NDArray[np.float32]


class Quantizer(StrEnum):
    """Names of the quantisers."""

    MINMAX = "minmax"
    MINMAX_TENSOR = "minmax-tensor"
    MSE = "mse"
    GPTQ = "gptq"


DATA_FREE: dict[Quantizer, Callable[[Weight, int, int | None], QuantTensor]] = {
    Quantizer.MINMAX: quantize_minmax,
    Quantizer.MINMAX_TENSOR: quantize_minmax_tensor,
    Quantizer.MSE: quantize_mse,
}

CALIBRATED: dict[Quantizer, Callable[[Weight, int, int | None, Gram], QuantTensor]] = {
    Quantizer.GPTQ: quantize_gptq,
}
