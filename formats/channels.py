"""Integer weights with one scale an output, and divisors of outlier channels: what int8 graphs compute with.

Matrices are transposed, `(i, o)`, as MatMul and MatMulInteger need them. Masks are applied later, to integers, so that a
task cannot change shared weights.

Divisors reduce the outlier channels of activations before these are rounded to 8 bits. ONNX Runtime's
fast path gives a whole activation tensor one scale. In pretrained encoders a few channels are ten
times larger than the rest (Dettmers et al. 2022, arXiv 2208.07339; Kovaleva et al. 2021, arXiv
2105.06990), so all others are rounded to a tenth of the steps. As in SmoothQuant (Xiao et al. 2023,
arXiv 2211.10438) a channel is divided before rounding and its weights are multiplied by the same
number. Here only a channel whose peak passes the median peak is divided, and by less than its excess.
So quantisation error moves from activations to weights.

    divisor_j = max(1, peak_j / median(peak)) ** 0.7

`tasks/peaks.py` measures peaks. The file in which an artifact keeps divisors is read and written here (SPEC.md, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.codec import decode_tensors, encode_tensors
from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensorfile import Buffer
from maskpack.formats.tensors import QuantTensor

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


_POWER = 0.7  # exponent of a divisor; 0.5 to 1 are about as good
WORTH_IT = 6.0
"""Largest peak over median peak below which an input is left alone: a division takes time in every run.

Between 2 and 6 division also rounds worse than it helps: on the demo model errors are 3.4 % of the logits with 6 and
3.8 % with 2 (benchmarks/kernels.py).
"""

Divisors = dict[str, NDArray[np.float32]]
"""Parameter name of a linear -> divisors of its input channels, `(i)`, 1 or more."""


def divisor_of(peak: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Divisors `(i)` for channels with these peaks, or None if no channel is an outlier."""
    usual = float(np.median(peak))
    if usual <= 0 or float(peak.max()) < WORTH_IT * usual:
        return None
    return np.asarray(np.maximum(peak / np.float32(usual), 1.0) ** np.float32(_POWER))


_KIND = "divisors"


def encode_divisors(divisors: Mapping[str, NDArray[np.float32]], backbone_sha256: str) -> bytes:
    """Divisors by parameter name as a file, bound to one backbone. Inverse of `decode_divisors`."""
    return encode_tensors(dict(divisors), {"kind": _KIND, "backbone_sha256": backbone_sha256})


def decode_divisors(
    data: Buffer, *, backbone_sha256: str, shapes: Mapping[str, tuple[int, int]]
) -> Divisors:
    """Read and check the divisors of a backbone; inverse of `encode_divisors`.

    Args:
        data: the file.
        backbone_sha256: digest of the backbone that they must be of.
        shapes: of its linears.

    Raises:
        ArtifactError: damaged, of another backbone, or of linears that it does not have.
    """
    arrays, meta, _ = decode_tensors(data, _KIND)
    if meta.get("backbone_sha256") != backbone_sha256:
        raise ArtifactError(
            f"the divisors are of backbone {str(meta.get('backbone_sha256'))[:12]}, "
            f"this one is {backbone_sha256[:12]}"
        )
    for name, divisor in arrays.items():
        if name not in shapes or divisor.shape != shapes[name][1:] or divisor.dtype != np.float32:
            raise ArtifactError(
                f"divisors of `{name}` are {divisor.dtype} {divisor.shape}, which fits no linear of the backbone"
            )
        if not (np.isfinite(divisor).all() and (divisor >= 1).all()):
            raise ArtifactError(f"a divisor of `{name}` is below 1 or not finite")
    return arrays
