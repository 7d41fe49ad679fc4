"""Masked codes as the arrays a graph holds. Pure functions on numpy; no ONNX here.

The graph's matrices are transposed, `(i, o)`, as MatMul and MatMulInteger want them. The mask is
applied to integers, so a removed weight is a zero code in every form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import QuantTensor

INT8_LIMIT = 127


@dataclass(frozen=True, eq=False)
class ChannelWeights:
    """Integer weights with one scale an output, for integer arithmetic.

    Attributes:
        codes: int8 `(i, o)`.
        scales: float32 `(o)`.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class GroupWeights:
    """Integer weights with one scale a group of inputs, to be widened in the graph.

    Attributes:
        codes: int8 `(g, group, o)`; one group for per-row scales.
        scales: float32 `(g, 1, o)`.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def channel_weights(
    tensor: QuantTensor, divisor: NDArray[np.float32] | None = None
) -> ChannelWeights:
    """Masked weights with one scale a row; grouped scales are brought to the largest of the row.

    Rows with one scale keep their codes. Rows with several, and rows whose inputs are divided, are
    requantised to 8 bits, `round(code * scale_g * divisor / scale_row)`: off by at most half a step
    of the row's largest weight over 127. Zero codes stay zero.

    Args:
        tensor: the weights, masked.
        divisor: what the input channels are divided by before the product, `(i)`, or None.
    """
    if tensor.scales.shape[1] == 1 and divisor is None:
        codes, scales = tensor.codes, tensor.scales[:, 0].astype(np.float32)
    else:
        wide = tensor.dequantize()
        wide = wide if divisor is None else wide * divisor
        scales = (np.abs(wide).max(axis=1) / np.float32(INT8_LIMIT)).astype(np.float32)
        ratio = np.divide(wide, scales[:, None], out=np.zeros_like(wide), where=scales[:, None] > 0)
        codes = np.rint(ratio).astype(np.int8)
    return ChannelWeights(np.ascontiguousarray(codes.T), scales)


def group_weights(tensor: QuantTensor) -> GroupWeights | None:
    """Masked codes and scales for exact widening in the graph; None if groups are not even."""
    outputs, inputs = tensor.shape
    if inputs % tensor.group:
        return None
    codes = np.ascontiguousarray(tensor.codes.T)
    scales = np.ascontiguousarray(tensor.scales.astype(np.float32).T)[:, None, :]
    return GroupWeights(codes.reshape(-1, tensor.group, outputs), scales)
