"""Edge-popup: the best mask among random ones (Ramanujan et al. 2019, arXiv 1911.13299, `allenai/hidden-networks`).

Scores start as random numbers, `U(-1/sqrt(i), 1/sqrt(i))` for a matrix `(o, i)`, and every matrix keeps the same share of its weights
all through the run: those of the largest `|S|`. The backward pass takes the mask for the identity of `|S|`, so that the gradient of a
score is `sign(S) W dL/dW'`.

What differs: the authors' weights are random and their optimiser is SGD with momentum; here weights are those of the pretrained
backbone, and the optimiser is that of all estimators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskpack.compressor.masking.even_sparsity import EvenSparsity
from maskpack.compressor.masking.gates import Compared
from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.training.callbacks import TrainerCallback

_REMOVED = 1e-3  # of the usual height: a score of exactly 0 has no sign, and would never move


class Popup(Compared):
    """1 where the size of a score is above the threshold."""

    lifts = False

    def strength(self, score: Tensor) -> Tensor:
        """Sizes."""
        return score.abs()

    def fill(self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool) -> Tensor:
        """Compare sizes; the slope is the sign."""
        super().fill(out, score, threshold, training=training)
        return score.sign()

    def removed(self, height: float) -> float:
        """Nearly 0: nothing is below it."""
        return _REMOVED * height


@torch.no_grad()
def _start(learning: Learning) -> None:
    generator = torch.Generator().manual_seed(learning.config.seed)
    for layer in learning.layers.values():
        bound = 1.0 / math.sqrt(layer.weight.shape[1])
        drawn = torch.rand(layer.score.shape, generator=generator)
        layer.score.copy_((2.0 * drawn - 1.0) * bound)


def _steer(learning: Learning) -> list[TrainerCallback]:
    share = learning.sparsity
    assert share is not None
    return [EvenSparsity(list(learning.layers.values()), share, share)]


EDGE_POPUP = MaskLearner(_steer, lambda _: Popup(), first=_start)
