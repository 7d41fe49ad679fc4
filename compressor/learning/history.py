"""Watches a run and keeps a few points of it, through checkpoints too: see `curves.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from maskpack.compressor.learning.companion import Companion
from maskpack.compressor.learning.curves import MOST_POINTS, Curves, spacing


class History(Companion):
    """Mean loss and zeros at even distances, the metric at the end of epochs.

    A resumed run tells the same history, because a checkpoint keeps the points.

    Args:
        judge: the metric of the model as it stands.
        count: weights that its mask removes as it stands.
        steps: of the whole run.
        per_epoch: steps of an epoch.
    """

    def __init__(
        self, judge: Callable[[], float], count: Callable[[], int], *, steps: int, per_epoch: int
    ) -> None:
        self._judge, self._count, self._per_epoch = judge, count, per_epoch
        self._every = spacing(steps)
        self._every_score = per_epoch * spacing(steps // per_epoch)
        self._points = torch.full((MOST_POINTS, 3), torch.nan, dtype=torch.float64)
        self._scores = torch.full((MOST_POINTS, 2), torch.nan, dtype=torch.float64)
        self._running = torch.tensor(
            [0.0, 0.0, torch.nan], dtype=torch.float64
        )  # loss, steps, metric

    def state(self) -> Mapping[str, Tensor]:
        """All points so far."""
        return {"points": self._points, "scores": self._scores, "running": self._running}

    def hear_loss(self, loss: float) -> None:
        """Add the loss of a step."""
        self._running[0] += loss
        self._running[1] += 1.0

    def after_step(self, step: int, steps: int) -> None:
        """Take a point, if it is time."""
        if step % self._every == 0 or step == steps:
            mean = float(self._running[0] / self._running[1].clamp(min=1.0))
            self._note(self._points, -(-step // self._every), (step, mean, self._count()))
            self._running[:2] = 0.0
        if step % self._per_epoch == 0:
            self._running[2] = self._judge()
            if step % self._every_score == 0:
                place = step // self._every_score
                self._note(self._scores, place, (step, float(self._running[2])))

    def score(self) -> float:
        """The metric at the end of the last epoch; NaN in the first."""
        return float(self._running[2])

    def curves(self) -> Curves:
        """What was kept."""
        points = [row for row in self._points.tolist() if all(map(math.isfinite, row))]
        scores = [row for row in self._scores.tolist() if all(map(math.isfinite, row))]
        return Curves(
            steps=tuple(int(row[0]) for row in points),
            loss=tuple(row[1] for row in points),
            zeros=tuple(int(row[2]) for row in points),
            score_steps=tuple(int(row[0]) for row in scores),
            scores=tuple(row[1] for row in scores),
        )

    @staticmethod
    def _note(table: Tensor, place: int, row: tuple[float, ...]) -> None:
        table[place - 1] = torch.tensor(row, dtype=torch.float64)
