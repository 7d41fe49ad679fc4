"""Hard concrete gates: an L0 penalty with a gradient of its own (Louizos et al. 2018, arXiv 1712.01312).

A score `nu` is the location of a stretched binary concrete variable. In a step, with `u` uniform:

    s = sigmoid((ln u - ln(1 - u) + nu) / beta)        z = clip(s (zeta - gamma) + gamma, 0, 1)

Weights are multiplied by `z`, through which gradients flow as they are (no straight-through pass). The expected number of gates
that are not 0 is `sum sigmoid(nu - beta ln(-gamma / zeta))`; its slope, times a price, moves scores down. The price follows the
share of zeros that is asked for, as in Wang et al. 2020 ("FLOP"), instead of being an option.

What differs: `z` is not binary, a mask is. So gates are cut in the last fifth of the steps: the weights with the smallest scores
go, the others count as a whole, and scores learn as in `threshold`, so that head and mask adapt to what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.masking.gates import Compared, Draw
from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import GlobalSparsity, risen
from maskpack.compressor.training.callbacks import TrainerCallback

BETA, GAMMA, ZETA = 2.0 / 3.0, -0.1, 1.1
_SHIFT = BETA * math.log(-GAMMA / ZETA)
_CUT = 0.8  # share of the steps after which gates are binary
_PERIOD = 4  # steps between two pushes of the penalty
_EVERY, _GAIN, _DEAREST = 20, 0.25, 1.0  # steps between prices, their speed, and the largest
_TINY = 1e-6  # distance of `u` from 0 and 1


class HardConcrete(Compared):
    """Draws `z` in a step until it is cut.

    Args:
        draw: the uniform numbers of a step.
    """

    lifts = False

    def __init__(self, draw: Draw) -> None:
        self._draw, self.is_cut = draw, False

    def fill(
        self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool
    ) -> Tensor | None:
        """Values between 0 and 1 and their slopes; once cut, or outside a step, a comparison."""
        if self.is_cut or not training:
            return super().fill(out, score, threshold, training=training)
        uniform = self._draw(score).clamp(_TINY, 1.0 - _TINY)
        soft = torch.sigmoid((torch.logit(uniform) + score) / BETA)
        stretched = soft * (ZETA - GAMMA) + GAMMA
        out.copy_(stretched.clamp(0.0, 1.0))
        inside = (stretched > 0.0) & (stretched < 1.0)
        return inside * soft * (1.0 - soft) * ((ZETA - GAMMA) / BETA)


def open_chance(score: Tensor) -> Tensor:
    """Probability that a gate is not 0.

    >>> round(float(open_chance(torch.tensor(0.0))), 3)
    0.832
    """
    return torch.sigmoid(score - _SHIFT)


class GatePenalty(TrainerCallback):
    """Moves scores down, or up, until the expected share of zeros is the one asked for, which rises; cuts gates in the end.

    Every few updates a score moves by `lr_t * price * 4 p (1 - p)`, `p` its `open_chance`.

    Args:
        layers: the masked linears, whose gates are `HardConcrete`.
        sparsity: share of zeros.
        rates: learning rate of the scores at each step.
    """

    def __init__(self, layers: Sequence[MaskedLinear], sparsity: float, rates: Tensor) -> None:
        self._layers, self._sparsity, self._rates = layers, sparsity, rates
        self._price = torch.zeros(())

    def state(self) -> Mapping[str, Tensor]:
        """The price."""
        return {"price": self._price}

    def on_step_begin(self, step: int) -> None:
        """Cut the gates, if it is time."""
        is_cut = step >= _CUT * len(self._rates)
        for layer in self._layers:
            assert isinstance(layer.gate, HardConcrete)
            layer.gate.is_cut = is_cut

    @torch.no_grad()
    def on_step_end(self, step: int, steps: int) -> None:
        """Push scores, and adjust the price."""
        if step >= _CUT * steps or step % _PERIOD:
            return
        if step % _EVERY == 0:
            self._adjust(risen(0.0, self._sparsity, step, steps))
        force = 4.0 * _PERIOD * float(self._rates[step]) * float(self._price)
        for layer in self._layers:
            chance = open_chance(layer.score)
            layer.score.sub_(chance.mul_(1.0 - chance), alpha=force)

    def _adjust(self, allowed: float) -> None:
        total = sum(layer.score.numel() for layer in self._layers)
        closed = total - sum(float(open_chance(layer.score).sum()) for layer in self._layers)
        missing = (allowed - closed / total) / max(allowed, 1e-9)
        self._price.add_(_GAIN * max(-1.0, min(1.0, missing))).clamp_(-_DEAREST, _DEAREST)


def _steer(learning: Learning) -> list[TrainerCallback]:
    layers, plan, sparsity = list(learning.layers.values()), learning.plan, learning.sparsity
    assert sparsity is not None
    rates = torch.tensor([learning.config.score_lr * plan.rate(at) for at in range(plan.steps)])
    return [
        GatePenalty(layers, sparsity, rates),
        GlobalSparsity(layers, sparsity, learning.start_sparsity),
    ]


HARD_CONCRETE = MaskLearner(_steer, HardConcrete, logits=True)
