"""The types of tasks: one file and one line here for each. See `base.py` for what an entry says."""

from __future__ import annotations

from maskpack.formats import ArtifactError, TaskEntry
from maskpack.formats.pooling import uses_pooler
from maskpack.tasks.types.answers import QuestionAnswering
from maskpack.tasks.types.base import TaskType
from maskpack.tasks.types.entities import TokenClassification
from maskpack.tasks.types.fill_mask import FillMask
from maskpack.tasks.types.images import ImageClassification, ImageMultiLabel, ImageRegression
from maskpack.tasks.types.label_vectors import LabelRetrieval
from maskpack.tasks.types.multi_label import MultiLabel
from maskpack.tasks.types.regression import Regression
from maskpack.tasks.types.single_label import SingleLabel
from maskpack.tasks.types.vectors import Retrieval, Similarity

TASK_TYPES: dict[str, TaskType] = {
    one.name: one
    for one in (
        SingleLabel(),
        MultiLabel(),
        Regression(),
        TokenClassification(),
        Similarity(),
        Retrieval(),
        LabelRetrieval(),
        QuestionAnswering(),
        ImageClassification(),
        ImageMultiLabel(),
        ImageRegression(),
        FillMask(),
    )
}
"""Name, as manifests spell it -> type."""


def type_of(entry: TaskEntry) -> TaskType:
    """The type of an artifact's task.

    Raises:
        ArtifactError: this release does not know it, or the task has labels that it cannot have.
    """
    if entry.kind not in TASK_TYPES:
        raise ArtifactError(
            f"task `{entry.name}` is of unknown kind `{entry.kind}`",
            f"this release reads: {', '.join(TASK_TYPES)}",
        )
    TASK_TYPES[entry.kind].check_labels(entry.labels, entry.name)
    return TASK_TYPES[entry.kind]


def may_use_pooler(entry: TaskEntry) -> bool:
    """Whether a task may use the backbone's parameters of a pooler: it has one answer a text, and its head no other pooling."""
    decoder = type_of(entry).decoder
    return uses_pooler(entry) and not (decoder.per_token or decoder.vectors)


def has_several(problem_type: str | None) -> bool:
    """Whether models of what transformers calls a problem type may give several labels a row."""
    return any(one.several and one.problem_type == problem_type for one in TASK_TYPES.values())


__all__ = ["TASK_TYPES", "TaskType", "has_several", "may_use_pooler", "type_of"]
