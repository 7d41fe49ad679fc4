"""What the outputs of a task mean: logits to labels, probabilities and numbers. Pure, numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.task import TaskConfig


@dataclass(frozen=True)
class Prediction:
    """What a task says of a text.

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
        """As JSON has it."""
        if self.labels is not None:
            return {"labels": list(self.labels), "scores": self.scores}
        if self.label is None:
            return {"score": self.score}
        return {"label": self.label, "score": self.score, "scores": self.scores}


def predictions(config: TaskConfig, logits: NDArray[np.float32]) -> list[Prediction]:
    """Logits `(b, c)` as what they mean."""
    if config.kind == "regression":
        return [Prediction(None, float(row[0]), {}) for row in logits]
    if config.kind == "multi-label":
        return [
            _several(config.labels, [float(share) for share in row]) for row in _sigmoid(logits)
        ]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    return [_best(config.labels, [float(share) for share in row]) for row in shares]


def _best(labels: Sequence[str], shares: Sequence[float]) -> Prediction:
    scores = dict(zip(labels, shares, strict=True))
    label = max(scores, key=lambda name: scores[name])
    return Prediction(label, scores[label], scores)


def _several(labels: Sequence[str], shares: Sequence[float]) -> Prediction:
    scores = dict(zip(labels, shares, strict=True))
    return Prediction(None, max(shares), scores, tuple(one for one in labels if scores[one] > 0.5))


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of large numbers too, without a warning."""
    small = np.exp(-np.abs(logits))
    shares: NDArray[np.float32] = np.where(logits >= 0, np.ones_like(small), small) / (1 + small)
    return shares
