"""Companions that measure a run: the one that ends it early, and the one that remembers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskpack.compressor.data.batches import Encoded
from maskpack.compressor.learning.companion import Companion
from maskpack.compressor.learning.early import EarlyStopping
from maskpack.compressor.learning.history import History
from maskpack.compressor.learning.news import count_zeros
from maskpack.compressor.learning.student import Student
from maskpack.compressor.scores.evaluate import predict_all, score
from maskpack.compressor.scores.predict import torch_predict


def early_stopping(
    student: Student, rows: Encoded | None, *, metric: str, every: int, patience: int | None
) -> list[Companion]:
    """Early stopping on the rows held out for it, judged by the task's metric; none without them."""
    if rows is None or patience is None:
        return []
    tensors = [parameter.data for group in student.groups for parameter in group.parameters]
    tensors += [layer.threshold for layer in student.masked.values()]
    judge = _judge(student.model, rows, metric)
    return [EarlyStopping(tensors, judge, every=every, patience=patience)]


def history_of(
    student: Student, dev: Encoded, *, metric: str, steps: int, per_epoch: int
) -> History:
    """The run's memory: loss, zeros, and the metric on the evaluation rows."""
    layers = list(student.masked.values())

    def zeros() -> int:
        count = count_zeros(layers)
        return 0 if count is None else count.zeros

    return History(_judge(student.model, dev, metric), zeros, steps=steps, per_epoch=per_epoch)


def _judge(model: Any, rows: Encoded, metric: str) -> Callable[[], float]:
    """The metric of a model as it stands; it is left in training mode."""

    def judge() -> float:
        logits = predict_all(torch_predict(model), rows)
        model.train()
        return score(logits, rows.labels, [metric])[metric]

    return judge
