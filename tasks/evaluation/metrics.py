"""Metrics on arrays. Each takes predictions and labels and returns a float.

`f1` and Matthews correlation are for two classes, as in GLUE; with more classes `f1` is the mean over
classes and Matthews the multi-class form (Gorodkin 2004). Several labels a row are arrays `(rows, c)`
of 0 and 1. Tests hold them to scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.tags import IGNORED
from maskpack.tasks.evaluation.gains import best_of
from maskpack.tasks.evaluation.words import same_words, shared_words, words_in

if TYPE_CHECKING:
    from maskpack.tasks.types.base import TaskType  # an entry counts with the functions below

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


def mae(predicted: Values, labels: Values) -> float:
    """Mean absolute error, in the unit of the labels."""
    return float(np.mean(np.abs(predicted.astype(np.float64) - labels.astype(np.float64))))


def rmse(predicted: Values, labels: Values) -> float:
    """Root mean square error, in the unit of the labels."""
    error = predicted.astype(np.float64) - labels.astype(np.float64)
    return float(np.sqrt(np.mean(np.square(error))))


def entity_f1(predicted: Values, labels: Values) -> float:
    """Harmonic mean of `entity_precision` and `entity_recall`, over entities of all kinds."""
    hits, given, true = (int(each.sum()) for each in entity_counts(predicted, labels))
    return 2.0 * hits / (given + true) if given + true else 0.0


def entity_precision(predicted: Values, labels: Values) -> float:
    """Share of the given entities that are there with these ends and of this kind; 0 if none is given."""
    hits, given, _ = (int(each.sum()) for each in entity_counts(predicted, labels))
    return hits / given if given else 0.0


def entity_recall(predicted: Values, labels: Values) -> float:
    """Share of the entities that are given with these ends and this kind; 0 if there is none."""
    hits, _, true = (int(each.sum()) for each in entity_counts(predicted, labels))
    return hits / true if true else 0.0


def recall_at_1(ranks: Values, labels: Values) -> float:
    """Share of the rows whose text is the nearest, or one of them; of ranks from 0, see `_found`."""
    return _recall(ranks, labels, 1)


def recall_at_10(ranks: Values, labels: Values) -> float:
    """Share of the rows whose text is among the nearest ten."""
    return _recall(ranks, labels, 10)


def _recall(ranks: Values, labels: Values, most: int) -> float:
    del labels
    return _mean(_found(ranks)[:, 0] < most)


def _mean(each: NDArray[Any]) -> float:
    """NaN where no row has a right text."""
    return float(np.mean(each)) if len(each) else float("nan")


def _found(ranks: Values) -> NDArray[np.int64]:
    """Ranks of the right texts of each row that has any, int64 `(rows, r)`, ascending, -1 behind the last; `(rows)` of one each."""
    known = ranks.astype(np.int64).reshape(len(ranks), -1)
    return known[known[:, 0] >= 0]


def ndcg_at_10(ranks: Values, labels: Values) -> float:
    """Mean over rows of the sum of `1 / log2(rank + 2)` of right texts, 0 from rank 10 on, over the largest sum (Jarvelin & Kekalainen 2002).

    That is 1 where a row has one right text.
    """
    del labels
    places = _found(ranks).astype(np.float64)
    there = places >= 0
    gains = np.where(there & (places < 10), 1.0 / np.log2(np.maximum(places, 0.0) + 2.0), 0.0)
    best = np.where(there, 1.0 / np.log2(np.arange(places.shape[1]) + 2.0), 0.0)
    return _mean(gains.sum(axis=1) / best.sum(axis=1))


def answer_f1(predicted: Values, labels: Values) -> float:
    """Mean over rows of the F1 of an answer's words against the best of the right answers, as SQuAD counts it."""
    return _mean_of_best(shared_words, predicted, labels)


def exact_match(predicted: Values, labels: Values) -> float:
    """Share of rows whose answer is one of the right ones; letter case, punctuation, articles and blanks do not count."""
    return _mean_of_best(same_words, predicted, labels)


def _mean_of_best(score: Callable[[str, str], float], predicted: Values, labels: Values) -> float:
    """Mean over rows of the best score against a right answer; a row without one is right if none is given.

    Args:
        score: of two texts.
        predicted: a text for each row, empty for no answer.
        labels: right texts of each row.
    """
    rows = zip(predicted.tolist(), labels.tolist(), strict=True)
    each = [
        max(score(given, right) for right in [*filter(words_in, known)] or [""])
        for given, known in rows
    ]
    return float(np.mean(each)) if each else 0.0


def perplexity(predicted: Values, labels: Values) -> float:
    """`exp` of the mean of -log p over hidden tokens, of `(n, 2)` or more as of `runtime.cloze.reduced`; 1 is the best."""
    del labels
    return float(np.exp(-predicted[:, 0].astype(np.float64).mean())) if len(predicted) else 1.0


def masked_accuracy(predicted: Values, labels: Values) -> float:
    """Share of hidden tokens that are the most probable ones."""
    return float(np.mean(predicted[:, 1] == labels)) if len(predicted) else 0.0


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "mae": mae,
    "rmse": rmse,
    "entity_f1": entity_f1,
    "entity_precision": entity_precision,
    "entity_recall": entity_recall,
    "ndcg_at_10": ndcg_at_10,
    "recall_at_1": recall_at_1,
    "recall_at_10": recall_at_10,
    "answer_f1": answer_f1,
    "exact_match": exact_match,
    "perplexity": perplexity,
    "masked_accuracy": masked_accuracy,
}


