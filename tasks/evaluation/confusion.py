"""A task on its evaluation rows, for a report: which classes it takes for which, or how far off it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import Artifact, TaskEntry
from maskpack.tasks.evaluation.evaluate import Assessment, Predictions, assessed, predict_split
from maskpack.tasks.evaluation.metrics import confusion_counts

_MOST_PAIRS = 500  # of a regression's rows, evenly taken: a picture shows no more


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for each.

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
        """Share of each class that was recognised; None for one without rows."""
        totals = [sum(row) for row in self.counts]
        return tuple(
            row[place] / total if total else None
            for place, (row, total) in enumerate(zip(self.counts, totals, strict=True))
        )

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Share of each given class that was right; None for one that was never given."""
        totals = [sum(column) for column in zip(*self.counts, strict=True)]
        return tuple(
            self.counts[place][place] / total if total else None
            for place, total in enumerate(totals)
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


@dataclass(frozen=True)
class ErrorAnalysis:
    """A task on its evaluation rows.

    Attributes:
        assessment: scores now, and as recorded.
        confusion: of a classification, else None; several labels a row have scores of each instead.
        pairs: true and given value of some rows of a regression, else empty.
    """

    assessment: Assessment
    confusion: Confusion | None
    pairs: tuple[tuple[float, float], ...] = ()


def analyze_errors(artifact: Artifact, task: str, *, data: Path | None = None) -> ErrorAnalysis:
    """Ask a task about its evaluation rows.

    Raises:
        DataError: the data does not ship with the package and none was given, or is not the task's.
    """
    entry = artifact.entry(task)
    return analyzed(entry, predict_split(artifact, task, data=data))


def analyzed(entry: TaskEntry, predictions: Predictions) -> ErrorAnalysis:
    """What the answers say."""
    labels, logits = predictions.split.labels, predictions.logits
    assessment = assessed(entry, predictions)
    if entry.kind == "regression":
        some = np.linspace(0, len(labels) - 1, min(len(labels), _MOST_PAIRS)).astype(int)
        pairs = tuple((float(labels[row]), float(logits[row, 0])) for row in some)
        return ErrorAnalysis(assessment, None, pairs)
    if entry.kind == "multi-label":  # no class is taken for another: each is a question of its own
        return ErrorAnalysis(assessment, None)
    return ErrorAnalysis(assessment, confusion(labels, logits.argmax(axis=1), entry.labels))


def confusion(
    labels: NDArray[np.generic], given: NDArray[np.intp], names: tuple[str, ...]
) -> Confusion:
    """Count classes.

    >>> import numpy as np
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), ("no", "yes")).counts
    ((1, 0), (1, 1))
    """
    counts = confusion_counts(given, labels, len(names))
    return Confusion(names, tuple(tuple(int(value) for value in row) for row in counts))
