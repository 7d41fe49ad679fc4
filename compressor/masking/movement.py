"""Movement pruning: a weight goes whose removal the gradients asked for (Sanh et al. 2020, arXiv 2005.07683).

A score is what a weight has moved, all start at 0:

    S = - sum_t lr_t dL/dW'_t W

Every matrix keeps its `v` best (the paper's local top-v). The share of zeros rises as in Zhu & Gupta 2017. What differs: the paper
trains weights beside scores, here they are frozen, so that only how much the loss would like a weight to be smaller counts.
`--floor 0` moves scores by plain Adam, as the authors' code does; with the usual floor they are nearer to the formula. The soft
variant, with a fixed threshold and a penalty, is left out: `topk` and `hard-concrete` are its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import EVERY, EvenSparsity, global_threshold, risen
from maskpack.compressor.training.callbacks import TrainerCallback


@torch.no_grad()
def _start(learning: Learning) -> None:
    for layer in learning.layers.values():
        layer.score.zero_()


class RisingSparsity(EvenSparsity):
    """The same from the zeros of the mask that a run starts from; without one from none.

    Args:
        layers: the masked linears.
        sparsity: share of zeros at the end.
    """

    def __init__(self, layers: Sequence[MaskedLinear], sparsity: float) -> None:
        super().__init__(layers, sparsity)
        self._begun = torch.zeros(len(layers))

    def state(self) -> Mapping[str, Tensor]:
        """The zeros of each matrix before the first step."""
        return {"begun": self._begun}

    def on_step_begin(self, step: int) -> None:
        """Find what was removed before the first step: scores below 0."""
        if step == 0:
            removed = [int((layer.live_scores() < 0).sum()) for layer in self._layers]
            sizes = [layer.score.numel() for layer in self._layers]
            self._begun.copy_(torch.tensor(removed) / torch.tensor(sizes))
            self._rise(0, 1)

    def on_step_end(self, step: int, steps: int) -> None:
        """Set every matrix's threshold for the next step."""
        if step % EVERY == 0 or step == steps:
            self._rise(step, steps)

    def _rise(self, step: int, steps: int) -> None:
        for layer, begun in zip(self._layers, self._begun.tolist(), strict=True):
            share = risen(begun, self._sparsity, step, steps)
            layer.threshold.fill_(global_threshold([layer], share, exact=True))


def _steer(learning: Learning) -> list[TrainerCallback]:
    assert learning.sparsity is not None
    return [RisingSparsity(list(learning.layers.values()), learning.sparsity)]


MOVEMENT = MaskLearner(_steer, first=_start)
