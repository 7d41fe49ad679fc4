"""Precision and recall of each class, which one number for all of them hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.data.metrics import class_counts
from maskpack.compressor.scores.evaluate import answers


@dataclass(frozen=True)
class ClassScore:
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


def class_scores(
    logits: NDArray[np.float32], labels: NDArray[np.generic], names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """A score for each class; none for a regression.

    Args:
        logits: `(rows, c)`.
        labels: class numbers `(rows)`, or 0 and 1 `(rows, c)`.
        names: of the classes, in the order of the logits.
    """
    if not names:
        return ()
    counts = class_counts(answers(logits, labels), labels, len(names))
    return tuple(
        ClassScore(
            name,
            precision=hits / given if given else 0.0,
            recall=hits / rows if rows else 0.0,
            f1=2.0 * hits / (given + rows) if given + rows else 0.0,
            rows=rows,
            given=given,
        )
        for name, hits, given, rows in zip(names, *(one.tolist() for one in counts), strict=True)
    )
