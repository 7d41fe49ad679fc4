"""MaskLLM: which n of m neighbours stay is one draw among all masks of the group (Fang et al. 2024, arXiv 2409.17481, `NVlabs/MaskLLM`).

Of each group of four neighbours in a row a score stands for each of the six masks `S_c` that keep two. In a step, with `g` Gumbel noise:

    y = softmax((kappa score + g) / tau)        mask = sum of y_c S_c

Weights are multiplied by that soft mask, through which gradients flow as they are. `kappa` rises from 100 to 500 and `tau` falls from 4 to
0.05 over the run, evenly, so that draws wander at first and settle; at the end the mask of the largest score stays. Masks that
keep large weights are rewarded: the loss has a term of its own, `-lambda sum (w mask)^2` with `lambda` 1e-5. First scores are
`N(0, 0.01)` plus the paper's prior: three deviations of them times how far a mask agrees with that of the largest magnitudes, -1, 0 or 1.

What differs: the optimiser, and its usual rate, are those for runs of hundreds of steps instead of thousands; weights are integers times scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from maskpack.compressor.mask_config import MaskConfig
from maskpack.compressor.masking.gates import Compared, Draw, Gate
from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.patterns import MaskPattern, check_groups
from maskpack.compressor.training.callbacks import TrainerCallback

KAPPA, TAU = (100.0, 500.0), (4.0, 0.05)  # at the first step and at the last
LAMBDA = 1e-5
_NOISE, _PRIOR = 0.01, 3.0  # deviation of first scores, and the prior in these
_REMOVED = -0.1  # a score below all first ones: ten units at the first step
_TINY = 1e-6  # distance of a uniform number from 0 and 1


class ChosenPattern(MaskPattern):
    """A score for each mask of a group of neighbours that keeps so many of them.

    Args:
        kept: weights of a group that stay.
        group: neighbours.
    """

    def __init__(self, kept: int, group: int) -> None:
        self._kept, self._group = kept, group
        masks = torch.zeros(len(list(combinations(range(group), kept))), group)
        for row, members in enumerate(combinations(range(group), kept)):
            masks[row, list(members)] = 1.0
        self.masks = masks
        """`(c, group)`: 1 where a mask keeps."""

    def score_shape(self, weight: torch.Size) -> tuple[int, ...]:
        """`(o, i / group, c)`."""
        return (weight[0], weight[1] // self._group, len(self.masks))

    def expand(self, scores: Tensor, weight: torch.Size) -> Tensor:
        """Sums over the masks that keep a weight: of probabilities of masks that of the weight.

        >>> chosen = torch.tensor([[[0.0, 0.25, 0.0, 0.75, 0.0, 0.0]]])
        >>> ChosenPattern(2, 4).expand(chosen, torch.Size([1, 4]))
        tensor([[0.2500, 0.7500, 1.0000, 0.0000]])
        """
        if scores.dtype == torch.bool:
            return self.expand(scores.float(), weight) > 0
        return (scores @ self.masks.to(scores)).reshape(weight)

    def reduce(self, values: Tensor) -> Tensor:
        """The transpose of `expand`: `(o, i)` to `(o, i / group, c)`."""
        grouped = values.reshape(len(values), -1, self._group)
        return grouped @ self.masks.to(values).T

    def gone(self, kept: Tensor) -> Tensor:
        """All masks but the one that keeps the largest sum of values `(o, i)`."""
        agreed = self.reduce(kept)
        best = torch.zeros_like(agreed, dtype=torch.bool)
        return ~best.scatter_(2, agreed.argmax(dim=2, keepdim=True), value=True)

    def check(self, config: MaskConfig, linears: Mapping[str, tuple[int, int]]) -> None:
        """The share of zeros is fixed, and groups must fit."""
        check_groups(self._kept, self._group, config, linears)


class Chosen(Compared):
    """Draws a soft choice among the masks of a group in a step; else the mask of the largest score.

    Args:
        draw: the uniform numbers of a step.

    Attributes:
        kappa: what scores are multiplied by.
        tau: temperature.
        soft: the choice of the last step, `(o, i / group, c)`.
    """

    lifts = False

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.kappa, self.tau = KAPPA[0], TAU[0]
        self.soft: Tensor | None = None

    def fill(
        self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool
    ) -> Tensor | None:
        """Probabilities of masks, which are their own slopes (see `chain`); outside a step 1 for the largest, of equal ones the first."""
        del threshold
        if not training:
            best = score.argmax(dim=-1, keepdim=True)
            out.copy_(torch.zeros_like(score).scatter_(-1, best, 1.0))
            return None
        uniform = self._draw(score).clamp(_TINY, 1.0 - _TINY)
        gumbel = -torch.log(-torch.log(uniform))
        self.soft = torch.softmax((self.kappa * score + gumbel) / self.tau, dim=-1)
        out.copy_(self.soft)
        return self.soft

    def chain(self, gradient: Tensor, slope: Tensor) -> Tensor:
        """The gradient of scores from that of probabilities: `kappa / tau y (g - sum of y g)`."""
        mean = (slope * gradient).sum(dim=-1, keepdim=True)
        return slope * (gradient - mean) * (self.kappa / self.tau)

    def removed(self, height: float) -> float:
        """So low that another mask is drawn nearly always at first."""
        del height
        return _REMOVED


class ChoiceSchedule(TrainerCallback):
    """Sets scale and temperature of each step, and rewards masks that keep large weights.

    Args:
        layers: the masked linears, whose gates are `Chosen`.
        steps: of the run.
    """

    def __init__(self, layers: Sequence[MaskedLinear], steps: int) -> None:
        self._layers, self._steps = layers, steps

    def on_step_begin(self, step: int) -> None:
        """Scale and temperature, evenly from the first step to the last."""
        at = step / max(1, self._steps - 1)
        for layer in self._layers:
            gate = _gate_of(layer)
            gate.kappa, gate.tau = (low + (high - low) * at for low, high in (KAPPA, TAU))

    @torch.no_grad()
    def on_gradients(self) -> None:
        """The gradient of `-lambda sum (w mask)^2`."""
        for layer in self._layers:
            gate, grad = _gate_of(layer), layer.score.grad
            if gate.soft is None or grad is None:  # an expert that no text has chosen
                continue
            mask = layer.pattern.expand(gate.soft, layer.weight.shape)
            own = layer.pattern.reduce(-2.0 * LAMBDA * layer.weight.square() * mask)
            grad.add_(gate.chain(own, gate.soft))


def _gate_of(layer: MaskedLinear) -> Chosen:
    gate: Gate = layer.gate
    assert isinstance(gate, Chosen)
    return gate


@torch.no_grad()
def _start(learning: Learning) -> None:
    generator = torch.Generator().manual_seed(learning.config.seed)
    for layer in learning.layers.values():
        pattern = layer.pattern
        assert isinstance(pattern, ChosenPattern)
        noise = torch.randn(layer.score.shape, generator=generator) * _NOISE
        agreed = ~pattern.gone(layer.weight.abs())
        near = pattern.reduce(pattern.expand(agreed.float(), layer.weight.shape))
        near -= near.mean(dim=2, keepdim=True)
        layer.score.copy_(noise.to(near) + _NOISE * _PRIOR * near)


def _steer(learning: Learning) -> list[TrainerCallback]:
    return [ChoiceSchedule(list(learning.layers.values()), learning.plan.steps)]


MASKLLM = MaskLearner(_steer, Chosen, first=_start)
