"""First scores: the preference for each weight before training.

The *rank* of a weight is its position among the weights of its own matrix, from 0 (least worth keeping)
to 1. A weight that is zero anyway ranks above all and counts as kept, here as in `sparsity.py`. A start turns ranks into scores around the threshold 0, `height` apart from it:

    constant        h                                          all weights kept, none preferred
    magnitude       +h where rank >= s, else -h                s: share of zeros aimed at
    soft-magnitude  h * clip((rank - s) / 0.25, -1, 1)         weights near the border move easily
    graded-magnitude  h * (rank - s) / 0.25                    the order counts at every share of zeros
    snip            like magnitude, ranked by |w dL/dw|        Lee et al. 2018, arXiv 1810.02340
    fisher          like magnitude, ranked by E[(w dL/dw)^2]   Theis et al. 2018, arXiv 1801.05787
    unit-norm       like magnitude, ranked by the L2 norm      whole outputs of a matrix go, but for the last one
                    of the weights of the same output
    random          like magnitude, ranked by chance           a control

For drawn masks (Radiya-Dixit & Wang 2020, arXiv 2004.14129; their soft start is described, not given
as a formula, so this one is ours) a score is the logit of a keep-probability
`p = clip(1 - 2 s (1 - rank), .01, .99)`, whose mean is `1 - s`; a constant start has `p = 1 - s`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from maskpack.compressor.masking.patterns import MaskPattern
from maskpack.compressor.masking.score_gradients import (
    Gradients,
    squared_gradients,
    summed_gradients,
)

_SOFT_WIDTH = 0.25  # of ranks on either side of the border


@dataclass(frozen=True, eq=False)
class Given:
    """What the weights of a matrix can be ranked by.

    Attributes:
        weight: dequantised, `(o, i)`.
        gradient: as the initialisation asked for it, in the shape of the scores; None: it asked for none.
        generator: of the seed.
        pattern: what a score stands for.
    """

    weight: Tensor
    gradient: Tensor | None
    generator: torch.Generator
    pattern: MaskPattern

    def of_gradient(self) -> Tensor:
        """The gradient."""
        assert self.gradient is not None
        return self.gradient


def _by_magnitude(given: Given) -> Tensor:
    return given.pattern.reduce(given.weight.abs())


def _by_gradient(given: Given) -> Tensor:
    return given.of_gradient().abs()


def _by_squares(given: Given) -> Tensor:
    return given.of_gradient()


def _by_unit(given: Given) -> Tensor:
    norms = given.weight.norm(dim=1, keepdim=True)
    return given.pattern.reduce(norms.expand(given.weight.shape))


def _by_chance(given: Given) -> Tensor:
    weight = given.weight
    return given.pattern.reduce(
        torch.rand(weight.shape, generator=given.generator).to(weight.device)
    )


@dataclass(frozen=True)
class ScoreInit:
    """An initialisation.

    Attributes:
        worth: what weights are ranked by, in the shape of the scores.
        gradients: measures gradients for it before training; None: it needs none.
        ranks: whether the order counts; else all scores start alike.
        soft: whether scores rise with the rank; else they have two heights.
        graded: whether they rise without an end.
    """

    worth: Callable[[Given], Tensor] = _by_magnitude
    gradients: Gradients | None = None
    ranks: bool = True
    soft: bool = False
    graded: bool = False


CONSTANT = ScoreInit(ranks=False)
MAGNITUDE = ScoreInit()
SOFT_MAGNITUDE = ScoreInit(soft=True)
GRADED_MAGNITUDE = ScoreInit(soft=True, graded=True)
SNIP = ScoreInit(_by_gradient, summed_gradients)
FISHER = ScoreInit(_by_squares, squared_gradients)
UNIT_NORM = ScoreInit(_by_unit)
RANDOM = ScoreInit(_by_chance)


def initial_scores(
    start: ScoreInit, worth: Mapping[str, Tensor], *, height: float, sparsity: float, drawn: bool
) -> dict[str, Tensor]:
    """First scores of every matrix.

    Args:
        start: the initialisation.
        worth: parameter name -> what its weights are ranked by, `(o, i)`; as the pattern orders it, infinite for one that is
            zero anyway; see `worth_of`.
        height: distance from the threshold.
        sparsity: share of weights that start below it.
        drawn: whether scores are logits of keep-probabilities.
    """
    return {
        name: _scores(start, values, height=height, sparsity=sparsity, drawn=drawn)
        for name, values in worth.items()
    }


def worth_of(
    start: ScoreInit,
    weights: Mapping[str, Tensor],
    *,
    gradients: Mapping[str, Tensor],
    seed: int,
    pattern: MaskPattern,
) -> dict[str, Tensor]:
    """What a start ranks weights by.

    Args:
        start: the initialisation.
        weights: parameter name -> dequantised weights.
        gradients: parameter name -> what `start.gradients` gave; empty where it needs none.
        seed: of what is drawn.
        pattern: what a score stands for.
    """
    generator = torch.Generator().manual_seed(seed)
    worth = {}
    for name, weight in weights.items():
        values = start.worth(Given(weight, gradients.get(name), generator, pattern))
        dead = pattern.reduce((weight != 0).to(weight.dtype)) == 0
        worth[name] = pattern.order(values, dead)
    return worth


def _scores(
    start: ScoreInit, worth: Tensor, *, height: float, sparsity: float, drawn: bool
) -> Tensor:
    if not start.ranks:
        return torch.full_like(worth, _logit(1.0 - sparsity) if drawn else height)
    ranks, present = ranks_of(worth), max(1, int(torch.isfinite(worth).sum()))
    zeros = min(round(sparsity * worth.numel()), present)
    border = (zeros - 0.5) / present  # between two ranks
    if drawn:
        share = zeros / present  # a line over the ranks whose mean is what stays
        keep = 1.0 - 2.0 * share * (1.0 - ranks) if share <= 0.5 else 2.0 * (1.0 - share) * ranks
        return torch.logit(keep.clamp_(0.01, 0.99))
    if start.soft:
        end = math.inf if start.graded else 1.0
        return height * ((ranks - border) / _SOFT_WIDTH).clamp_(-end, end)
    return torch.where(ranks >= border, height, -height)


def ranks_of(worth: Tensor) -> Tensor:
    """Places of the finite values in their order, 0 to just under 1; ties in order of position.

    >>> ranks_of(torch.tensor([[5.0, 1.0], [3.0, 2.0]])).tolist()
    [[0.75, 0.0], [0.5, 0.25]]
    """
    flat = worth.flatten()
    ranks = torch.empty_like(flat)
    places = torch.arange(len(flat), dtype=flat.dtype, device=flat.device)
    ranks[torch.argsort(flat, stable=True)] = places / max(1, int(torch.isfinite(flat).sum()))
    return ranks.view_as(worth)


def _logit(share: float) -> float:
    return float(torch.logit(torch.tensor(share).clamp(0.01, 0.99)))
