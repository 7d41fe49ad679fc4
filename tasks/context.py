"""An artifact's task as a torch model: its configuration, its weights, its mask."""

from __future__ import annotations

from typing import Any

from maskpack.formats import Artifact, TaskEntry
from maskpack.formats.schema import CONFIG
from maskpack.models.build import apply_patch, build_classifier, classifier_config
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.task import PROBLEM_TYPES, Kind


def restore_task(artifact: Artifact, task: str, *, attention: str | None = None) -> Any:
    """The torch model of one task, in evaluation mode.

    Args:
        artifact: an open artifact.
        task: one of its tasks.
        attention: implementation of attention; None: what transformers prefers; `eager` traces best.
    """
    entry = artifact.entry(task)
    config = task_config(artifact, entry)
    return apply_patch(
        build_classifier(artifact.backbone, config, seed=0, attention=attention),
        artifact.backbone,
        artifact.patch(task),
    )


def task_config(artifact: Artifact, entry: TaskEntry) -> Any:
    """The configuration of one of an artifact's tasks."""
    problem = PROBLEM_TYPES[Kind(entry.kind)]
    return classifier_config(
        artifact.file(CONFIG), entry.labels, outputs=entry.outputs, problem_type=problem
    )


def described(config: bytes, data: TaskData) -> Any:
    """The configuration of a classifier of a task's labels, from the bytes of an encoder's."""
    problem = PROBLEM_TYPES[data.task.kind]
    return classifier_config(config, data.labels, outputs=data.outputs, problem_type=problem)
