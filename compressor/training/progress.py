"""The state of a run for callers: loss every step, mask size often, the metric every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from maskpack.compressor.training.train import TrainStep
from maskpack.formats import MaskCount
from maskpack.models.processes import ALONE, Processes
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.evaluation.gains import SMALLER
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.types import TaskType

_COUNT_EVERY = 20
_SMOOTHING = 0.05


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step.

    Attributes:
        step, steps: finished, and in all.
        loss: smoothed training loss.
        metric: name of the main metric.
        value: of the metric at the end of the last epoch, or None in the first.
        count: size of the mask, or None for a dense baseline.
        stage: what is being trained: the `task`, or before it the `backbone` or a `teacher`.
        step_loss: training loss of the step alone.
    """

    step: int
    steps: int
    loss: float
    metric: str
    value: float | None
    count: MaskCount | None
    stage: str = "task"
    step_loss: float = float("nan")


OnProgress = Callable[[Progress], None]


class ProgressReporter:
    """Turns steps of the loop into `Progress`; it changes nothing of a run.

    Args:
        on_progress: called after every step.
        metric: name of the main metric.
        evaluate: its present value, called at the end of each epoch; None: it is not evaluated.
        count: present size of the mask; None: there is no mask.
        per_epoch: steps of an epoch.
        stage: what is being trained.
    """

    def __init__(
        self,
        on_progress: OnProgress,
        *,
        metric: str = "",
        evaluate: Callable[[], float] | None = None,
        count: Callable[[], MaskCount] | None = None,
        per_epoch: int = 1,
        stage: str = "task",
    ) -> None:
        self._observe, self._evaluate, self._count = on_progress, evaluate, count
        self._per_epoch = per_epoch
        size = None if count is None else count()
        self._last = Progress(0, 0, float("nan"), metric, None, size, stage)

    def report(self, progress: TrainStep) -> None:
        """Pass on the progress after one step."""
        old, step = self._last, progress.step
        epoch_ends = step % self._per_epoch == 0
        smooth = progress.loss
        if old.loss == old.loss:
            smooth = old.loss + _SMOOTHING * (progress.loss - old.loss)
        self._last = replace(
            old,
            step=step,
            steps=progress.steps,
            loss=smooth,
            step_loss=progress.loss,
            value=self._evaluate() if self._evaluate and epoch_ends else old.value,
            count=self._count() if self._count and step % _COUNT_EVERY == 0 else old.count,
        )
        self._observe(self._last)


def metric_of(
    model: Any,
    kind: TaskType,
    rows: Encoded,
    metric: str,
    processes: Processes = ALONE,
    *,
    rising: bool = False,
) -> Callable[[], float]:
    """Evaluates a metric of the model, in all processes together; the model is left in training mode.

    With `rising` it is what is larger where the model is better: of a metric that is smaller there, the negative value.
    """
    sign = -1.0 if rising and metric in SMALLER else 1.0

    def evaluate() -> float:
        logits = predict_all(torch_predict(model), rows, processes=processes)
        model.train()
        return sign * compute_metrics(kind, logits, rows.labels, [metric])[metric]

    return evaluate
