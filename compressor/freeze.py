"""Scores to bits: the end of learning. What is frozen here is what everything after it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskpack.compressor.masked import MaskedLinear
from maskpack.compressor.restore import head_parameters
from maskpack.formats import BitMask, ModelError, Patch


def freeze(model: Any, masked: Mapping[str, MaskedLinear]) -> Patch:
    """The learned masks as bits and the head as float16.

    Args:
        model: the trained classifier.
        masked: parameter name -> masked linear, from `surgery.mask_linears`.

    Raises:
        ModelError: training diverged: the head holds a value that is not finite.
    """
    masks = {name: BitMask.from_bool(layer.keep().numpy()) for name, layer in masked.items()}
    head = {}
    for name, parameter in head_parameters(model).items():
        value = parameter.detach().numpy().astype(np.float16)
        if not np.isfinite(value).all():
            raise ModelError(
                f"training diverged: `{name}` holds a value that is not finite",
                "lower `--lr` or `--head-lr`",
            )
        head[name] = value
    return Patch(masks, head)
