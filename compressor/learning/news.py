"""What a watcher of a run is told: loss every step, mask size often, the metric every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from maskpack.compressor.data.batches import Encoded
from maskpack.compressor.learning.masked import MaskedLinear
from maskpack.compressor.learning.train import Progress
from maskpack.compressor.scores.evaluate import predict_all, score
from maskpack.compressor.scores.predict import torch_predict
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
    """Turns the loop's progress into news. It reads the model and changes nothing but its mode."""

    def __init__(
        self,
        observe: Observe,
        *,
        model: Any,
        layers: Sequence[MaskedLinear],
        dev: Encoded,
        metric: str,
        per_epoch: int,
        judge: Callable[[], float] | None = None,
    ) -> None:
        self._observe = observe
        self._judge = judge  # somebody who has measured already
        self._model = model
        self._layers = layers
        self._dev = dev
        self._per_epoch = per_epoch
        self._last = News(0, 0, float("nan"), metric, None, count_zeros(layers))

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
            score=self._score() if step % self._per_epoch == 0 else old.score,
            count=count_zeros(self._layers) if step % _COUNT_EVERY == 0 else old.count,
        )
        self._observe(self._last)

    def _score(self) -> float:
        if self._judge is not None:
            return self._judge()
        metric = self._last.metric
        logits = predict_all(torch_predict(self._model), self._dev)
        self._model.train()
        return score(logits, self._dev.labels, [metric])[metric]


def count_zeros(layers: Sequence[MaskedLinear]) -> MaskCount | None:
    """Size of the mask now; None without masked layers."""
    if not layers:
        return None
    with torch.no_grad():
        zeros = sum(int((~layer.keep()).sum()) for layer in layers)
    return MaskCount(sum(layer.score.numel() for layer in layers), zeros)