def entity_counts(
    predicted: Values, labels: Values, kinds: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Entities `(kinds)` that are rightly given, that are given, and that are there.

    Args:
        predicted: numbers of tags `(rows, tokens)`: 0 outside, `2 k + 1` at the first word of an entity of kind `k`, `2 k + 2` at others.
        labels: the same, `IGNORED` where no word begins; tokens behind those predicted have none.
        kinds: at least so many.

    >>> counts = entity_counts(np.array([[1, 2, 0, 3]]), np.array([[1, 2, 0, 1]]), kinds=2)
    >>> [each.tolist() for each in counts]  # both have an entity of kind 0, one a further one, the other one of kind 1
    [[1, 0], [1, 1], [2, 0]]
    """
    predicted, labels = np.atleast_2d(predicted), np.atleast_2d(labels)
    labels = labels[:, : predicted.shape[1]]
    counted = labels != IGNORED
    sides = [_entities(np.where(counted, one, 0), counted) for one in (predicted, labels)]
    size = max(kinds, *(int(one[:, 2].max(initial=0)) + 1 for one in sides))
    whole = [{tuple(one) for one in side.tolist()} for side in sides]
    hits = np.array([one[2] for one in whole[0] & whole[1]], dtype=np.int64)
    given, true = (np.bincount(one[:, 2], minlength=size) for one in sides)
    return np.bincount(hits, minlength=size), given, true


def _entities(tags: Values, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and last place, and kind, of each entity in rows that stand one behind the other."""
    ends = np.zeros((len(tags), 1), dtype=np.int64)  # outside, so that rows stay apart
    kept = np.concatenate([counted, np.ones_like(ends, dtype=np.bool_)], axis=1)
    line = np.concatenate([tags.astype(np.int64), ends], axis=1)[kept]
    kind = (line + 1) // 2
    before = np.concatenate([[0], kind[:-1]])
    begins = (kind > 0) & ((line % 2 == 1) | (kind != before))
    first = np.flatnonzero(begins)
    behind = np.concatenate([begins[1:] | (kind[1:] == 0), [True]])
    last = np.flatnonzero((kind > 0) & behind)
    return np.stack([first, last, kind[first] - 1], axis=1)


def class_counts(
    predicted: Values, labels: Values, classes: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows `(c)` that are correctly predicted as a class, that are predicted as it, and that have it.

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


def compute_metrics(
    kind: TaskType,
    logits: NDArray[np.float32],
    labels: NDArray[Any],
    metrics: Sequence[str],
) -> dict[str, float]:
    """Metric name -> value of logits `(rows, c)` against the labels of a type of task."""
    predicted, right = kind.answered(logits, labels), kind.right(labels)
    return {name: METRICS[name](predicted, right) for name in metrics}


def majority(kind: TaskType, labels: NDArray[Any], metrics: Sequence[str]) -> dict[str, float]:
    """Metrics of the best constant answer, which is the result of a collapsed model."""
    constants, right = kind.constants(labels), kind.right(labels)
    return {
        name: best_of(name, (METRICS[name](one, right) for one in constants)) for name in metrics
    }


@dataclass(frozen=True)
class ClassMetrics:
    """Precision and recall of one class.

    Attributes:
        label: its name.
        precision: share of the rows predicted as this label that have it; 0 if there are none.
        recall: share of the rows with this label that are predicted as it; 0 if there are none.
        f1: harmonic mean of both.
        rows: with this label.
        given: rows that are predicted as this label.
    """

    label: str
    precision: float
    recall: float
    f1: float
    rows: int
    given: int


def class_metrics(
    kind: TaskType, logits: NDArray[np.float32], labels: NDArray[Any], names: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    """A score for each class; none for a regression.

    Args:
        kind: type of the task.
        logits: `(rows, c)`.
        labels: class numbers `(rows)`, or 0 and 1 `(rows, c)`.
        names: of the classes, in the order of the logits.
    """
    if not kind.counted(names):
        return ()
    counts, names = kind.class_counts(logits, labels, len(names)), kind.counted(names)
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


@dataclass(frozen=True)
class Confusion:
    """How often each class was predicted as each class.

    Attributes:
        labels: of the classes.
        counts: `(true class, given class)`.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        """Evaluation rows in all."""
        return sum(map(sum, self.counts))

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Recall of each class; None for a class without rows."""
        totals = [sum(row) for row in self.counts]
        return tuple(
            row[index] / total if total else None
            for index, (row, total) in enumerate(zip(self.counts, totals, strict=True))
        )

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Precision of each class; None for a class that was never predicted."""
        totals = [sum(column) for column in zip(*self.counts, strict=True)]
        return tuple(
            self.counts[index][index] / total if total else None
            for index, total in enumerate(totals)
        )

    def mistakes(self, most: int) -> list[tuple[str, str, int]]:
        """True class, given class and rows of the commonest mistakes."""
        wrong = [
            (self.labels[true], self.labels[given], count)
            for true, row in enumerate(self.counts)
            for given, count in enumerate(row)
            if count and true != given
        ]
        return sorted(wrong, key=lambda each: -each[2])[:most]


def count_confusion(labels: Values, given: Values, names: tuple[str, ...]) -> Confusion:
    """Count classes.

    >>> import numpy as np
    >>> count_confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), ("no", "yes")).counts
    ((1, 0), (1, 1))
    """
    counts = confusion_counts(given, labels, len(names))
    return Confusion(names, tuple(tuple(int(value) for value in row) for row in counts))
