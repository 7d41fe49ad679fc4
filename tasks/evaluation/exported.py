"""Evaluate an exported task: texts in, answers out, as a device does it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskpack.formats import Artifact, ConfigError
from maskpack.runtime import Session
from maskpack.runtime.providers import Provider
from maskpack.runtime.session import Asked
from maskpack.runtime.task import TaskConfig, pick_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import (
    Assessment,
    Predictions,
    assessed,
    evaluation_rows,
)
from maskpack.tasks.labels import labels_on
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.vectors import group_labels, grouped_texts


def assess_exported(
    artifact: Artifact,
    folder: Path,
    task: str | None = None,
    *,
    data: Path | None = None,
    providers: Sequence[Provider] = (),
    unlabelled: str | None = None,
    ensemble: Sequence[str] = (),
) -> Assessment:
    """Metrics of an exported graph on the task's evaluation split, through `maskpack.runtime`.

    Args:
        artifact: the folder's source, which knows the rows, the metric and the score when learned.
        folder: one that an export wrote, of one task or several.
        task: which; None where there is one.
        data: evaluation data, if the task's does not ship with the package.
        providers: execution providers, see `maskpack.runtime.Session`.
        unlabelled: what is done with rows without a label; None: what was done when the task was learned.
        ensemble: tasks beside it, the mean of whose outputs with its own is measured.

    Raises:
        ConfigError: no such task, or one of other outputs than the artifact's.
        DataError: the data does not ship with the package and none was given.
        ExportError: no exported task there, or files that do not belong together.
    """
    config = pick_task(folder, task).read_config()
    entry = artifact.entry(config.name)
    if (config.kind, config.labels) != (entry.kind, entry.labels):
        raise ConfigError(
            f"`{config.name}` at `{folder}` has the labels {', '.join(config.labels) or 'of a number'}, "
            f"in `{artifact.path}` {', '.join(entry.labels) or 'those of a number'}",
            "give the artifact that it was made from",
        )
    split = evaluation_rows(entry, data, unlabelled)
    session = Session(folder, providers=providers)
    asked = (config.name, *ensemble) if ensemble else config.name
    return assessed(entry, _predicted(session, config, split, asked))


def _predicted(session: Session, config: TaskConfig, split: Split, asked: Asked) -> Predictions:
    """What a graph says of evaluation rows."""
    if TASK_TYPES[config.kind].grouped:
        rows, two = grouped_texts(split), TASK_TYPES[config.kind].texts != 1
        columns = list(zip(*rows, strict=True))
        vectors = [
            session.embed(column, task=asked, second=place > 0 and two)
            for place, column in enumerate(columns)
        ]
        return Predictions(split, np.stack(vectors, axis=1), group_labels(split, rows))
    if config.mask is not None:
        found, hidden = session.hidden([row[0] for row in split.texts], task=asked)
        return Predictions(split, found, hidden)
    texts, labels = split.for_device(), split.labels
    cut = split.windows.texts
    stride = split.windows.stride if cut else None
    if config.decoder.per_token:
        read = session.read(texts, task=asked, windows=cut, stride=stride)
        labels = labels_on(read, split, config)
    logits = session.logits(texts, task=asked, windows=cut, stride=stride)
    return Predictions(split, logits, labels)
