"""Names of the types of tasks that this release brings, of what is done with rows without a label, and of evaluation splits."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Names of the types in `TASK_TYPES` that this release brings."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    MULTI_LABEL = "multi-label"
    SIMILARITY = "similarity"
    RETRIEVAL = "retrieval"
    LABEL_RETRIEVAL = "label-retrieval"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a type of task
    QUESTION_ANSWERING = "question-answering"
    IMAGE_CLASSIFICATION = "image-classification"
    IMAGE_MULTI_LABEL = "image-multi-label"
    IMAGE_REGRESSION = "image-regression"
    FILL_MASK = "fill-mask"


class Unlabelled(StrEnum):
    """What is done with rows whose label is missing."""

    STOP = "stop"
    SKIP = "skip"
    TEACH = "teach"


EVALUATION = ("dev", "validation", "valid", "test")
"""Names of an evaluation split, the first that is there is taken."""
