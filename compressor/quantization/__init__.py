"""Quantisers: float matrices to `QuantTensor`. One method a file or a function; `QUANTIZERS` in `compressor/backbone_config.py` names them.

All are pure and deterministic and store symmetric codes only: a mask needs an exact zero (Wang
2020: the pretrained parameters in integers, shared by all tasks). Most see the weights alone, calibrated
ones also the Gram matrix of the layer's inputs on unlabelled text.

| entry | scale of | codes | source |
|---|---|---|---|
| `minmax` | a group or row | the full range | |
| `minmax-tensor` | a matrix | the full range | Wang 2020, table 1, probably |
| `mse` | a group or row | least squared error; at 1 bit the mean magnitude | Q-BERT, arXiv 1909.05840; XNOR-Net, arXiv 1603.05279 |
| `hqq` | a group or row | least `|error|**0.7` | HQQ, Badri & Shaji 2023 |
| `dorefa` | a matrix | even steps of `tanh` | DoReFa-Net, arXiv 1606.06160 |
| `gptq` | a group or row | least error of the layer's outputs | GPTQ, arXiv 2210.17323 |

What symmetric codes of even steps cannot hold: k-means codes need a codebook, ABC-Net's binary bases (arXiv 1711.11294) steps of several
sizes (of two sizes, one twice the other, they are the zero-free codes of 2 bits), HQQ's zero points a zero that is no code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maskpack.compressor.quantization.gptq import quantize_gptq
from maskpack.compressor.quantization.hqq import quantize_hqq
from maskpack.compressor.quantization.rounding import (
    quantize_dorefa,
    quantize_minmax,
    quantize_minmax_tensor,
    quantize_mse,
)
from maskpack.formats import QuantTensor


@dataclass(frozen=True)
class Quantizer:
    """A method of quantisation.

    Attributes:
        quantize: `(weight (o, i), bits, group or None)` to codes and scales; of a calibrated one with the Gram matrix
            of the layer's inputs behind them.
        calibrated: whether it sees inputs of text.
        refined: whether its codes of 2 and 1 bits learn to copy the float model afterwards, if nothing else is said.
    """

    quantize: Callable[..., QuantTensor]
    calibrated: bool = False
    refined: bool = False


MINMAX = Quantizer(quantize_minmax)
MINMAX_TENSOR = Quantizer(quantize_minmax_tensor)
MSE = Quantizer(quantize_mse, refined=True)
HQQ = Quantizer(quantize_hqq, refined=True)
DOREFA = Quantizer(quantize_dorefa)
GPTQ = Quantizer(quantize_gptq, calibrated=True, refined=True)
