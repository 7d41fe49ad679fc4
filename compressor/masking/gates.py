"""Mask values of a matrix's scores: what a training step multiplies weights by, and which weights stay in the end.

A gate is pure but for what it draws. The gradient of a score is that of its mask value, times a slope: 1 where the mask is
a comparison, whose own slope is no use (straight-through, see `linear.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Draw = Callable[[Tensor], Tensor]
"""Scores to uniform numbers of [0, 1), in their shape and on their device."""


class Gate(Protocol):
    """How scores of one matrix become mask values.

    Attributes:
        lifts: whether a score `height` above the threshold stands for a weight that stays, so that a run can start from a task's mask.
    """

    lifts: ClassVar[bool]

    def strength(self, score: Tensor) -> Tensor:
        """What is compared with the threshold, in the shape of the scores."""

    def fill(
        self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool
    ) -> Tensor | None:
        """Fill `out` with mask values, in the shape of the scores.

        Args:
            out: of the type of the weights in a step; bool where the mask itself is asked for.
            score: without a gradient.
            threshold: scalar, or one for each score.
            training: whether it is a step; else values are 0 and 1, and nothing is drawn.

        Returns:
            The slope of each value, or None for 1.
        """

    def chain(self, gradient: Tensor, slope: Tensor) -> Tensor:
        """The gradient of scores from that of mask values: times the slope, where each value follows from one score."""
        return gradient * slope

    def removed(self, height: float) -> float:
        """The score of a weight that starts removed, where others start `height` above the threshold."""


class Compared(Gate):
    """1 where a score is above the threshold."""

    lifts = True

    def strength(self, score: Tensor) -> Tensor:
        """The scores themselves."""
        return score

    def fill(
        self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool
    ) -> Tensor | None:
        """Compare; the type of weights is five times as fast as bool."""
        del training
        torch.gt(self.strength(score), threshold, out=out)
        return None

    def removed(self, height: float) -> float:
        """As far below the threshold as others start above it."""
        return -height


@dataclass(frozen=True)
class Drawn(Compared):
    """In a step 1 with probability `sigmoid(score)`.

    Attributes:
        draw: the uniform numbers of a step.
    """

    lifts = False
    draw: Draw

    def fill(
        self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool
    ) -> Tensor | None:
        """Draw in a step; compare otherwise."""
        if not training:
            return super().fill(out, score, threshold, training=training)
        torch.lt(self.draw(score), torch.sigmoid(score), out=out)
        return None


@dataclass(frozen=True)
class Ranked(Compared):
    """1 for the `kept` best scores of each group of `group` neighbours in a row; thresholds do not matter.

    Attributes:
        kept: scores of a group that stay.
        group: neighbours in a row, which divides the width.
    """

    kept: int
    group: int

    def fill(self, out: Tensor, score: Tensor, threshold: Tensor, *, training: bool) -> None:
        """Compare each score with the others of its group; of equal ones the first is better.

        Pairs are compared instead of sorted: a sort of four is many times slower.
        """
        del threshold, training
        members = score.reshape(-1, self.group).unbind(dim=1)
        bits = []
        for at, own in enumerate(members):
            better = torch.zeros_like(own, dtype=torch.uint8)
            for other, value in enumerate(members):
                if other != at:
                    better += value >= own if other < at else value > own
            bits.append(better < self.kept)
        out.copy_(torch.stack(bits, dim=1).view_as(score))
