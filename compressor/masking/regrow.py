"""Prune and regrow: the mask is changed at set times, a few weights go and as many come back; the number of zeros stays.

Four rules of the literature, on masks of frozen weights:

    set              the lowest scores of a matrix go, any come back there      Mocanu et al. 2018, arXiv 1707.04780
    dsr              scores under one threshold for all matrices go; any come   Mostafa & Wang 2019, arXiv 1902.05967
                     back, in each matrix by what it has left
    sparse-momentum  the lowest scores of a matrix go; those come back whose    Dettmers & Zettlemoyer 2019, arXiv 1907.04840
                     momentum is best, in each matrix by its mean momentum
    rigl             the lowest scores of a matrix go; those come back there    Evci et al. 2020, arXiv 1911.11134
                     whose gradient is best

What differs for all of them. The papers train weights, a removed one is 0 when it comes back, and the smallest go. Frozen weights keep their
size, and the smallest would go again each time. So a score stands in for it: what the weight has moved since it came back,
`- sum lr dL/dW' W`, 0 at first. A weight comes back as it was. How much it would lower the loss has a sign here,
`- W dL/dW'`, where the papers take the size of a gradient. The first mask is that of the initialisation. Shares count the smaller of
kept and removed weights, since masks here may keep most. A run has some hundred steps, so times are a share of the run.

Scores are no part of the mask between two changes: it is kept in the thresholds, one a score, -inf where the weight stays and inf where
it is gone. So checkpoints, devices and the end of a run know nothing of this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskpack.compressor.masking.learner import Learning, MaskLearner, Steer
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.training.callbacks import TrainerCallback

_CHANGES = 30  # how often a mask changes
_LAST = 0.75  # share of the run after which it stays, as in RigL
_SET_SHARE = 0.3  # zeta of SET
_RIGL_SHARE = 0.3  # alpha of RigL
_MOMENTUM_SHARE, _MOMENTUM = 0.5, 0.9  # of the authors' code of sparse momentum
_DSR_SHARE, _DSR_SLACK = 0.05, 0.1  # weights that are to go at a time, and delta
_DSR_MOST = 2.0  # times as many go at most, where the threshold is not yet right


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix when its mask changes; all tensors are flat, one value a score that stands for a weight other than 0.

    Attributes:
        score: movement since the weight came back.
        kept: bool.
        pull: how much the loss would fall if the weight came back: from gradients of this step, or their momentum.
        drawn: uniform numbers.
        wanted: weights that are to be kept.
    """

    score: Tensor
    kept: Tensor
    pull: Tensor
    drawn: Tensor
    wanted: int

    @property
    def size(self) -> int:
        """Weights that are kept."""
        return int(self.kept.sum())

    @property
    def movable(self) -> int:
        """The smaller of kept and removed weights."""
        return min(self.size, self.kept.numel() - self.size)


@dataclass(frozen=True)
class Rule:
    """What goes and what comes back.

    Attributes:
        share: of the progress from 0 to 1: share of the weights that go.
        pull: what of the removed weights of a matrix comes back first: the highest.
        worth: of a matrix: its part of all that come back; None: what it lost.
        by_threshold: whether those go whose score is under one threshold for all matrices, which follows the share.
        momentum: weight of the past in an average of gradients; 0: those of the step alone.
    """

    share: Callable[[float], float]
    pull: Callable[[Matrix], Tensor]
    worth: Callable[[Matrix], float] | None = None
    by_threshold: bool = False
    momentum: float = 0.0


