"""A backbone of random weights: hidden networks (Ramanujan et al. 2019, arXiv 1911.13299; Malach et al. 2020, arXiv 2002.00585).

Every linear has the one scale with which its weights have the variance `2 / i` of He et al. 2015 (arXiv 1502.01852): at 1 bit the codes
are signs, and the weights Ramanujan's *signed Kaiming constant*; at 2, 4 and 8 bits codes are drawn evenly. Tables of embeddings, and
other parameters that transformers initialises at random, have a root mean square of 1, convolutions that of a linear. What
transformers initialises with one value, such as biases with 0 and LayerNorm with 1, has that value.

What differs from the paper: all scales are of the matrix as a whole, not of the share that a mask keeps (`train_scales` learns one for each row); heads are
learned; and the networks are transformers, whose LayerNorm makes the first of these matter less.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.quantize import (
    bits_of,
    checked_table,
    roles_of,
    scheme_of,
    to_half,
)
from maskpack.formats import Backbone, QuantTensor, Scheme, Source
from maskpack.formats.codec import backbone_pieces
from maskpack.formats.draw import FLOAT_BITS, drawn_floats, mean_square
from maskpack.formats.drawn import Drawing
from maskpack.formats.matrices import PackedTensor
from maskpack.formats.tensors import MOST_UNPACKED
from maskpack.models.load import Pretrained
from maskpack.models.placement import to_numpy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def kaiming_scale(bits: int, inputs: int) -> float:
    """The scale with which drawn codes have the mean square `2 / inputs`: the nearest float16.

    >>> kaiming_scale(1, 8), kaiming_scale(2, 10)
    (0.5, 0.199951171875)
    """
    return _half(2 / (inputs * mean_square(bits)))


def unit_scale(bits: int) -> float:
    """The scale with which drawn codes have the mean square 1: the nearest float16.

    >>> unit_scale(8)
    0.01355743408203125
    """
    return _half(1 / mean_square(bits))


def _half(square: float) -> float:
    """The root of a number as float16; division and root are rounded alike on every machine (IEEE 754)."""
    return float(np.float16(math.sqrt(square)))


def draw_model(base: nn.Module, scheme: Scheme, seed: int) -> Backbone:
    """Draw all parameters of a base model that its initialisation draws; the model is not modified.

    Args:
        base: the encoder, as transformers initialises it.
        scheme: widths of the codes.
        seed: of the draw, from 0 to `LARGEST_SEED`.

    Raises:
        ConfigError: an override that names no linear, or narrow token embeddings of a model without any.
    """
    roles, tokens = roles_of(base), checked_table(base, scheme.embedding_bits)
    parameters = dict(base.named_parameters())
    bits = bits_of([name for name in parameters if roles.get(name) is nn.Linear], scheme)
    large = sum(p.numel() for p in parameters.values()) > MOST_UNPACKED
    linears: dict[str, QuantTensor] = {}
    embeddings: dict[str, QuantTensor] = {}
    dense: dict[str, NDArray[np.float16]] = {}
    convolutions = {
        f"{name}.weight" for name, each in base.named_modules() if isinstance(each, _CONVOLUTIONS)
    }
    for name, parameter in parameters.items():
        if name in bits:
            scale = kaiming_scale(bits[name], parameter.shape[1])
            linears[name] = _drawn(seed, name, parameter, bits[name], scale, packed=large)
        elif roles.get(name) is nn.Embedding:
            width = scheme.embedding_bits if name == tokens else 8
            embeddings[name] = _drawn(seed, name, parameter, width, unit_scale(width), packed=large)
        else:
            dense[name] = _dense(seed, name, parameter, convolution=name in convolutions)
    return Backbone(linears, embeddings, dense, seed)


def _drawn(
    seed: int, name: str, like: Tensor, bits: int, scale: float, *, packed: bool
) -> QuantTensor:
    rows, width = like.shape
    tensor = Drawing(seed).tensor(
        name, (rows, width), bits, width, zero_free=bits <= 3, scale=scale
    )
    return PackedTensor.of(tensor) if packed else tensor


def _dense(seed: int, name: str, like: Tensor, *, convolution: bool) -> NDArray[np.float16]:
    """A parameter that stays float16: one value if it was initialised so, else drawn; a bias is 0."""
    values = to_half(name, to_numpy(like))
    if (values == values.flat[0]).all():
        return values
    if like.ndim == 1 and name.endswith("bias"):
        return np.zeros_like(values)
    fan_in = math.prod(like.shape[1:])
    scale = kaiming_scale(FLOAT_BITS, fan_in) if convolution else unit_scale(FLOAT_BITS)
    return drawn_floats(seed, name, tuple(like.shape), scale)


def draw_backbone(untrained: Pretrained, config: BackboneConfig) -> tuple[Backbone, Source, Scheme]:
    """A drawn backbone, its source and its scheme; the digest of the source weights is that of the backbone."""
    assert config.random is not None
    scheme = scheme_of(config)
    backbone = draw_model(untrained.model, scheme, config.random)
    digest = hashlib.sha256()
    for piece in backbone_pieces(backbone):
        digest.update(piece)
    kind = untrained.model.config.model_type
    source = Source(untrained.name, untrained.revision, kind, digest.hexdigest())
    return backbone, source, scheme
