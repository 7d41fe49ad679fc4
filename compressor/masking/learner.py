"""What computes an estimator: first scores, mask values, and the callbacks that steer a run.

An entry of `ESTIMATORS` in `compressor/mask_config.py` names a `MaskLearner`. Those whose bits are comparisons with a threshold are
here, and drawn ones; the others have a file each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.gates import Compared, Draw, Drawn, Gate
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import (
    FlipPenalty,
    GlobalSparsity,
    LevelSparsity,
    MatrixSparsity,
    NoiseThreshold,
)
from maskpack.compressor.training.callbacks import Noise, TrainerCallback
from maskpack.compressor.training.train import Plan

_CONSTANT = "constant"


@dataclass(frozen=True, eq=False)
class Learning:
    """What a learner knows of a run.

    Attributes:
        layers: parameter name -> masked linear.
        config: the options.
        plan: steps and rates.
        noise: random numbers that follow from seed and step.
        sparsity: share of zeros to reach; None: the margin decides.
        height: distance of first scores from the threshold.
    """

    layers: Mapping[str, MaskedLinear]
    config: FitConfig
    plan: Plan
    noise: Noise
    sparsity: float | None
    height: float

    @property
    def start_sparsity(self) -> float:
        """Share of zeros that the first scores stand for."""
        return 0.0 if self.config.score_init == _CONSTANT else self.sparsity or 0.0


Steer = Callable[[Learning], list[TrainerCallback]]


def _left_alone(learning: Learning) -> list[TrainerCallback]:
    del learning
    return []


def _compared(draw: Draw) -> Gate:
    del draw
    return Compared()


@dataclass(frozen=True)
class MaskLearner:
    """How mask bits follow from scores.

    Attributes:
        steer: callbacks of a run, made when the first scores are set, in the order in which they act.
        gate: of what draws a linear's numbers: how its mask values follow from its scores.
        logits: whether scores are logits of keep-probabilities, so that an initialisation spreads these.
        first: sets first scores in place; None: the initialisation does.
    """

    steer: Steer = _left_alone
    gate: Callable[[Draw], Gate] = _compared
    logits: bool = False
    first: Callable[[Learning], None] | None = None


def _steer_threshold(learning: Learning) -> list[TrainerCallback]:
    """The noise moves the threshold; a share of zeros or a price on flips does, if a size is asked for."""
    layers, config, plan = list(learning.layers.values()), learning.config, learning.plan
    height, sparsity = learning.height, learning.sparsity
    if sparsity is None:
        drifts = torch.tensor(plan.drifts()) / plan.drift()
        return [NoiseThreshold(layers, height=height, drifts=drifts, least=config.boundary)]
    if config.levels:
        return [LevelSparsity(layers, config.levels)]
    if config.sparsity is not None:
        return [GlobalSparsity(layers, sparsity, learning.start_sparsity)]
    rates = torch.tensor([config.score_lr * plan.rate(step) for step in range(plan.steps)])
    return [FlipPenalty(layers, sparsity, height=height, rates=rates)]


def _steer_topk(learning: Learning) -> list[TrainerCallback]:
    assert learning.sparsity is not None
    return [MatrixSparsity(learning.layers, learning.sparsity, learning.start_sparsity)]


THRESHOLD = MaskLearner(_steer_threshold)
"""A weight goes where gradients insist."""

TOPK = MaskLearner(_steer_topk)
"""A fixed share of each kind of matrix goes."""

BERNOULLI = MaskLearner(gate=Drawn, logits=True)
"""Masks are drawn; at the end a weight stays that is kept more often than not."""

FIXED = MaskLearner()
"""The first mask stays."""
