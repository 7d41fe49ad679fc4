"""What a classifier is made of, known before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from maskpack.compressor.models.linearize import linearize
from maskpack.compressor.restore import base_of, head_parameters


@dataclass(frozen=True)
class Shape:
    """Names and sizes, as a backbone has them.

    Attributes:
        linears: parameter name -> `(o, i)`.
        dense: parameter name of a bias or LayerNorm parameter -> values.
        head_bytes: of the task's own layers in float16.
    """

    linears: Mapping[str, tuple[int, int]]
    dense: Mapping[str, int]
    head_bytes: int

    @property
    def biases_of_linears(self) -> frozenset[str]:
        """Names that a linear's bias has, or would have."""
        return frozenset(name.removesuffix("weight") + "bias" for name in self.linears)


def shape_of(config: Any) -> Shape:
    """The shape of the classifier that a transformers configuration describes."""
    with torch.device("meta"):
        model = linearize(AutoModelForSequenceClassification.from_config(config))
    base = base_of(model)
    linears = {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear)
    }
    dense = {name: p.numel() for name, p in base.named_parameters() if p.ndim == 1}
    head = sum(2 * parameter.numel() for parameter in head_parameters(model).values())
    return Shape(linears, dense, head)
