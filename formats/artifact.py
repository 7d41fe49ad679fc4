"""Backbone and patch: what a model is made of, as frozen values with their invariants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
        """Weights that a mask covers."""
        return sum(tensor.codes.size for tensor in self.linears.values())


@dataclass(frozen=True, eq=False)
class Patch:
    """All that one task adds: which weights it keeps, and its dense head.

    Attributes:
        masks: parameter name -> mask over the backbone's linear of that name.
        head: parameter name -> float16 tensor of the task-specific layers.
    """

    masks: Mapping[str, BitMask]
    head: Dense

    def __post_init__(self) -> None:
        _check_dense(self.head, "head")

    def check_fits(self, backbone: Backbone) -> None:
        """Raise ArtifactError unless every mask lies over a linear of the same shape."""
        if set(self.masks) != set(backbone.linears):
            odd = sorted(set(self.masks) ^ set(backbone.linears))
            raise ArtifactError(f"masks and backbone disagree about `{odd[0]}`")
        for name, mask in self.masks.items():
            if mask.shape != backbone.linears[name].shape:
                raise ArtifactError(
                    f"the mask of `{name}` is {mask.shape}, "
                    f"the weights are {backbone.linears[name].shape}"
                )

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


def _check_dense(tensors: Dense, where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float16 or tensor.ndim == 0 or not np.isfinite(tensor).all():
            raise ArtifactError(
                f"`{name}` of the {where} is not finite float16 of one dimension or more"
            )
