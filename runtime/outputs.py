"""Decoders of outputs: logits to labels, probabilities and numbers. Pure, numpy alone.

One line in `DECODERS` for each type of task. Training, verification and devices run this same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The answer of a task to a text.

    Attributes:
        label: the most probable class; None for a regression, and where a text may have several.
        score: the probability of the most probable class, or the predicted number.
        scores: class -> probability; empty for a regression.
        labels: where a text may have several, those with a probability above 0.5, in the order of the
            logits; else None.
    """

    label: str | None
    score: float
    scores: dict[str, float]
    labels: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        if self.labels is not None:
            return {"labels": list(self.labels), "scores": self.scores}
        if self.label is None:
            return {"score": self.score}
        return {"label": self.label, "score": self.score, "scores": self.scores}


@dataclass(frozen=True)
class OutputDecoder:
    """Decodes the outputs of one type of task.

    Attributes:
        labelled: whether each of two or more outputs stands for a label; else there is one number.
        predictions: labels and logits `(b, c)` to the answer for each text.
        same: for each row, whether two models' logits `(b, c)` give the same answer.
    """

    labelled: bool
    predictions: Callable[[Sequence[str], Logits], list[Prediction]]
    same: Callable[[Logits, Logits], NDArray[np.bool_]]

    def agreement(self, left: Logits, right: Logits) -> float:
        """Share of rows `(b, c)` with the same answer."""
        return float(np.mean(self.same(left, right)))


def _one_label(labels: Sequence[str], logits: Logits) -> list[Prediction]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    answers = []
    for scores in _scores(labels, shares):
        label = max(scores, key=lambda name: scores[name])
        answers.append(Prediction(label, scores[label], scores))
    return answers


def _several_labels(labels: Sequence[str], logits: Logits) -> list[Prediction]:
    small = np.exp(
        -np.abs(logits)
    )  # exp of a number of at most 0: a sigmoid without an overflow warning
    shares = np.where(logits >= 0, np.ones_like(small), small) / (1 + small)
    return [
        Prediction(None, max(scores.values()), scores, tuple(n for n in labels if scores[n] > 0.5))
        for scores in _scores(labels, shares)
    ]


def _scores(labels: Sequence[str], shares: Logits) -> list[dict[str, float]]:
    return [dict(zip(labels, row.tolist(), strict=True)) for row in shares]


def _number(labels: Sequence[str], logits: Logits) -> list[Prediction]:
    del labels
    return [Prediction(None, float(row[0]), {}) for row in logits]


def _same_class(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.asarray(left.argmax(axis=1) == right.argmax(axis=1))


def _same_labels(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.asarray(((left > 0) == (right > 0)).all(axis=1))


def _same_number(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.isclose(left, right, atol=1e-4)[:, 0]


DECODERS: dict[str, OutputDecoder] = {
    "classification": OutputDecoder(True, _one_label, _same_class),
    "multi-label": OutputDecoder(True, _several_labels, _same_labels),
    "regression": OutputDecoder(False, _number, _same_number),
}
"""Type of a task, as its configuration spells it -> decoder."""
