"""Scores of a predictor on a split. A predictor is any callable on arrays: torch and ORT share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.data.batches import Encoded, Feeds, evaluation_batches
from maskpack.compressor.data.metrics import METRICS

Predict = Callable[[Feeds], NDArray[np.float32]]
"""Feeds of one batch to logits `(b, c)`."""

EVAL_BATCH = 32


def predict_all(
    predict: Predict, encoded: Encoded, *, batch_size: int = EVAL_BATCH
) -> NDArray[np.float32]:
    """Logits `(rows, c)` of a whole split, in the split's own order."""
    parts, places = [], []
    for rows in evaluation_batches(encoded.lengths, batch_size=batch_size):
        parts.append(predict(encoded.feeds(rows)))
        places.append(rows)
    logits = np.concatenate(parts)
    ordered = np.empty_like(logits)
    ordered[np.concatenate(places)] = logits
    return ordered


def answers(
    logits: NDArray[np.float32], labels: NDArray[np.generic]
) -> NDArray[np.float32] | NDArray[np.intp] | NDArray[np.int8]:
    """What logits `(rows, c)` say, in the form of the labels.

    Numbers for one column of logits; 0 and 1 `(rows, c)` for several labels a row, 1 where the sigmoid
    is above a half; else class numbers.
    """
    if labels.ndim == 2:
        return (logits > 0).astype(np.int8)
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)


def score(
    logits: NDArray[np.float32], labels: NDArray[np.generic], metrics: Sequence[str]
) -> dict[str, float]:
    """Metric name -> value. One column of logits is a regression, more are classes."""
    predicted = answers(logits, labels)
    return {name: METRICS[name](predicted, labels) for name in metrics}


def majority(labels: NDArray[np.generic], metrics: Sequence[str]) -> dict[str, float]:
    """Scores of always giving the same answer: what a collapse gives.

    The answer is the commonest class or the mean value; for several labels a row it is the commonest
    ones, as many of them as score best.
    """
    if labels.ndim == 2:
        order = np.argsort(-labels.astype(np.int64).sum(axis=0), kind="stable")
        constants = [_constant(labels, order[:count]) for count in range(1, len(order) + 1)]
        return {name: max(METRICS[name](one, labels) for one in constants) for name in metrics}
    if labels.dtype.kind == "f":
        constant = np.full(labels.shape, labels.astype(np.float64).mean())
    else:
        values, counts = np.unique(labels, return_counts=True)
        constant = np.full(labels.shape, values[counts.argmax()])
    return {name: METRICS[name](constant, labels) for name in metrics}


def _constant(labels: NDArray[np.generic], chosen: NDArray[np.intp]) -> NDArray[np.int8]:
    """The same labels for every row `(rows, c)`."""
    row = np.zeros(labels.shape[1], dtype=np.int8)
    row[chosen] = 1
    return np.broadcast_to(row, labels.shape)
