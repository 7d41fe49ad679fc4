"""Scores to bits: the end of learning. What is frozen here is what everything after it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskpack.compressor.learning.masked import MaskedLinear
from maskpack.compressor.restore import base_of, head_parameters
from maskpack.formats import BitMask, ModelError, Patch

_LEAST_GAIN = 2.0**-14  # smallest normal float16


def freeze(model: Any, masked: Mapping[str, MaskedLinear], dense: Iterable[str] = ()) -> Patch:
    """The learned masks as bits; the head, and what else was trained, as float16.

    Args:
        model: the trained classifier.
        masked: parameter name -> masked linear, from `surgery.mask_linears`.
        dense: names of the base model's biases and LayerNorm parameters that were trained.

    Raises:
        ModelError: training diverged: a value is not finite.
    """
    base = dict(base_of(model).named_parameters())
    masks = {name: BitMask.from_bool(layer.keep().numpy()) for name, layer in masked.items()}
    gains = {
        name: _half(name, layer.gain.clamp(min=_LEAST_GAIN))
        for name, layer in masked.items()
        if layer.gain is not None
    }
    head = {name: _half(name, value) for name, value in head_parameters(model).items()}
    return Patch(masks, head, {name: _half(name, base[name]) for name in dense}, gains)


def _half(name: str, tensor: Tensor) -> NDArray[np.float16]:
    value = tensor.detach().numpy().astype(np.float16)
    if not np.isfinite(value).all():
        raise ModelError(
            f"training diverged: `{name}` holds a value that is not finite",
            "lower `--lr` or `--head-lr`",
        )
    return value
