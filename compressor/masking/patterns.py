"""What a score stands for: one weight, or in another entry another set of weights.

A pattern gives the shape of a matrix's scores, expands mask bits of scores to a mask over weights, and sums values of
weights (gradients, magnitudes) to values of scores. It may also choose the bits itself, by ranks within groups. Masks are
stored weight by weight whatever the pattern is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from maskpack.compressor.mask_config import Estimator, MaskConfig
from maskpack.compressor.masking.gates import Gate, Ranked
from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint

_DEEP = 1e4  # heights


class MaskPattern(Protocol):
    """Shapes of scores and masks; all functions are pure. Those from `gate` on have a usual answer, which a subclass inherits."""

    def score_shape(self, weight: torch.Size) -> tuple[int, ...]:
        """Shape of the scores of a matrix `(o, i)`."""

    def expand(self, scores: Tensor, weight: torch.Size) -> Tensor:
        """Values of scores as values of the weights `(o, i)` that they stand for."""

    def reduce(self, values: Tensor) -> Tensor:
        """Sums of values of weights `(o, i)`, one for each score: the transpose of `expand`."""

    def gone(self, kept: Tensor) -> Tensor:
        """Which scores stand for nothing that stays, where `kept (o, i)` is 0 for removed weights."""
        return self.reduce(kept) == 0

    def learned_by(self, estimator: Estimator) -> MaskPattern:
        """The pattern as an estimator learns it: itself, but for one that chooses among the masks of a group.

        Raises:
            ConfigError: the estimator chooses so, and the pattern has no groups.
        """
        if estimator.chooses:
            raise ConfigError(
                "the estimator maskllm chooses among the masks of a group, and the pattern weight has no groups",
                "give `pattern` 2:4 and `sparsity` 0.5",
            )
        return self

    def gate(self, learned: Gate) -> Gate:
        """How mask values follow from scores: as the estimator has it."""
        return learned

    def order(self, worth: Tensor, dead: Tensor) -> Tensor:
        """What first scores are ranked by, in the shape of the scores.

        Args:
            worth: of each score, 0 or more.
            dead: which scores stand for zeros only; they rank above all, because they cost nothing.
        """
        return worth.masked_fill(dead, torch.inf)

    def dead_score(self, height: float) -> float | None:
        """First score of one that stands for zeros only, where others start `height` from the threshold; None: that of any other."""
        del height
        return None

    def check(self, config: MaskConfig, linears: Mapping[str, tuple[int, int]]) -> None:
        """Raise ConfigError if masks of these matrices, name -> `(o, i)`, cannot have the pattern with these options."""
        del config, linears


class WeightPattern(MaskPattern):
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


class GroupPattern(WeightPattern):
    """A score for each weight; of `group` neighbours in a row the `kept` best stay.

    2:4 is the form that sparse tensor cores of NVIDIA's GPUs multiply (Mishra et al. 2021, arXiv 2104.08378). Which ones stay is
    learned by the rank of scores, straight through as other masks, or with the estimator `maskllm` by a draw of one of the six masks of a
    group (`maskllm.py`).

    Args:
        kept: weights of a group that stay.
        group: neighbours.
    """

    def __init__(self, kept: int, group: int) -> None:
        self._kept, self._group = kept, group

    def learned_by(self, estimator: Estimator) -> MaskPattern:
        """Itself, or a score for each mask of a group."""
        if not estimator.chooses:
            return self
        from maskpack.compressor.masking.maskllm import ChosenPattern  # noqa: PLC0415 - which needs this module

        return ChosenPattern(self._kept, self._group)

    def gate(self, learned: Gate) -> Gate:
        """Ranks within a group, whatever the estimator has."""
        del learned
        return Ranked(self._kept, self._group)

    def order(self, worth: Tensor, dead: Tensor) -> Tensor:
        """Ranks within a group first, so that a share of zeros takes the same number of each. Zeros take no place of a weight.

        >>> GroupPattern(1, 2).order(torch.tensor([[5.0, 4.0, 1.0, 2.0]]), torch.tensor([[False] * 4])).argsort().tolist()
        [[2, 1, 3, 0]]
        """
        grouped = worth.masked_fill(dead, -1.0).view(-1, self._group)
        place = grouped.argsort(dim=1, stable=True).argsort(dim=1)
        top = grouped.max().clamp(min=0.0) + 2.0
        return (place * top + grouped).view_as(worth)

    def dead_score(self, height: float) -> float:
        """So low that no weight falls below it, and a zero never takes the place of a weight."""
        return -_DEEP * height

    def check(self, config: MaskConfig, linears: Mapping[str, tuple[int, int]]) -> None:
        """The share of zeros is fixed, scores must be comparable from the first step on, and groups must fit."""
        name = f"{self._kept}:{self._group}"
        if not config.estimator_entry.compares:
            raise ConfigError(
                f"the pattern {name} chooses by ranks, estimator {config.estimator} in another way",
                "use the estimator threshold, topk, fixed or maskllm",
            )
        check_groups(self._kept, self._group, config, linears)
        if config.score_init == "constant":
            raise ConfigError(
                f"the pattern {name} ranks scores in the first step, and init constant gives all the same",
                "use the init magnitude",
            )


def check_groups(
    kept: int, group: int, config: MaskConfig, linears: Mapping[str, tuple[int, int]]
) -> None:
    """Raise ConfigError unless the share of zeros is that of the groups, and they divide the rows."""
    name, zeros = f"{kept}:{group}", 1.0 - kept / group
    if config.sparsity != zeros:
        raise ConfigError(
            f"the pattern {name} has a share of zeros of {zeros:g}",
            Hint("give `sparsity` {zeros}", zeros=f"{zeros:g}"),
        )
    for linear, (_, width) in linears.items():
        if width % group:
            raise ConfigError(
                f"`{linear}` has rows of {width:,} weights, which groups of {group} do not divide",
                "leave it out with `modules`, or use the pattern weight",
            )


WEIGHT = WeightPattern()
TWO_OF_FOUR = GroupPattern(2, 4)
