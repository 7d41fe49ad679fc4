"""Backbone and patch: what a model is made of, as frozen values with their invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensors import BitMask, MaskCount, QuantTensor

Dense = Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True, eq=False)
class Backbone:
    """Integer weights that all tasks share.

    Attributes:
        linears: parameter name -> weights that a mask may cover.
        embeddings: parameter name -> quantised tables that no mask covers.
        dense: parameter name -> float16 biases and LayerNorm parameters.
    """

    linears: Mapping[str, QuantTensor]
    embeddings: Mapping[str, QuantTensor]
    dense: Dense

    def __post_init__(self) -> None:
        names = [*self.linears, *self.embeddings, *self.dense]
        if len(set(names)) != len(names):
            raise ArtifactError("a parameter of the backbone is stored twice")
        if not self.linears:
            raise ArtifactError("the backbone holds no weight that a mask could cover")
        _check_dense(self.dense, "backbone")

    @property
    def maskable(self) -> int:
        """Weights that a mask may cover."""
        return sum(tensor.codes.size for tensor in self.linears.values())


@dataclass(frozen=True, eq=False)
class Patch:
    """All that one task adds: which weights it keeps, its dense head, and what else it learned.

    Attributes:
        masks: parameter name -> mask over the backbone's linear of that name; a linear without a
            mask keeps all its weights.
        head: parameter name -> float16 tensor of the task-specific layers.
        dense: parameter name -> float16 bias or LayerNorm parameter that stands in for the
            backbone's.
        gains: parameter name of a linear -> float16 `(o)`, above 0: factors of its rows' scales.
    """

    masks: Mapping[str, BitMask]
    head: Dense
    dense: Dense = field(default_factory=dict)
    gains: Dense = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_dense(self.head, "head")
        _check_dense(self.dense, "patch")
        _check_dense(self.gains, "gains")
        for name, gain in self.gains.items():
            if not (gain > 0).all():
                raise ArtifactError(f"a gain of `{name}` is not above 0")

    def check_fits(self, backbone: Backbone) -> None:
        """Raise ArtifactError unless every part lies over a backbone tensor of its shape."""
        linears = {name: tensor.shape for name, tensor in backbone.linears.items()}
        _check_over("mask", {n: m.shape for n, m in self.masks.items()}, linears)
        rows = {name: (shape[0],) for name, shape in linears.items()}
        _check_over("gains", {n: g.shape for n, g in self.gains.items()}, rows)
        for name, gain in self.gains.items():
            backbone.linears[name].scales_with(gain)  # an infinite product is refused here
        shapes = {name: tensor.shape for name, tensor in backbone.dense.items()}
        _check_over("value", {n: d.shape for n, d in self.dense.items()}, shapes)

    def over(self, backbone: Backbone) -> Backbone:
        """The backbone as this task sees it: codes masked, scales and dense parameters its own."""
        self.check_fits(backbone)
        linears = dict(backbone.linears)
        for name, mask in self.masks.items():
            linears[name] = mask.apply(linears[name])
        for name, gains in self.gains.items():
            linears[name] = linears[name].with_gains(gains)
        return Backbone(linears, backbone.embeddings, {**backbone.dense, **self.dense})

    def check_counts(self, task: str, *, zeros: int, weights: int) -> None:
        """Raise ArtifactError unless the masks have these counts."""
        if (zeros, weights) != (self.count.zeros, self.count.weights):
            raise ArtifactError(
                f"task `{task}` holds {self.count.zeros} zeros of {self.count.weights}, "
                f"the manifest says {zeros} of {weights}"
            )

    @property
    def count(self) -> MaskCount:
        """Weights and zeros of the masks."""
        return MaskCount.of(self.masks)


def _check_over(
    what: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise ArtifactError unless each shape in `found` is that of the same name in `expected`."""
    for name, shape in found.items():
        if name not in expected:
            raise ArtifactError(f"the backbone has no `{name}` for the {what} of that name")
        if shape != expected[name]:
            raise ArtifactError(
                f"the {what} of `{name}` is {shape}, the backbone wants {expected[name]}"
            )


def _check_dense(tensors: Dense, where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float16 or tensor.ndim == 0 or not np.isfinite(tensor).all():
            raise ArtifactError(
                f"`{name}` of the {where} is not finite float16 of one dimension or more"
            )
