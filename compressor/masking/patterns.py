"""What a score stands for: one weight, or in another entry another set of weights.

A pattern gives the shape of a matrix's scores, expands mask bits of scores to a mask over weights, and sums values of
weights (gradients, magnitudes) to values of scores. Masks are stored weight by weight whatever the
pattern is.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class MaskPattern(Protocol):
    """Shapes of scores and masks; all functions are pure."""

    def score_shape(self, weight: torch.Size) -> tuple[int, ...]:
        """Shape of the scores of a matrix `(o, i)`."""

    def expand(self, scores: Tensor, weight: torch.Size) -> Tensor:
        """Values of scores as values of the weights `(o, i)` that they stand for."""

    def reduce(self, values: Tensor) -> Tensor:
        """Sums of values of weights `(o, i)`, one for each score: the transpose of `expand`."""


class WeightPattern:
    """A score for each weight."""

    def score_shape(self, weight: torch.Size) -> tuple[int, ...]:
        """`(o, i)`."""
        return tuple(weight)

    def expand(self, scores: Tensor, weight: torch.Size) -> Tensor:
        """The scores themselves."""
        del weight
        return scores

    def reduce(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


WEIGHT = WeightPattern()
