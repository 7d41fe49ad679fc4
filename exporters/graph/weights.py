"""Weights as the arrays a graph holds, and divisors of outlier channels. No ONNX here.

The graph's matrices are transposed, `(i, o)`, as MatMul and MatMulInteger need them, and so is the
order of everything flat. Masks are applied later, to integers, so that a
task cannot change shared weights.

Divisors reduce the outlier channels of activations before these are rounded to 8 bits. ONNX Runtime's
fast path gives a whole activation tensor one scale. In pretrained encoders a few channels are ten
times larger than the rest (Dettmers et al. 2022, arXiv 2208.07339; Kovaleva et al. 2021, arXiv
2105.06990), so all others are rounded to a tenth of the steps. As in SmoothQuant (Xiao et al. 2023,
arXiv 2211.10438) a channel is divided before rounding and its weights are multiplied by the same
number. Here only a channel whose peak passes the median peak is divided, and by less than its excess.
So quantisation error moves from activations to weights.

    divisor_j = max(1, peak_j / median(peak)) ** 0.7

Peaks are a property of the pretrained model more than of the text. They are measured on the sample
sentences that ship with the package, with the artifact's own tokenizer. No label is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.formats import QuantTensor
from maskpack.formats.bits import pack_codes, unpack_codes
from maskpack.models.placement import to_numpy
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.preprocess import Preprocessor
from maskpack.tasks.task import TASKS

_INT8_LIMIT = 127


@dataclass(frozen=True, eq=False)
class ChannelWeights:
    """Integer weights with one scale an output, for integer arithmetic.

    Attributes:
        codes: int8 `(i, o)`.
        scales: float32 `(o)`.
        rescaling: how `codes` come from the tensor's own, or None if they are its own.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    rescaling: Rescaling | None = None


@dataclass(frozen=True, eq=False)
class Rescaling:
    """Codes of one scale a group to codes of one scale a row: `round(code * ratio * divisor)`.

    In float32 and in this order, in numpy and in a graph alike, so that both give the same integers.

    Attributes:
        ratio: float32 `(g, 1, o)`: scale of the group over scale of the row.
        divisor: float32 `(i)`: divisors of input channels; None for 1.
        group: inputs that share a ratio.
    """

    ratio: NDArray[np.float32]
    divisor: NDArray[np.float32] | None
    group: int

    def apply(self, codes: NDArray[np.int8]) -> NDArray[np.int8]:
        """Codes `(i, o)` of another scale, `(i, o)`."""
        wide = codes.astype(np.float32) * spread(self.ratio, self.group, codes.shape[0])
        if self.divisor is not None:
            wide = wide * self.divisor[:, None]
        return np.asarray(np.rint(wide).astype(np.int8))


def channel_weights(
    tensor: QuantTensor, divisor: NDArray[np.float32] | None = None
) -> ChannelWeights:
    """Weights with one scale a row; grouped scales are brought to the largest of the row.

    Rows with one scale keep their codes. Rows with several, and rows whose inputs are divided, are
    requantised to 8 bits, `round(code * scale_g * divisor / scale_row)`: off by at most half a step
    of the row's largest weight over 127. Zero codes stay zero.

    Args:
        tensor: the weights.
        divisor: divisors of the input channels before the product, `(i)`, or None.
    """
    codes = np.ascontiguousarray(tensor.codes.T)
    if tensor.scales.shape[1] == 1 and divisor is None:
        return ChannelWeights(codes, tensor.scales[:, 0].astype(np.float32))
    wide = np.abs(tensor.dequantize()) * (np.float32(1) if divisor is None else divisor)
    scales = (wide.max(axis=1) / np.float32(_INT8_LIMIT)).astype(np.float32)
    groups = group_scales(tensor)
    ratio = np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0)
    rescaling = Rescaling(ratio, divisor, tensor.group)
    return ChannelWeights(rescaling.apply(codes), scales, rescaling)


