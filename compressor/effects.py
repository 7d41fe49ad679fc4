"""Effects of options on labels, measured on the evaluation rows, for a person and a run's result. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.label_config import ClassWeight
from maskpack.tasks.evaluation.metrics import class_metrics
from maskpack.tasks.types import TaskType


@dataclass(frozen=True)
class ClassEffect:
    """One label of a run whose loss was weighted.

    Attributes:
        label: its name.
        share: of the training rows with labels, those that have it.
        weight: with which it counted in the loss.
        recall, precision: on the evaluation rows.
        rows: evaluation rows that have it.
    """

    label: str
    share: float
    weight: float
    recall: float
    precision: float
    rows: int


@dataclass(frozen=True)
class ClassWeights:
    """All labels of a run whose loss was weighted.

    Attributes:
        classes: in the order of the logits.
        mean_recall: over the labels that evaluation rows have; of one label a row it is the balanced accuracy.
    """

    classes: tuple[ClassEffect, ...]
    mean_recall: float


@dataclass(frozen=True)
class TemperatureEffect:
    """What a temperature did on the evaluation rows.

    Attributes:
        temperature: the logits are divided by it.
        nll_before, nll_after: mean negative log-likelihood of the labels.
        ece_before, ece_after: expected calibration error, in 15 bins.
        changed: rows that are answered otherwise, because the head is rounded to float16 again.
    """

    temperature: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    changed: int


@dataclass(frozen=True)
class ThresholdEffect:
    """What the threshold of one label did.

    Attributes:
        label: its name.
        threshold: probability above which it is given, as it was before; it is at 0.5 now.
        f1_before, f1_after: on the evaluation rows.
        held_out_rows: rows that had the label among those that the threshold was fitted on.
        fitted: whether there were enough rows to fit it on; else it stayed at 0.5.
    """

    label: str
    threshold: float
    f1_before: float
    f1_after: float
    held_out_rows: int
    fitted: bool


@dataclass(frozen=True)
class HeadTuning:
    """What was fitted after the mask.

    Attributes:
        rows: training rows that were held out for it.
        scores_before: metric name -> value on the evaluation rows before it.
        temperature: if one was fitted.
        thresholds: of labels, if they were to be fitted.
    """

    rows: int
    scores_before: Mapping[str, float]
    temperature: TemperatureEffect | None = None
    thresholds: tuple[ThresholdEffect, ...] = ()

    def record(self) -> dict[str, Any]:
        """The fitted values, for a manifest."""
        fitted: dict[str, Any] = {"held_out_rows": self.rows}
        if self.temperature is not None:
            fitted["temperature"] = self.temperature.temperature
        if self.thresholds:
            fitted["thresholds"] = {each.label: each.threshold for each in self.thresholds}
        return fitted


def class_weights_of(
    class_weight: ClassWeight, kind: TaskType, labels: NDArray[Any], classes: int
) -> NDArray[np.float32] | None:
    """Weights `(c)` of the labels in the loss; None: all count alike.

    Args:
        class_weight: the option.
        kind: type of the task.
        labels: of the training rows whose labels count.
        classes: how many labels there are.
    """
    if class_weight is ClassWeight.NONE:
        return None
    return kind.balanced_weights(labels, classes)


def class_weight_effect(
    kind: TaskType,
    names: Sequence[str],
    weights: NDArray[np.float32] | None,
    *,
    trained: NDArray[Any],
    logits: NDArray[np.float32],
    labels: NDArray[Any],
) -> ClassWeights | None:
    """Each label's share, weight, recall and precision; None without weights.

    Args:
        kind: type of the task.
        names: of the labels.
        weights: of the labels in the loss, or None.
        trained: labels of the training rows.
        logits: of the evaluation rows.
        labels: of the evaluation rows.
    """
    if weights is None:
        return None
    shares = kind.counts(trained, len(names)) / len(trained)
    classes = tuple(
        ClassEffect(each.label, float(share), float(weight), each.recall, each.precision, each.rows)
        for each, share, weight in zip(
            class_metrics(kind, logits, labels, names), shares, weights, strict=True
        )
    )
    recalls = [each.recall for each in classes if each.rows]
    return ClassWeights(classes, sum(recalls) / len(recalls) if recalls else 0.0)
