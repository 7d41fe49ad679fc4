"""A pretrained encoder to a `Backbone`. Which parameter becomes what is decided here, once.

Linears inside the base model become codes that masks cover. Embeddings become 8-bit rows that no
mask covers: a task touches few of their rows, and they are looked up, not multiplied. Biases and
LayerNorm stay float16: together they are under half a percent of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from maskpack.compressor.config import FitConfig
from maskpack.compressor.quantizers import QUANTIZERS, Quantizer, quantize_minmax
from maskpack.formats import Backbone, ModelError, QuantTensor, Scheme

EMBEDDING_BITS = 8
_GROUP_AT_4_BITS = 64


def scheme_of(config: FitConfig) -> Scheme:
    """The quantisation that the options ask for, with `auto` resolved."""
    automatic = Quantizer.MINMAX if config.bits == 8 else Quantizer.MSE
    quantizer = automatic if config.quantizer == "auto" else Quantizer(config.quantizer)
    group = config.group or (None if config.bits == 8 else _GROUP_AT_4_BITS)
    return Scheme(config.bits, group, str(quantizer), EMBEDDING_BITS)


def quantize_model(base: nn.Module, scheme: Scheme) -> Backbone:
    """Quantise all parameters of a base model; the model is not modified.

    Raises:
        ModelError: a weight is not finite, too large for float16, or of an unknown role.
    """
    linears: dict[str, QuantTensor] = {}
    embeddings: dict[str, QuantTensor] = {}
    dense: dict[str, NDArray[np.float16]] = {}
    quantizer = QUANTIZERS[Quantizer(scheme.quantizer)]
    roles = _roles(base)
    for name, parameter in base.named_parameters():
        weight = _to_numpy(name, parameter)
        if roles.get(name) is nn.Linear:
            linears[name] = quantizer(weight, scheme.bits, scheme.group)
        elif roles.get(name) is nn.Embedding:
            embeddings[name] = quantize_minmax(weight, scheme.embedding_bits, None)
        elif weight.ndim == 1:
            dense[name] = _to_half(name, weight)
        else:
            raise ModelError(f"no rule to quantise `{name}` of shape {weight.shape}")
    return Backbone(linears, embeddings, dense)


def _roles(base: nn.Module) -> dict[str, type[nn.Module]]:
    """Parameter name -> module class, for the weights that become codes."""
    return {
        f"{name}.weight": kind
        for name, module in base.named_modules()
        for kind in (nn.Linear, nn.Embedding)
        if isinstance(module, kind)
    }


def _to_numpy(name: str, parameter: Any) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = parameter.detach().float().cpu().numpy()
    if not np.isfinite(weight).all():
        raise ModelError(f"`{name}` of the source model holds a value that is not finite")
    return weight


def _to_half(name: str, weight: NDArray[np.float32]) -> NDArray[np.float16]:
    if np.abs(weight).max(initial=0.0) > np.finfo(np.float16).max:
        raise ModelError(f"`{name}` holds {np.abs(weight).max():.3g}, too large for float16")
    return weight.astype(np.float16)
