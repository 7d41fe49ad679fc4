"""Evaluate an artifact's task in torch: the masked model on the task's evaluation rows.

`assess` gives metrics; `analyze_errors` also gives the confusion of classes, or pairs of true and predicted numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import Artifact, DataError, TaskEntry
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.data.splits import Split, load_dev
from maskpack.tasks.evaluation.metrics import (
    ClassMetrics,
    Confusion,
    class_metrics,
    compute_metrics,
    majority,
)
from maskpack.tasks.task import TASKS, Task
from maskpack.tasks.types import type_of


@dataclass(frozen=True)
class Assessment:
    """Metrics of one task.

    Attributes:
        task: its name in the artifact.
        rows: evaluation rows.
        scores, majority, recorded: metric name -> value: now, for the commonest class, and as the
            manifest recorded it when the task was learned.
        same_data: whether the rows are those of the recorded scores.
        classes: precision and recall of each class; empty for a regression.
        original: scores of the source model when the task was learned, where it was a classifier of
            this task already; else None.
    """

    task: str
    rows: int
    scores: Mapping[str, float]
    majority: Mapping[str, float]
    recorded: Mapping[str, float]
    same_data: bool
    classes: tuple[ClassMetrics, ...] = ()
    original: Mapping[str, float] | None = None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class ErrorAnalysis:
    """Metrics and errors of a task on its evaluation rows.

    Attributes:
        assessment: scores now, and as recorded.
        confusion: of a classification, else None; several labels a row have scores of each instead.
        pairs: true and given value of some rows of a regression, else empty.
    """

    assessment: Assessment
    confusion: Confusion | None
    pairs: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits `(rows, c)` of a task's masked model for its evaluation rows."""

    split: Split
    logits: NDArray[np.float32]


def assess(artifact: Artifact, task: str, *, data: Path | None = None) -> Assessment:
    """Evaluate `task` on its evaluation split.

    Raises:
        DataError: the data does not ship with the package and none was given.
    """
    return assessed(artifact.entry(task), predict_split(artifact, task, data=data))


def assessed(entry: TaskEntry, predictions: Predictions) -> Assessment:
    """Metrics of the predictions."""
    split, task = predictions.split, task_of(entry)
    kind, metrics = task.type, task.metrics
    return Assessment(
        task=entry.name,
        rows=len(split),
        scores=compute_metrics(kind, predictions.logits, split.labels, metrics),
        majority=majority(kind, split.labels, metrics),
        recorded=dict(entry.scores),
        same_data=split.sha256() == entry.data.get("eval_sha256"),
        classes=class_metrics(kind, predictions.logits, split.labels, entry.labels),
        original=entry.data.get("original"),
    )


def analyze_errors(artifact: Artifact, task: str, *, data: Path | None = None) -> ErrorAnalysis:
    """Metrics and errors of a task on its evaluation rows.

    Raises:
        DataError: the data does not ship with the package and none was given, or is not the task's.
    """
    entry = artifact.entry(task)
    kind, predictions = type_of(entry), predict_split(artifact, task, data=data)
    labels, logits = predictions.split.labels, predictions.logits
    return ErrorAnalysis(
        assessed(entry, predictions),
        kind.confusion(labels, logits, entry.labels),
        kind.pairs(labels, logits),
    )


def predict_split(artifact: Artifact, task: str, *, data: Path | None = None) -> Predictions:
    """Predictions of `task` for its evaluation split.

    Raises:
        DataError: the data does not ship with the package and none was given.
    """
    entry = artifact.entry(task)
    split = evaluation_split(entry, data=data)
    if split is None:
        raise DataError(f"the evaluation data of `{task}` is not at hand", "give its `data`")
    encoded = encode_for(ModelContext.of_artifact(artifact), entry, split)
    logits = predict_all(torch_predict(restore_task(artifact, task)), encoded)
    return Predictions(split, logits)


def evaluation_split(entry: TaskEntry, *, data: Path | None) -> Split | None:
    """The evaluation rows of a task; None if no data was given and none ships with the package.

    A file that the task was learned from gives the tenth that was held out of it then, not the rows
    it was trained on.
    """
    task = task_of(entry)
    if data is None and task.folder is None:
        return None
    return load_dev(task, entry.labels, data=data, sha256=entry.data.get("eval_sha256"))


def encode_for(context: ModelContext, entry: TaskEntry, split: Split) -> Encoded:
    """Tokenise a split as in training."""
    preprocessor = context.preprocessor(type_of(entry).preprocessor)
    return preprocessor.encode(split, max_length=entry.max_length)


def task_of(entry: TaskEntry) -> Task:
    """The task of an entry: a known one, or one made from its recorded columns.

    Raises:
        DataError: the entry does not say; these keys are free, and other writers may leave them out.
    """
    name = str(entry.data.get("task", entry.name))
    known = TASKS.get(name)
    try:
        if known is not None and _is_of(known, entry):
            return _as_recorded(known, entry)
        return Task(
            name,
            kind=type_of(entry).name,
            texts=tuple(entry.data["texts"]),
            label=str(entry.data["label"]),
            metrics=tuple(entry.data["metrics"]),
            separator=entry.data.get("separator"),
        )
    except (KeyError, TypeError) as error:
        raise DataError(
            f"the manifest does not say from which columns `{entry.name}` was learned",
            "learn it again",
        ) from error


def _is_of(task: Task, entry: TaskEntry) -> bool:
    """Whether an entry was learned from `task`, not from the user's own data under its name."""
    labels = sorted(task.labels or task.raw_labels)
    wanted = (list(task.texts), task.label, str(task.kind), labels)
    data = entry.data
    recorded_as = (list(data.get("texts", ())), data.get("label"), entry.kind, sorted(entry.labels))
    return wanted == recorded_as


def _as_recorded(task: Task, entry: TaskEntry) -> Task:
    """A known task with an entry's main metric, and its labels in the order of the entry's logits."""
    shown = task.labels or task.raw_labels
    metric = entry.metric if entry.metric != task.metric else None
    if shown == entry.labels:
        return task.with_metric(metric)
    raw = dict(zip(shown, task.raw_labels, strict=True))
    order = tuple(raw[label] for label in entry.labels)
    return replace(task, labels=entry.labels, raw_labels=order).with_metric(metric)
