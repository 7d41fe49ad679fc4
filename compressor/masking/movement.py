"""Movement pruning: a weight goes whose removal the gradients asked for (Sanh et al. 2020, arXiv 2005.07683).

A score is what a weight has moved, all start at 0:

    S = - sum_t lr_t dL/dW'_t W

Every matrix keeps its `v` best (the paper's local top-v). The share of zeros rises as in Zhu & Gupta 2017. What differs: the paper
trains weights beside scores, here they are frozen, so that only how much the loss would like a weight to be smaller counts.
`--floor 0` moves scores by plain Adam, as the authors' code does; with the usual floor they are nearer to the formula. The soft
variant, with a fixed threshold and a penalty, is left out: `topk` and `hard-concrete` are its neighbours.
"""

from __future__ import annotations

import torch

from maskpack.compressor.masking.even_sparsity import EvenSparsity
from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.training.callbacks import TrainerCallback


@torch.no_grad()
def _start(learning: Learning) -> None:
    for layer in learning.layers.values():
        layer.score.zero_()


def _steer(learning: Learning) -> list[TrainerCallback]:
    assert learning.sparsity is not None
    return [EvenSparsity(list(learning.layers.values()), learning.sparsity)]


MOVEMENT = MaskLearner(_steer, first=_start)
