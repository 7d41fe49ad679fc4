"""A pretrained encoder to a `Backbone`. Only this module decides the form of each parameter.

Linears inside the base model become codes that masks cover. Embeddings become rows of codes that
no mask covers: a task uses few of their rows, and they are looked up, not multiplied. Those of tokens may be narrow, which
costs little: an error of a row is one of a token in a sentence. Those of positions and kinds of tokens keep 8 bits: a row's error is in every sentence. All other
parameters stay float16: biases, norms and some rare ones, together under half a percent of the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.backbone_config import AUTO, QUANTIZERS, BackboneConfig
from maskpack.compressor.quantization import Quantizer
from maskpack.compressor.quantization.calibration import Calibration, Calibrator, calibration_texts
from maskpack.compressor.quantization.rare_rows import (
    FREQUENT_BITS,
    frequent_rows,
    quantize_rows,
    token_counts,
)
from maskpack.compressor.quantization.rounding import quantize_minmax, quantize_mse
from maskpack.formats import Backbone, ConfigError, ModelError, QuantTensor, Scheme
from maskpack.formats.bits import CODE_BITS, RARE_BITS
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.matrices import PackedTensor
from maskpack.formats.tensors import MOST_UNPACKED
from maskpack.models.build import ParameterShapes
from maskpack.models.load import Pretrained
from maskpack.models.mapped import float_weight, weights_of
from maskpack.models.placement import to_numpy
from maskpack.tasks.context import ModelContext

_LOG = logging.getLogger(__name__)
_GROUP = 64  # where a width is below 8 bits


def scheme_of(config: BackboneConfig) -> Scheme:
    """The quantisation that the options ask for; `auto` stays where widths are mixed."""
    overrides = dict(config.bits_override)
    if config.random is not None:
        assert isinstance(config.embedding_bits, int), "refused by the options"
        return Scheme(config.bits, None, DRAWN, config.embedding_bits, overrides)
    quantizer = config.quantizer
    if quantizer == AUTO and not overrides:
        quantizer = _automatic(config.bits)
    widths = {config.bits, *overrides.values()}
    group = config.group or (None if widths == {8} else _GROUP)
    width = config.embedding_bits
    return Scheme(
        config.bits, group, quantizer, FREQUENT_BITS if isinstance(width, str) else width, overrides
    )


def _automatic(bits: int) -> str:
    return "minmax" if bits == 8 else "mse"


def quantizer_of(scheme: Scheme, bits: int) -> Quantizer:
    """The method for a linear of that width."""
    name = _automatic(bits) if scheme.quantizer == AUTO else scheme.quantizer
    found: Quantizer = QUANTIZERS[name]
    return found


def is_calibrated(scheme: Scheme) -> bool:
    """Whether the quantisation needs text."""
    return any(quantizer_of(scheme, bits).calibrated for bits in CODE_BITS)


def quantize_model(
    base: nn.Module,
    scheme: Scheme,
    calibration: Calibration | None = None,
    frequent: NDArray[np.bool_] | None = None,
) -> Backbone:
    """Quantise all parameters of a base model; the model is not modified.

    Args:
        base: the encoder.
        scheme: how; see `scheme_of`.
        calibration: text for the quantisers that need it.
        frequent: bool, the rows of the token embeddings that have the scheme's width while others have 2 bits; None: all.

    Raises:
        ModelError: a weight is not finite, or too large for float16.
        ConfigError: an override that names no linear, or narrow token embeddings of a model without any.
    """
    roles, tokens = roles_of(base), checked_table(base, scheme.embedding_bits)
    bits = bits_of([n for n, _ in base.named_parameters() if roles.get(n) is nn.Linear], scheme)
    keep = _packed if sum(p.numel() for p in base.parameters()) > MOST_UNPACKED else _as_it_is
    calibrated = is_calibrated(scheme)
    linears, embeddings = dict[str, QuantTensor](), dict[str, QuantTensor]()
    dense: dict[str, NDArray[np.float16]] = {}
    for name, tensor in weights_of(base):
        weight = _to_numpy(name, tensor)
        if name in bits:
            if not calibrated:
                quantize = quantizer_of(scheme, bits[name]).quantize
                linears[name] = keep(quantize(weight, bits[name], scheme.group))
        elif roles.get(name) is nn.Embedding:
            width, rows = (scheme.embedding_bits, frequent) if name == tokens else (8, None)
            embeddings[name] = _embedding(weight, width, rows, keep)
        else:  # biases, norms, and parameters of some families, such as DeBERTa's convolution
            dense[name] = to_half(name, weight)
    if calibrated:
        assert calibration is not None, scheme.quantizer
        linears = _calibrated(Calibrator(base, calibration, embeddings), base, bits, scheme, keep)
    return Backbone(linears, embeddings, dense)


Keep = Callable[[QuantTensor], QuantTensor]
"""How the result for a matrix is held until the backbone is written."""


def _as_it_is(tensor: QuantTensor) -> QuantTensor:
    return tensor


def _packed(tensor: QuantTensor) -> QuantTensor:
    return PackedTensor.of(tensor)


def bits_of(names: Collection[str], scheme: Scheme) -> dict[str, int]:
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


def backbone_bytes(shapes: ParameterShapes, config: BackboneConfig) -> int:
    """Bytes that a quantised backbone has on disk, at least: codes and their scales, without names; of a drawn one none."""
    if config.random is not None:
        return 0
    scheme, width = scheme_of(config), config.embedding_bits
    sizes = {name: rows * width for name, (rows, width) in shapes.linears.items()}
    bits = bits_of(sizes, scheme)
    linears = sum(size * bits[name] for name, size in sizes.items())
    rows = {name: count for name, (count, _) in shapes.linears.items()}
    scales = sum(size // scheme.group if scheme.group else rows[n] for n, size in sizes.items())
    dense = sum(shapes.dense.values())
    embeddings = shapes.values - sum(sizes.values()) - dense
    least = RARE_BITS if isinstance(width, str) else width
    return (linears + embeddings * least + 16 * (dense + scales)) // 8


def _calibrated(
    calibrator: Calibrator, base: nn.Module, bits: Mapping[str, int], scheme: Scheme, keep: Keep
) -> dict[str, QuantTensor]:
    """Quantise block by block, each with the inputs that the quantised blocks before it give."""
    quantize = quantizer_of(scheme, scheme.bits).quantize
    parameters = dict(base.named_parameters())
    done: dict[str, QuantTensor] = {}
    for grams in calibrator.blocks(bits):
        for name in list(grams):
            weight = to_numpy(float_weight(parameters[name]))
            done[name] = keep(quantize(weight, bits[name], scheme.group, grams.pop(name)))
            calibrator.settle({name: done[name]})
    for name in bits.keys() - done.keys():  # no text came through it: all inputs count alike
        weight = to_numpy(float_weight(parameters[name]))
        alike = np.eye(weight.shape[1], dtype=np.float32)
        done[name] = keep(quantize(weight, bits[name], scheme.group, alike))
    return {name: done[name] for name in bits}


def _embedding(
    weight: NDArray[np.float32], bits: int, frequent: NDArray[np.bool_] | None, keep: Keep
) -> QuantTensor:
    """One scale a row, searched for below 8 bits; rows of two widths where some are `frequent`."""
    if frequent is not None:
        return quantize_rows(weight, frequent, bits, keep)
    quantize: Callable[..., QuantTensor] = quantize_minmax if bits == 8 else quantize_mse
    return keep(quantize(weight, bits, None))


def token_table(base: nn.Module) -> str | None:
    """The parameter that holds the embeddings of tokens; None for a model without any, as one of images."""
    try:
        table = cast("Any", base).get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if not isinstance(table, nn.Embedding):
        return None
    return next((name for name, p in base.named_parameters() if p is table.weight), None)


def frequent_rows_of(
    pretrained: Pretrained, context: ModelContext, config: BackboneConfig
) -> NDArray[np.bool_] | None:
    """Rows of the token embeddings that are wide, where the calibration text decides; None: all have one width.

    Raises:
        ConfigError: `embedding_bits` is `auto`, and the model has no embeddings of tokens.
    """
    if config.embedding_bits != AUTO:
        return None
    table, tokenizer = token_table(pretrained.model), pretrained.tokenizer
    if table is None or tokenizer is None:
        raise ConfigError(
            f"`embedding_bits` is {AUTO}, and the model has no embeddings of tokens",
            "leave it out: its other tables keep 8 bits",
        )
    weight = to_numpy(float_weight(dict(pretrained.model.named_parameters())[table]))
    texts = calibration_texts(None if config.calibration is None else Path(config.calibration))
    counts = token_counts(context.preprocessor(), texts, len(weight))
    found = frequent_rows(weight, counts, tokenizer.all_special_ids)
    _LOG.info(
        "%s of %s rows of token embeddings have %s bits, the others %s",
        *(f"{found.sum():,}", f"{len(found):,}", FREQUENT_BITS, RARE_BITS),
    )
    return found


def checked_table(base: nn.Module, bits: int) -> str | None:
    """`token_table`, or ConfigError if narrow embeddings are asked for and there are none."""
    table = token_table(base)
    if table is None and bits != 8:
        raise ConfigError(
            f"`embedding_bits` is {bits}, and the model has no embeddings of tokens",
            "leave it out: its other tables keep 8 bits",
        )
    return table


def roles_of(base: nn.Module) -> dict[str, type[nn.Module]]:
    """Parameter name -> module class, for the weights that become codes."""
    return {
        f"{name}.weight": kind
        for name, module in base.named_modules()
        for kind in (nn.Linear, nn.Embedding)
        if isinstance(module, kind)
    }


def _to_numpy(name: str, tensor: Tensor) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = to_numpy(tensor)
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