class Regrowth(TrainerCallback):
    """Changes masks by a rule.

    Args:
        learning: layers whose scores are those of the initialisation; scores become 0, thresholds hold the mask.
        rule: what goes and what comes back.
    """

    def __init__(self, learning: Learning, rule: Rule) -> None:
        self._learning, self._rule = learning, rule
        self._layers, self._step = list(learning.layers.values()), 0
        self._last = max(1, round(_LAST * learning.plan.steps))
        self._every = max(1, self._last // _CHANGES)
        for layer in self._layers:
            _hold(layer)
        self._pulls = [torch.zeros_like(each.score) for each in self._layers if rule.momentum]
        self._bound = torch.full(
            (), learning.config.score_lr
        )  # H of DSR: at first a step's movement

    def state(self) -> Mapping[str, Tensor]:
        """Momentum, and the bound of a threshold."""
        bound = {"bound": self._bound} if self._rule.by_threshold else {}
        return {**bound, **{str(number): each for number, each in enumerate(self._pulls)}}

    def on_step_begin(self, step: int) -> None:
        """Note the step."""
        self._step = step

    @torch.no_grad()
    def on_gradients(self) -> None:
        """Average gradients, and change the masks if it is time."""
        for pull, layer in zip(self._pulls, self._layers, strict=bool(self._pulls)):
            now = _pull(layer)
            if bool(torch.isfinite(now.sum())):  # a step that overflows in float16 is left out
                pull.lerp_(now, 1.0 - self._rule.momentum)
        if self._step and self._step % self._every == 0 and self._step <= self._last:
            self._change()

    def _change(self) -> None:
        matrices = [self._matrix(number) for number in range(len(self._layers))]
        gone = self._gone(matrices)
        for matrix, going in zip(matrices, gone, strict=True):
            matrix.kept[_lowest(matrix.score, matrix.kept, going)] = False
        for layer, matrix, more in zip(self._layers, matrices, self._back(matrices), strict=True):
            back = _lowest(-self._rule.pull(matrix), ~matrix.kept, more)
            matrix.kept[back] = True
            matrix.score[back] = 0.0
            live = layer.live()
            layer.score[live] = matrix.score
            layer.threshold[live] = _threshold(matrix.kept)

    def _matrix(self, number: int) -> Matrix:
        layer = self._layers[number]
        live, pull = layer.live(), self._pulls[number] if self._pulls else _pull(layer)
        drawn = self._learning.noise.uniform(number, layer.score)
        kept = layer.threshold < 0
        present, share = int(live.sum()), self._learning.sparsity or 0.0
        wanted = present - min(round(share * live.numel()), present)
        return Matrix(layer.score[live], kept[live], pull[live], drawn[live], wanted)

    def _gone(self, matrices: Sequence[Matrix]) -> list[int]:
        """How many weights of each matrix go: as the rule says, and what is above the wanted number."""
        share = self._rule.share(self._step / self._last)
        usual = [int(share * each.movable) for each in matrices]
        over = [each.size - each.wanted for each in matrices]
        if self._rule.worth is None:
            return [max(some, most) for some, most in zip(usual, over, strict=True)]
        if sum(over) > 0:  # the run began at the mask of another task
            return [max(0, most) for most in over]
        return self._under_bound(matrices, share) if self._rule.by_threshold else usual

    def _under_bound(self, matrices: Sequence[Matrix], share: float) -> list[int]:
        """How many scores of each matrix are under `-H`; `H` follows the number that is to go."""
        sought = share * min(
            sum(each.size for each in matrices),
            sum(each.kept.numel() - each.size for each in matrices),
        )
        under = [int((each.score[each.kept] < -self._bound).sum()) for each in matrices]
        found, most = sum(under), math.floor(_DSR_MOST * sought)
        if found < (1.0 - _DSR_SLACK) * sought:
            self._bound.mul_(0.5)
        elif found > (1.0 + _DSR_SLACK) * sought:
            self._bound.mul_(2.0)
        return under if found <= most else allotted(most, under, under)

    def _back(self, matrices: Sequence[Matrix]) -> list[int]:
        """How many weights of each matrix come back, when the others have gone."""
        room = [matrix.kept.numel() - matrix.size for matrix in matrices]
        missing = [matrix.wanted - matrix.size for matrix in matrices]
        if self._rule.worth is None:
            return missing
        return allotted(sum(missing), [self._rule.worth(each) for each in matrices], room)


def allotted(total: int, parts: Sequence[float], room: Sequence[int]) -> list[int]:
    """`total` divided in proportion to `parts`, each at most its `room`; what has no room goes to the others.

    >>> allotted(10, [1.0, 1.0, 3.0], [5, 5, 4]), allotted(3, [0.0, 0.0], [2, 2])
    ([3, 3, 4], [2, 1])
    """
    given = [0] * len(room)
    left = min(total, sum(room))
    while left > 0:
        open_parts = [part if room[at] > given[at] else 0.0 for at, part in enumerate(parts)]
        whole = sum(open_parts)
        if whole <= 0.0:  # nothing says where: from the first on
            open_parts = [float(room[at] - given[at]) for at in range(len(room))]
            whole = sum(open_parts)
        before = left
        for at, part in enumerate(open_parts):
            more = min(room[at] - given[at], math.floor(before * part / whole), left)
            given[at], left = given[at] + more, left - more
        if left == before:  # less than one for each: one for the largest parts
            for at in sorted(range(len(room)), key=lambda at: -open_parts[at])[:left]:
                given[at], left = given[at] + 1, left - 1
    return given


@torch.no_grad()
def _hold(layer: MaskedLinear) -> None:
    """Keep the mask of the first scores in the thresholds, and set scores to 0."""
    layer.threshold = _threshold(layer.score > layer.threshold)
    layer.score.zero_()


def _threshold(kept: Tensor) -> Tensor:
    """Thresholds that keep what is kept, whatever the scores are."""
    return torch.where(kept, -torch.inf, torch.inf)


def _pull(layer: MaskedLinear) -> Tensor:
    """How much the loss falls with a score's mask value, from the gradients of the step."""
    gradient = layer.score.grad
    return torch.zeros_like(layer.score) if gradient is None else -gradient


def _lowest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Places of the `count` lowest values among those where `among` is true; ties in order of position."""
    places = among.nonzero().flatten()
    return places[torch.argsort(values[places], stable=True)[: max(0, count)]]


def _cosine(start: float) -> Callable[[float], float]:
    """From `start` to 0 along half a cosine."""
    return lambda progress: start / 2.0 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _mean_size(matrix: Matrix) -> float:
    """Mean size of the momentum of the weights that are kept."""
    return float(matrix.pull[matrix.kept].abs().sum()) / max(1, matrix.size)


def _steer_by(rule: Rule) -> Steer:
    return lambda learning: [Regrowth(learning, rule)]


SET = MaskLearner(_steer_by(Rule(lambda _: _SET_SHARE, lambda each: each.drawn)))
DSR = MaskLearner(
    _steer_by(
        Rule(
            lambda _: _DSR_SHARE,
            lambda each: each.drawn,
            lambda each: float(each.size),
            by_threshold=True,
        )
    )
)
SPARSE_MOMENTUM = MaskLearner(
    _steer_by(
        Rule(_cosine(_MOMENTUM_SHARE), lambda each: each.pull, _mean_size, momentum=_MOMENTUM)
    )
)
RIGL = MaskLearner(_steer_by(Rule(_cosine(_RIGL_SHARE), lambda each: each.pull)))
