"""How a task was learned, as a few points: what the manifest keeps and a report draws. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_POINTS = 40
"""Of each curve: enough to see a run's shape, and a line of text in the manifest."""

HISTORY = "history"
"""Key of the curves in a task's `training`."""


@dataclass(frozen=True)
class Curves:
    """Loss, mask and metric over the steps of a run.

    Attributes:
        steps: after which a point was taken.
        loss: mean training loss since the point before.
        zeros: weights that the mask removed then.
        score_steps: steps at the end of an epoch, thinned.
        scores: the main metric on the evaluation rows then.
    """

    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    score_steps: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.loss) == len(self.zeros):
            raise ValueError("curves of steps, loss and zeros have different lengths")
        if len(self.score_steps) != len(self.scores):
            raise ValueError("curves of scores and their steps have different lengths")
        if not all(math.isfinite(value) for value in (*self.loss, *self.scores)):
            raise ValueError("a point of a curve is not finite")

    def to_tree(self) -> dict[str, str]:
        """A line of text a curve, so that the manifest stays readable. Inverse of `from_tree`.

        >>> Curves((10, 20), (0.69314, 0.5), (0, 12), (20,), (0.75,)).to_tree()["loss"]
        '0.6931 0.5'
        """
        return {
            "steps": _line(self.steps),
            "loss": _line(self.loss),
            "zeros": _line(self.zeros),
            "score_steps": _line(self.score_steps),
            "scores": _line(self.scores),
        }

    @classmethod
    def from_tree(cls, tree: Any) -> Curves | None:
        """The curves in a task's `training`; None where they are missing or of another form."""
        try:
            return cls(
                steps=tuple(int(word) for word in tree["steps"].split()),
                loss=tuple(float(word) for word in tree["loss"].split()),
                zeros=tuple(int(word) for word in tree["zeros"].split()),
                score_steps=tuple(int(word) for word in tree["score_steps"].split()),
                scores=tuple(float(word) for word in tree["scores"].split()),
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            return None  # free keys of a manifest may hold anything


def curves_of(training: Mapping[str, Any]) -> Curves | None:
    """The curves that a manifest keeps of a task, or None."""
    return Curves.from_tree(training.get(HISTORY))


def spacing(count: int) -> int:
    """Every how many of `count` events to keep so that `MOST_POINTS` are enough.

    >>> spacing(40), spacing(41), spacing(1)
    (1, 2, 1)
    """
    return max(1, -(-count // MOST_POINTS))


def _line(values: tuple[float, ...]) -> str:
    return " ".join(str(v) if isinstance(v, int) else f"{v:.4g}" for v in values)