def group_scales(tensor: QuantTensor) -> NDArray[np.float32]:
    """Scales in a graph's order, float32 `(g, 1, o)`."""
    return np.ascontiguousarray(tensor.scales.astype(np.float32).T)[:, None, :]


def spread(scales: NDArray[np.float32], group: int, inputs: int) -> NDArray[np.float32]:
    """`(g, 1, o)` to one a weight, `(i, o)`; the last group may be short.

    >>> spread(np.array([[[1.0]], [[2.0]]], dtype=np.float32), 2, 3).tolist()
    [[1.0], [1.0], [2.0]]
    """
    return np.repeat(scales[:, 0, :], group, axis=0)[:inputs]


@dataclass(frozen=True, eq=False)
class Fields:
    """Codes narrower than a byte, and a table from which a graph unpacks each byte.

    Attributes:
        packed: uint8, the flat codes in the byte order of the artifact's own, low field first.
        table: int8 `(256, 8 / bits)`: the codes of every byte.
        count: codes in all; the last byte may hold padding.
    """

    packed: NDArray[np.uint8]
    table: NDArray[np.int8]
    count: int


def fields_of(tensor: QuantTensor) -> Fields | None:
    """The codes of a tensor in its own width, flat in a graph's order; None at 8 bits.

    Args:
        tensor: the weights, without a mask, because zero-free codes cannot store a 0.
    """
    if tensor.bits == 8:
        return None
    flat = np.ascontiguousarray(tensor.codes.T).reshape(1, -1)
    packed = pack_codes(flat, tensor.bits, zero_free=tensor.zero_free)[0]
    every = np.arange(256, dtype=np.uint8)[:, None]
    table = unpack_codes(every, tensor.bits, 8 // tensor.bits, zero_free=tensor.zero_free)
    return Fields(packed, table, flat.size)


_SAMPLES = ("reviews", "tickets")
_ROWS = 64  # of each sample task
_LENGTH = 64  # tokens that a sample sentence is cut to
_POWER = 0.7  # exponent of a divisor; 0.5 to 1 are about as good
WORTH_IT = 6.0
"""Largest peak over median peak below which an input is left alone: a division takes time in every run.

Between 2 and 6 division also rounds worse than it helps: on the demo model errors are 3.4 % of the logits with 6 and
3.8 % with 2 (benchmarks/kernels.py).
"""

Divisors = dict[str, NDArray[np.float32]]
"""Parameter name of a linear -> divisors of its input channels, `(i)`, 1 or more."""


def input_divisors(model: Any, names: Iterable[str], preprocessor: Preprocessor) -> Divisors:
    """Divisors for the linears whose inputs have outliers; the others are not in the result.

    Args:
        model: the restored classifier.
        names: parameter names of the linears, as in `model`.
        preprocessor: of the encoder.
    """
    peaks = _input_peaks(model, names, preprocessor)
    return {
        name: divisor for name, peak in peaks.items() if (divisor := divisor_of(peak)) is not None
    }


def divisor_of(peak: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Divisors `(i)` for channels with these peaks, or None if no channel is an outlier."""
    usual = float(np.median(peak))
    if usual <= 0 or float(peak.max()) < WORTH_IT * usual:
        return None
    return np.asarray(np.maximum(peak / np.float32(usual), 1.0) ** np.float32(_POWER))


def _input_peaks(
    model: Any, names: Iterable[str], preprocessor: Preprocessor
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of every input channel of the linears, on the sample sentences."""
    rows = [row[:1] for task in _SAMPLES for row in load_data(TASKS[task]).dev.texts[:_ROWS]]
    split = Split(tuple(rows), np.zeros(len(rows), dtype=np.int64))
    peaks: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = inputs[0].detach().abs().flatten(0, -2).amax(dim=0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return module.register_forward_pre_hook(note)

    hooks = [watch(name, model.get_submodule(name.removesuffix(".weight"))) for name in names]
    try:
        predict_all(torch_predict(model), preprocessor.encode(split, max_length=_LENGTH))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: to_numpy(peak) for name, peak in peaks.items()}
