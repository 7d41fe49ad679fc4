"""Evaluate an artifact's task in torch: the masked model on the task's evaluation rows.

`assess` gives metrics; `analyze_errors` also gives the confusion of classes, pairs of true and predicted numbers, or texts with what is
found in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import Artifact, ArtifactError, DataError, TaskEntry
from maskpack.formats.checks import spell_out
from maskpack.tasks.data.splits import Split, load_dev
from maskpack.tasks.data_warnings import answer_warnings, log_warnings
from maskpack.tasks.evaluation.marked import MarkedText, telling
from maskpack.tasks.evaluation.metrics import (
    ClassMetrics,
    Confusion,
    class_metrics,
    compute_metrics,
    majority,
)
from maskpack.tasks.evaluation.pictures import WrongImage, wrong_images
from maskpack.tasks.task import TASKS, Task, Unlabelled
from maskpack.tasks.types import TaskType, type_of
from maskpack.tasks.windows import WindowRule

if TYPE_CHECKING:
    from maskpack.tasks.batches import Encoded
    from maskpack.tasks.context import ModelContext


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
        rows_without_label: rows of the data that were left out, because they have no label.
    """

    task: str
    rows: int
    scores: Mapping[str, float]
    majority: Mapping[str, float]
    recorded: Mapping[str, float]
    same_data: bool
    classes: tuple[ClassMetrics, ...] = ()
    original: Mapping[str, float] | None = None
    rows_without_label: int = 0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(spell_out(asdict(self)), sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class ErrorAnalysis:
    """Metrics and errors of a task on its evaluation rows.

    Attributes:
        assessment: scores now, and as recorded.
        confusion: of a classification, else None; several labels a row have scores of each instead.
        pairs: true and given value of some rows of a regression, else empty.
        texts: some rows with the entities that are there and that are given, of a task that finds them; else empty.
        pictures: some images with a wrong answer, of a task that reads images; else empty.
    """

    assessment: Assessment
    confusion: Confusion | None
    pairs: tuple[tuple[float, float], ...] = ()
    texts: tuple[MarkedText, ...] = ()
    pictures: tuple[WrongImage, ...] = ()


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a task's masked model says of its evaluation rows.

    Attributes:
        split: the rows.
        logits: `(rows, c)`, or `(rows, tokens, c)`.
        labels: of the rows as the logits have them: those of a split, or where words begin.
    """

    split: Split
    logits: NDArray[np.float32]
    labels: NDArray[Any]


def assess(
    artifact: Artifact,
    task: str,
    *,
    data: Path | None = None,
    unlabelled: str | None = None,
    device: str | None = None,
) -> Assessment:
    """Evaluate `task` on its evaluation split.

    Args:
        artifact: that holds it.
        task: its name.
        data: where the rows are, if they do not ship with the package.
        unlabelled: what is done with rows without a label; None: what was done when the task was learned.
        device: where the model answers, in float32; None: on a GPU if there is one.

    Raises:
        DataError: the data does not ship with the package and none was given.
    """
    found = predict_split(artifact, task, data=data, unlabelled=unlabelled, device=device)
    return assessed(artifact.entry(task), found)


def assessed(entry: TaskEntry, predictions: Predictions) -> Assessment:
    """Metrics of the predictions."""
    split, labels, task = predictions.split, predictions.labels, task_of(entry)
    kind, metrics = task.type, task.with_errors().metrics
    return Assessment(
        task=entry.name,
        rows=len(split),
        scores=compute_metrics(kind, predictions.logits, labels, metrics),
        majority=majority(kind, labels, metrics),
        recorded=dict(entry.scores),
        same_data=split.sha256() == entry.data.get("eval_sha256"),
        classes=class_metrics(kind, predictions.logits, labels, entry.labels),
        original=entry.data.get("original"),
        rows_without_label=len(split.unlabelled),
    )


def analyze_errors(artifact: Artifact, task: str, *, data: Path | None = None) -> ErrorAnalysis:
    """Metrics and errors of a task on its evaluation rows.

    Raises:
        DataError: the data does not ship with the package and none was given, or is not the task's.
    """
    entry = artifact.entry(task)
    kind, predictions = type_of(entry), predict_split(artifact, task, data=data)
    labels, logits = predictions.labels, predictions.logits
    return ErrorAnalysis(
        assessed(entry, predictions),
        kind.confusion(labels, logits, entry.labels),
        kind.pairs(labels, logits),
        _marked(artifact, entry, predictions) if kind.marks else (),
        wrong_images(predictions.split, labels, logits, entry.labels, _SHOWN)
        if kind.pictured
        else (),
    )


_READ, _SHOWN = 500, 12


def _marked(
    artifact: Artifact, entry: TaskEntry, predictions: Predictions
) -> tuple[MarkedText, ...]:
    """Some of the first rows with what is there and what a device would find."""
    from maskpack.tasks.context import ModelContext  # noqa: PLC0415 - torch

    kind, first = type_of(entry), np.arange(min(len(predictions.split), _READ))
    split = predictions.split.take(first)
    preprocessor = ModelContext.of_artifact(artifact).preprocessor(kind.preprocessor)
    told = preprocessor.told(split.prefixed(prefixes_of(entry)), max_length=entry.max_length)
    texts = [row[0] for row in split.texts]
    answers = kind.decoder.decode(entry.labels, predictions.logits[first], told)
    return telling(kind.marked(texts, split.labels, answers, entry.labels), _SHOWN)


def answered(model: Any, kind: TaskType, rows: Encoded) -> NDArray[np.float32]:
    """Logits `(rows, c)` of a torch model; answers that hardly differ are logged."""
    from maskpack.tasks.batches import predict_all, torch_predict  # noqa: PLC0415 - torch; graphs need none

    logits = predict_all(torch_predict(model), rows)
    log_warnings(answer_warnings(kind, logits, rows.labels))
    return logits


def predict_split(
    artifact: Artifact,
    task: str,
    *,
    data: Path | None = None,
    unlabelled: str | None = None,
    device: str | None = None,
) -> Predictions:
    """Predictions of `task` for its evaluation split.

    Raises:
        DataError: the data does not ship with the package and none was given.
    """
    from maskpack.tasks.context import restore_task  # noqa: PLC0415 - torch

    entry = artifact.entry(task)
    split = evaluation_rows(entry, data, unlabelled)
    model = restore_task(artifact, task, for_answers=True)
    return predictions_of(artifact, entry, split, model, device)


def evaluation_rows(entry: TaskEntry, data: Path | None, unlabelled: str | None = None) -> Split:
    """The evaluation rows of a task; DataError if they are not at hand."""
    split = evaluation_split(entry, data=data, unlabelled=unlabelled)
    if split is None:
        raise DataError(f"the evaluation data of `{entry.name}` is not at hand", "give its `data`")
    return split


def predictions_of(
    artifact: Artifact, entry: TaskEntry, split: Split, model: Any, device: str | None
) -> Predictions:
    """What a model says of rows."""
    from maskpack.models.placement import placement_of  # noqa: PLC0415 - torch; graphs need none
    from maskpack.tasks.batches import predict_all, torch_predict  # noqa: PLC0415
    from maskpack.tasks.context import ModelContext  # noqa: PLC0415

    encoded = encode_for(ModelContext.of_artifact(artifact), entry, split)
    logits = predict_all(torch_predict(placement_of(device, "fp32").put(model)), encoded)
    log_warnings(answer_warnings(type_of(entry), logits, encoded.labels))
    return Predictions(split, logits, encoded.labels)


def evaluation_split(
    entry: TaskEntry, *, data: Path | None, unlabelled: str | None = None
) -> Split | None:
    """The evaluation rows of a task; None if no data was given and none ships with the package.

    A file that the task was learned from gives the tenth that was held out of it then, not the rows
    it was trained on.
    """
    task = task_of(entry)
    if data is None and task.folder is None:
        return None
    if unlabelled is not None:
        task = replace(task, unlabelled=unlabelled)
    return load_dev(task, entry.labels, data=data, sha256=entry.data.get("eval_sha256"))


def encode_for(context: ModelContext, entry: TaskEntry, split: Split) -> Encoded:
    """Tokenise a split as in training."""
    preprocessor = context.preprocessor(type_of(entry).preprocessor)
    return preprocessor.encode(split.prefixed(prefixes_of(entry)), max_length=entry.max_length)


PREFIX = "prefix"
"""Feature of a task whose texts stand after others, and its key in the entry's `config`."""


def prefix_fields(task: Task) -> dict[str, Any]:
    """`requires` and `config` of the entry of a task; empty for a plain one."""
    return {"requires": (PREFIX,), "config": {PREFIX: list(task.prefixes)}} if task.prefixes else {}


def prefixes_of(entry: TaskEntry) -> tuple[str, ...]:
    """What stands before the first and the second text of a row; empty: nothing.

    Raises:
        ArtifactError: the entry does not say, although its feature does.
    """
    if PREFIX not in entry.requires:
        return ()
    found = entry.config.get(PREFIX)
    if not isinstance(found, list) or len(found) != 2 or not all(isinstance(p, str) for p in found):
        raise ArtifactError(f"`tasks.{entry.name}.config.prefix` is {found!r}, not two texts")
    return tuple(found)


STRIDE, NO_ANSWER = "stride", "no_answer"
"""Feature of a task whose rows are cut into windows, and both keys of it in the entry's `config`."""


def window_fields(task: Task, max_length: int) -> dict[str, Any]:
    """`requires` and `config` of the entry of a task that cuts rows into windows; empty for others."""
    if not task.type.decoder.windows:
        return {}
    config = {STRIDE: task.windows.shared(max_length), NO_ANSWER: task.windows.no_answer}
    return {"requires": (STRIDE,), "config": config}


def reading_fields(task: Task, max_length: int) -> tuple[dict[str, Any], ...]:
    """`requires` and `config` of all that says how the texts of a task are read, each feature alone."""
    return prefix_fields(task), window_fields(task, max_length)


def windows_of(entry: TaskEntry) -> WindowRule:
    """How the rows of a task are cut into windows; of another task the usual rule, which nothing reads.

    Raises:
        ArtifactError: the entry does not say, although its feature does.
    """
    if STRIDE not in entry.requires:
        if type_of(entry).decoder.windows:
            raise ArtifactError(
                f"task `{entry.name}` is a {entry.kind} and does not require `{STRIDE}`"
            )
        return WindowRule()
    stride, lacks = entry.config.get(STRIDE), entry.config.get(NO_ANSWER)
    if type(stride) is not int or stride < 0 or type(lacks) is not bool:
        raise ArtifactError(
            f"`tasks.{entry.name}.config` has the stride {stride!r}, `no_answer` {lacks!r}"
        )
    return WindowRule(stride, lacks)


def texts_of(entry: TaskEntry) -> int | None:
    """Texts that a row of a task has, 1 or 2; None where the entry does not say."""
    if type_of(entry).grouped:
        return 1
    columns = entry.data.get("texts")
    known = isinstance(columns, list | tuple) and len(columns) in {1, 2}
    return len(columns) if known and columns is not None else None


TEXT_WINDOWS = "windows"
"""Tokens that neighbouring windows of a long text share, of a task that was learned on such windows: a key of the entry's `data`."""


def windows_fields(task: Task, max_length: int) -> dict[str, Any]:
    """What an entry's `data` says of windows of texts; empty: texts are cut off."""
    return {TEXT_WINDOWS: task.windows.shared(max_length)} if task.windows.texts else {}


UNLABELLED = "unlabelled"
"""What was done with rows without a label when a task was learned: a key of the entry's `data`."""


def task_of(entry: TaskEntry) -> Task:
    """The task of an entry: a known one, or one made from its recorded columns.

    Raises:
        DataError: the entry does not say; these keys are free, and other writers may leave them out.
    """
    found, said = _task_of(entry), entry.data.get(UNLABELLED)
    if found.type.decoder.windows:
        found = replace(found, windows=windows_of(entry))
    elif type(stride := entry.data.get(TEXT_WINDOWS)) is int:
        found = replace(found, windows=WindowRule(stride, texts=True))
    return replace(found, unlabelled=said) if said in set(Unlabelled) else found


def _task_of(entry: TaskEntry) -> Task:
    """The same, without what is done with rows without a label.

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
