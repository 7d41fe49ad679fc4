"""A pretrained encoder to a `Backbone`. Only this module decides the form of each parameter.

Linears inside the base model become codes that masks cover. Embeddings become 8- or 4-bit rows that
no mask covers: a task uses few of their rows, and they are looked up, not multiplied. All other
parameters stay float16: biases, norms and some rare ones, together under half a percent of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from maskpack.compressor.config import BackboneConfig
from maskpack.compressor.quantization import CALIBRATED, DATA_FREE, Quantizer
from maskpack.compressor.quantization.calibration import Calibration, Calibrator
from maskpack.compressor.quantization.rounding import quantize_minmax, quantize_mse
from maskpack.formats import Backbone, ConfigError, ModelError, QuantTensor, Scheme
from maskpack.formats.bits import CODE_BITS
from maskpack.models.placement import to_numpy

AUTO = "auto"
_GROUP = 64  # where a width is below 8 bits


def scheme_of(config: BackboneConfig) -> Scheme:
    """The quantisation that the options ask for; `auto` stays where widths are mixed."""
    overrides = dict(config.bits_override)
    quantizer = config.quantizer
    if quantizer == AUTO and not overrides:
        quantizer = str(_automatic(config.bits))
    widths = {config.bits, *overrides.values()}
    group = config.group or (None if widths == {8} else _GROUP)
    return Scheme(config.bits, group, quantizer, config.embedding_bits, overrides)


def _automatic(bits: int) -> Quantizer:
    return Quantizer.MINMAX if bits == 8 else Quantizer.MSE


def quantizer_of(scheme: Scheme, bits: int) -> Quantizer:
    """The method for a linear of that width."""
    return _automatic(bits) if scheme.quantizer == AUTO else Quantizer(scheme.quantizer)


def is_calibrated(scheme: Scheme) -> bool:
    """Whether the quantisation needs text."""
    return any(quantizer_of(scheme, bits) in CALIBRATED for bits in CODE_BITS)


def quantize_model(
    base: nn.Module, scheme: Scheme, calibration: Calibration | None = None
) -> Backbone:
    """Quantise all parameters of a base model; the model is not modified.

    Args:
        base: the encoder.
        scheme: how; see `scheme_of`.
        calibration: text for the quantisers that need it.

    Raises:
        ModelError: a weight is not finite, or too large for float16.
        ConfigError: an override that names no linear.
    """
    linears: dict[str, NDArray[np.float32]] = {}
    embeddings: dict[str, QuantTensor] = {}
    dense: dict[str, NDArray[np.float16]] = {}
    roles = _roles(base)
    for name, parameter in base.named_parameters():
        weight = _to_numpy(name, parameter)
        if roles.get(name) is nn.Linear:
            linears[name] = weight
        elif roles.get(name) is nn.Embedding:
            embeddings[name] = _embedding(weight, scheme.embedding_bits)
        else:  # biases, norms, and parameters of some families, such as DeBERTa's convolution
            dense[name] = to_half(name, weight)
    bits = bits_of(linears, scheme)
    if not is_calibrated(scheme):
        quantized = {
            name: DATA_FREE[quantizer_of(scheme, bits[name])](weight, bits[name], scheme.group)
            for name, weight in linears.items()
        }
        return Backbone(quantized, embeddings, dense)
    assert calibration is not None, scheme.quantizer
    calibrator = Calibrator(base, calibration)
    calibrator.settle(embeddings)
    return Backbone(_calibrated(calibrator, linears, bits, scheme), embeddings, dense)


def bits_of(names: Mapping[str, Any], scheme: Scheme) -> dict[str, int]:
    """Width of each linear's codes: the scheme's, or that of the last override that matches.

    Raises:
        ConfigError: an override matches none.
    """
    for pattern in scheme.overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"`{pattern}` of `bits_override` names no linear", f"one is `{min(names)}`"
            )
    chosen = dict.fromkeys(names, scheme.bits)
    for pattern, bits in scheme.overrides.items():
        chosen.update({name: bits for name in names if fnmatchcase(name, pattern)})
    return chosen


def _calibrated(
    calibrator: Calibrator,
    linears: Mapping[str, NDArray[np.float32]],
    bits: Mapping[str, int],
    scheme: Scheme,
) -> dict[str, QuantTensor]:
    """Quantise block by block, each with the inputs that the quantised blocks before it give."""
    quantize = CALIBRATED[Quantizer(scheme.quantizer)]
    done: dict[str, QuantTensor] = {}
    for grams in calibrator.blocks(linears):
        block = {
            name: quantize(linears[name], bits[name], scheme.group, gram)
            for name, gram in grams.items()
        }
        calibrator.settle(block)
        done.update(block)
    return {name: done[name] for name in linears}


def _embedding(weight: NDArray[np.float32], bits: int) -> QuantTensor:
    """One scale a row, searched for below 8 bits."""
    quantize: Callable[..., QuantTensor] = quantize_minmax if bits == 8 else quantize_mse
    return quantize(weight, bits, None)


def _roles(base: nn.Module) -> dict[str, type[nn.Module]]:
    """Parameter name -> module class, for the weights that become codes."""
    return {
        f"{name}.weight": kind
        for name, module in base.named_modules()
        for kind in (nn.Linear, nn.Embedding)
        if isinstance(module, kind)
    }


def _to_numpy(name: str, parameter: Any) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = to_numpy(parameter.float())
    if not np.isfinite(weight).all():
        raise ModelError(f"`{name}` of the source model holds a value that is not finite")
    return weight


def to_half(name: str, weight: NDArray[np.float32]) -> NDArray[np.float16]:
    """`weight` as float16.

    Raises:
        ModelError: a value is too large.
    """
    if np.abs(weight).max(initial=0.0) > np.finfo(np.float16).max:
        raise ModelError(f"`{name}` holds {np.abs(weight).max():.3g}, too large for float16")
    return weight.astype(np.float16)
