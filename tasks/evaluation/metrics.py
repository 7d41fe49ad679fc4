"""Metrics on arrays. Each takes predictions and labels and returns a float.

`f1` and Matthews correlation are for two classes, as in GLUE; with more classes `f1` is the mean over
classes and Matthews the multi-class form (Gorodkin 2004). Several labels a row are arrays `(rows, c)`
of 0 and 1. Tests hold them to scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.generic]


def accuracy(predicted: Values, labels: Values) -> float:
    """Share of exact matches; of several labels a row, of rows whose labels are all right."""
    same = predicted == labels
    return float(np.mean(same.all(axis=1) if same.ndim == 2 else same))


def f1(predicted: Values, labels: Values) -> float:
    """F1 of class 1 for two classes, unweighted mean over classes otherwise; 0 where undefined."""
    if max(int(predicted.max()), int(labels.max())) > 1:
        return macro_f1(predicted, labels)
    hits, answered, true = class_counts(predicted, labels)
    return float(2.0 * hits[1] / (answered[1] + true[1])) if answered[1] + true[1] else 0.0


def macro_f1(predicted: Values, labels: Values) -> float:
    """Unweighted mean of each class's F1, over classes that rows or predictions have."""
    hits, answered, true = class_counts(predicted, labels)
    seen = answered + true > 0
    return float(np.mean(2.0 * hits[seen] / (answered + true)[seen])) if seen.any() else 0.0


def micro_f1(predicted: Values, labels: Values) -> float:
    """F1 of all labels of all rows together."""
    hits, answered, true = class_counts(predicted, labels)
    total = int(answered.sum() + true.sum())
    return float(2.0 * hits.sum() / total) if total else 0.0


def matthews(predicted: Values, labels: Values) -> float:
    """Matthews correlation; 0 if either side has one class only."""
    confusion = confusion_counts(predicted, labels).astype(np.float64)
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
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def class_counts(
    predicted: Values, labels: Values, classes: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows `(c)` that are rightly given a class, that are given it, and that have it.

    Args:
        predicted: class numbers `(rows)`, or 0 and 1 `(rows, c)`.
        labels: the same.
        classes: at least so many, if numbers are given.
    """
    if labels.ndim == 2:
        both = (predicted == 1) & (labels == 1)
        parts = (both, predicted == 1, labels == 1)
        hits, answered, true = (part.sum(axis=0, dtype=np.int64) for part in parts)
        return hits, answered, true
    confusion = confusion_counts(predicted, labels, classes)
    return np.diag(confusion).copy(), confusion.sum(axis=0), confusion.sum(axis=1)


def confusion_counts(predicted: Values, labels: Values, classes: int = 2) -> NDArray[np.int64]:
    """Counts `(true class, predicted class)`, of so many classes or more."""
    size = max(int(predicted.max()) + 1, int(labels.max()) + 1, classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    return counts


def _ranks(values: Values) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], dtype=np.float64)


def to_answers(
    logits: NDArray[np.float32], labels: NDArray[np.generic]
) -> NDArray[np.float32] | NDArray[np.intp] | NDArray[np.int8]:
    """What logits `(rows, c)` say, in the form of the labels.

    Numbers for one column of logits; 0 and 1 `(rows, c)` for several labels a row, 1 where the sigmoid
    is above a half; else class numbers.
    """
    if labels.ndim == 2:
        return (logits > 0).astype(np.int8)
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)


def compute_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.generic], metrics: Sequence[str]
) -> dict[str, float]:
    """Metric name -> value. One column of logits is a regression, more are classes."""
    predicted = to_answers(logits, labels)
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


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class is told.

    Attributes:
        label: its name.
        precision: share of the rows given this label that have it; 0 if none is given it.
        recall: share of the rows with this label that are given it; 0 if none has it.
        f1: harmonic mean of both.
        rows: with this label.
        given: rows that are given it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    rows: int
    given: int


def class_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.generic], names: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    """A score for each class; none for a regression.

    Args:
        logits: `(rows, c)`.
        labels: class numbers `(rows)`, or 0 and 1 `(rows, c)`.
        names: of the classes, in the order of the logits.
    """
    if not names:
        return ()
    counts = class_counts(to_answers(logits, labels), labels, len(names))
    return tuple(
        ClassMetrics(
            name,
            precision=hits / given if given else 0.0,
            recall=hits / rows if rows else 0.0,
            f1=2.0 * hits / (given + rows) if given + rows else 0.0,
            rows=rows,
            given=given,
        )
        for name, hits, given, rows in zip(names, *(one.tolist() for one in counts), strict=True)
    )
