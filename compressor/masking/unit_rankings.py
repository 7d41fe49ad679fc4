"""What ranks the units of a run: the protocol, and two rankings that learn nothing, to compare with.

`units.py` has the one that is used, by Fisher information.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.unit_targets import Importance, Worth
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.train import Plan
from maskpack.formats.units import ROWS, UnitGroup, UnitPart
from maskpack.models.placement import Placement, to_numpy
from maskpack.tasks.batches import Encoded


@dataclass(frozen=True, eq=False)
class UnitRanking(ABC):
    """Says before each stage how much each unit is worth. Made of all that a ranking may look at.

    Attributes:
        model: the classifier.
        layers: parameter name -> masked linear.
        groups: of the units.
        encoded: the training rows.
        task_loss: of some rows: labels and the teacher's logits.
        plan: of the run.
        placement: precision, and processes, which share the rows.
    """

    model: Any
    layers: Mapping[str, MaskedLinear]
    groups: Sequence[UnitGroup]
    encoded: Encoded
    task_loss: TaskLoss
    plan: Plan
    placement: Placement

    @abstractmethod
    def at(self, step: int) -> Importance:
        """Importance of the units of each group for the stage after `step`, the same in all processes."""


class MagnitudeRanking(UnitRanking):
    """Squared weights of a unit as its mask leaves them, in all linears that write or read it (Li et al. 2017, arXiv 1608.08710)."""

    @torch.no_grad()
    def at(self, step: int) -> Importance:
        """See `UnitRanking`; the same for all steps while masks are."""
        del step
        return summed([self._squares(group) for group in self.groups], self.groups)

    def _squares(self, group: UnitGroup) -> Worth:
        found = np.zeros(group.count)
        for part in group.parts:
            layer = self.layers[part.name]
            kept = to_numpy((layer.weight * layer.keep()).float())
            found += squares_of(kept.astype(np.float64), part, group.count)
        return found


class RandomRanking(UnitRanking):
    """Units go at random."""

    def at(self, step: int) -> Importance:
        """See `UnitRanking`; other numbers for each step and seed."""
        rng = np.random.default_rng([self.plan.seed, step])
        return summed([rng.random(group.count) for group in self.groups], self.groups)


def squares_of(weight: Worth, part: UnitPart, count: int) -> Worth:
    """Sum of squared weights of each unit of a part, `(count)`.

    >>> weight = np.array([[1.0, 2.0], [3.0, 0.0]])
    >>> squares_of(weight, UnitPart("k.weight", ROWS, 0, 1), 2).tolist()
    [5.0, 9.0]
    """
    sums = np.square(weight).sum(axis=1 if part.axis == ROWS else 0)
    own = sums[part.entries(np.ones(count, dtype=np.bool_))]
    return np.asarray(own.reshape(count, part.width).sum(axis=1))


def summed(units: Sequence[Worth], groups: Sequence[UnitGroup]) -> Importance:
    """Importance of which that of a sub-layer, and of a layer, is the sum of its units'."""
    sublayers = np.array([worth.sum() for worth in units])
    layers: dict[int, float] = {}
    for group, worth in zip(groups, sublayers.tolist(), strict=True):
        layers[group.layer] = layers.get(group.layer, 0.0) + worth
    return Importance(tuple(units), sublayers, layers)
