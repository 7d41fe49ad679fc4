"""Sizes of masks: weights, zeros, and the bits that an ideal coder would need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskpack.formats.bits import binary_entropy

if TYPE_CHECKING:
    from maskpack.formats.tensors import BitMask


@dataclass(frozen=True)
class MaskCount:
    """Sizes of a set of masks, in weights, bits and bytes.

    Attributes:
        weights: masked weights in all.
        zeros: how many of them are removed.
    """

    weights: int
    zeros: int

    @classmethod
    def of(cls, masks: Mapping[str, BitMask]) -> MaskCount:
        """Count the masks of a patch."""
        weights = sum(mask.shape[0] * mask.shape[1] for mask in masks.values())
        return cls(weights, sum(mask.zeros for mask in masks.values()))

    @property
    def sparsity(self) -> float:
        """Share of removed weights."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def entropy_bpp(self) -> float:
        """Zeroth-order entropy in bits per masked weight: what an ideal coder would need."""
        return binary_entropy(self.sparsity)

    @property
    def entropy_bytes(self) -> int:
        """The same in bytes for all masks."""
        return int(np.ceil(self.entropy_bpp * self.weights / 8))
