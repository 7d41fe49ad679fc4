"""What a watcher of a run is told: loss every step, mask size often, the metric every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from maskpack.compressor.training.train import Progress
from maskpack.formats import MaskCount

_COUNT_EVERY = 20
_SMOOTHING = 0.05


@dataclass(frozen=True)
class News:
    """The state of a run after a step.

    Attributes:
        step, steps: finished, and in all.
        loss: smoothed training loss.
        metric: name of the main metric.
        score: its value at the end of the last epoch, or None in the first.
        count: size of the mask, or None for a dense baseline.
        stage: what is being trained: the `task`, or before it the `backbone`.
    """

    step: int
    steps: int
    loss: float
    metric: str
    score: float | None
    count: MaskCount | None
    stage: str = "task"


Observe = Callable[[News], None]


class Newsroom:
    """Turns the loop's progress into news; it changes nothing of a run.

    Args:
        observe: told of every step.
        metric: name of the main metric.
        judge: its value as the model stands; asked at the end of each epoch.
        count: size of the mask as it stands, or None for a dense baseline.
        per_epoch: steps of an epoch.
    """

    def __init__(
        self,
        observe: Observe,
        *,
        metric: str,
        judge: Callable[[], float],
        count: Callable[[], MaskCount] | None,
        per_epoch: int,
    ) -> None:
        self._observe, self._judge, self._count = observe, judge, count
        self._per_epoch = per_epoch
        size = None if count is None else count()
        self._last = News(0, 0, float("nan"), metric, None, size)

    def report(self, progress: Progress) -> None:
        """Pass on the news of one step."""
        old, step = self._last, progress.step
        smooth = progress.loss
        if old.loss == old.loss:
            smooth = old.loss + _SMOOTHING * (progress.loss - old.loss)
        self._last = replace(
            old,
            step=step,
            steps=progress.steps,
            loss=smooth,
            score=self._judge() if step % self._per_epoch == 0 else old.score,
            count=self._count() if self._count and step % _COUNT_EVERY == 0 else old.count,
        )
        self._observe(self._last)
