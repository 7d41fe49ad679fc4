"""Metrics of the GLUE tasks on arrays. Each takes predictions and labels and returns a float.

F1 and Matthews correlation are for two classes, as in GLUE; with more classes F1 is the mean over
classes and Matthews the multi-class form (Gorodkin 2004). Tests hold them to scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.generic]


def accuracy(predicted: Values, labels: Values) -> float:
    """Share of exact matches."""
    return float(np.mean(predicted == labels))


def f1(predicted: Values, labels: Values) -> float:
    """F1 of class 1 for two classes, unweighted mean over classes otherwise; 0 where undefined."""
    confusion = _confusion(predicted, labels)
    hits = np.diag(confusion)
    denominator = confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = np.divide(2.0 * hits, denominator, out=np.zeros(len(hits)), where=denominator > 0)
    return float(scores[1] if len(scores) == 2 else scores[denominator > 0].mean())


def matthews(predicted: Values, labels: Values) -> float:
    """Matthews correlation; 0 if either side has one class only."""
    confusion = _confusion(predicted, labels).astype(np.float64)
    total, hits = confusion.sum(), np.trace(confusion)
    true, guessed = confusion.sum(axis=1), confusion.sum(axis=0)
    spread = (total**2 - guessed @ guessed) * (total**2 - true @ true)
    return float((hits * total - true @ guessed) / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(predicted: Values, labels: Values) -> float:
    """Linear correlation; 0 if either side is constant."""
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0  # the mean of equal values may differ from them in the last digit
    left = predicted.astype(np.float64) - predicted.astype(np.float64).mean()
    right = labels.astype(np.float64) - labels.astype(np.float64).mean()
    norm = np.sqrt((left @ left) * (right @ right))
    return float(left @ right / norm) if norm > 0 else 0.0


def spearman(predicted: Values, labels: Values) -> float:
    """Correlation of ranks; equal values share their mean rank."""
    return pearson(_ranks(predicted), _ranks(labels))


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def _confusion(predicted: Values, labels: Values) -> NDArray[np.int64]:
    """Counts `(true class, predicted class)`, at least 2 x 2."""
    size = max(int(predicted.max()), int(labels.max()), 1) + 1
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    return counts


def _ranks(values: Values) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], dtype=np.float64)
