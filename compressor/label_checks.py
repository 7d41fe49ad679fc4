"""Options on labels that cannot do what they say are refused here, before anything is trained."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.config import FitConfig, Method
from maskpack.compressor.label_config import Calibrate, ClassWeight, Threshold
from maskpack.compressor.teacher_config import (
    DENSE_TEACHER,
    MASK_TEACHERS,
    PEER_TEACHER,
    SNAPSHOT_TEACHER,
)
from maskpack.compressor.training.teacher import Teacher
from maskpack.compressor.types import FitRequest
from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.models.build import LastLinear
from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.calibration import Decision
from maskpack.tasks.evaluation.metrics import majority
from maskpack.tasks.task import Task

_LOG = logging.getLogger(__name__)
_LEAST_ROWS = 20
"""Held-out rows for a temperature: with fewer its error is as large as what it corrects."""

LEAST_OF_LABEL = 5
"""Held-out rows with a label, and without it, for its threshold."""

_GIVE_MORE = {
    "calibrate": "give {enough} training rows or more, or leave `calibrate` out",
    "threshold": "give {enough} training rows or more, or leave `threshold` out",
}


def check_label_options(
    config: FitConfig, data: TaskData, last: LastLinear | None, *, model_type: str, labelled: bool
) -> None:
    """Refuse options on labels that do not fit the task or the model.

    Args:
        config: the options.
        data: the task's rows.
        last: the linear that the head ends in, if it does.
        model_type: architecture, for the error.
        labelled: whether the labels of training rows count.

    Raises:
        ConfigError: an option does not fit.
    """
    task = data.task
    check_class_weight(config.class_weight, task, labelled=labelled)
    if config.calibrate is not Calibrate.NONE:
        if task.type.probabilities is None:
            raise ConfigError(
                f"`calibrate` fits probabilities, and `{task.name}` is a {task.type.name}",
                "leave `calibrate` out",
            )
        _check_tuned("calibrate", task, last, model_type=model_type, labelled=labelled)
    if config.threshold is not Threshold.NONE:
        if not _decisions(data, data.train.labels):
            count = f"has {len(data.labels)} labels" if data.labels else f"is a {task.type.name}"
            raise ConfigError(
                f"`threshold` is for two labels, or for several a row, and `{task.name}` {count}",
                "leave `threshold` out",
            )
        _check_tuned("threshold", task, last, model_type=model_type, labelled=labelled)
        if last is not None and last.bias is None:
            raise ConfigError(
                f"`threshold` changes the bias of the head, and that of `{model_type}` has none",
                "leave `threshold` out",
            )


def _decisions(data: TaskData, labels: NDArray[Any]) -> tuple[Decision, ...]:
    """The decisions of rows with these labels, before anything has answered them."""
    blank = np.zeros((len(labels), data.outputs), dtype=np.float32)
    return data.task.type.decisions(blank, labels)


def _check_tuned(
    option: str, task: Task, last: LastLinear | None, *, model_type: str, labelled: bool
) -> None:
    """What every option needs that changes the head after training."""
    if not labelled:
        raise ConfigError(
            f"`{option}` compares answers with labels, and the training rows of `{task.name}` have none",
            f"leave `{option}` out",
        )
    if last is None:
        raise ConfigError(
            f"`{option}` changes the last linear of the head, and that of `{model_type}` ends in none",
            f"leave `{option}` out",
        )


def hold_out(config: FitConfig, train: Encoded, data: TaskData) -> tuple[Encoded, Encoded | None]:
    """All but a tenth of the training rows, and that tenth if an option needs it.

    Raises:
        ConfigError: the tenth has too few rows for what the options want of it.
    """
    held, needs = len(train) // 10, {}
    if config.threshold is not Threshold.NONE:
        needs["threshold"] = 2 * LEAST_OF_LABEL
    if config.calibrate is not Calibrate.NONE:
        needs["calibrate"] = _LEAST_ROWS
    for option, least in needs.items():
        if held < least:
            raise ConfigError(
                f"`{option}` needs {least} held-out rows, a tenth of the {len(train)} training rows is {held}",
                Hint(_GIVE_MORE[option], enough=10 * least),
            )
    peers = config.teacher == PEER_TEACHER  # the better one becomes the task
    learned, held_out = train.hold_out(
        if_asked=config.patience is not None or config.tunes_head or peers,
        option=f"the teacher `{PEER_TEACHER}`" if peers else "`patience`",
    )
    if config.tunes_head:
        assert held_out is not None
        _LOG.info(
            "held out %d of %d training rows, the same for every seed, to fit the head on",
            len(held_out),
            len(train),
        )
    if held_out is not None and config.threshold is not Threshold.NONE:
        _check_thresholds(data, held_out)
    if held_out is not None and (config.patience is not None or peers):
        _check_score(data.task, held_out)
    return learned, held_out


def _check_score(task: Task, held_out: Encoded) -> None:
    """Raise ConfigError where no mask could be told from another by the metric of the held-out rows, such as where no text has another of its label."""
    scores = majority(task.type, held_out.labels, (task.metric,))
    if math.isnan(scores[task.metric]):
        raise ConfigError(
            f"{task.metric} has no value on the {len(held_out)} training rows that are held out to choose by",
            "give more rows, or leave `patience` and the teacher out that choose by it",
        )


def _check_thresholds(data: TaskData, held_out: Encoded) -> None:
    """Warn of labels of which too few rows are held out for a threshold.

    Raises:
        ConfigError: there are too few of all.
    """
    decisions = _decisions(data, held_out.labels)
    few = [each for each in decisions if each.fewest < LEAST_OF_LABEL]
    if not few:
        return
    told = ", ".join(f"{each.truth.sum()} with `{data.labels[each.label]}`" for each in few)
    fact = (
        f"a threshold needs {LEAST_OF_LABEL} held-out rows with its label and as many without, "
        f"of {len(held_out)} there are {told}"
    )
    if len(few) == len(decisions):
        raise ConfigError(fact, "give more training rows, or leave `threshold` out")
    _LOG.warning("%s: it stays at 0.5", fact)


def check_head(method: Method, task: Task) -> None:
    """Raise ConfigError if a head alone is to be trained, and models of the task's type have none."""
    if method is Method.HEAD and task.type.decoder.vectors:
        raise ConfigError(
            f"`{task.name}` is a {task.type.name}, whose models have no head to train",
            "use the method `full` or `bitfit`",
        )


def check_class_weight(class_weight: ClassWeight, task: Task, *, labelled: bool) -> None:
    """Refuse weights of labels where there are none.

    Args:
        class_weight: the option.
        task: the task.
        labelled: whether the labels of training rows count.

    Raises:
        ConfigError: a number is learned, or a teacher alone says what is right.
    """
    if class_weight is ClassWeight.NONE:
        return
    if not task.type.labelled or task.type.decoder.per_token:
        raise ConfigError(
            f"`class_weight` weighs labels, and `{task.name}` is a {task.type.name}",
            "leave `class_weight` out",
        )
    if not labelled:
        raise ConfigError(
            f"`class_weight` weighs labels, and the training rows of `{task.name}` have none",
            "leave `class_weight` out",
        )


def check_mask_teacher(config: FitConfig, train: Encoded) -> None:
    """Raise ConfigError if a snapshot is to teach, and rows are other ones in every epoch."""
    if config.teacher == SNAPSHOT_TEACHER and train.redrawn:
        raise ConfigError(
            "a snapshot answers all rows once a cycle, and other tokens of these are hidden in every epoch",
            f"use the teacher `{PEER_TEACHER}` or `{DENSE_TEACHER}`",
        )


def check_unlabelled(task: Task, request: FitRequest, count: int, teacher: Teacher | None) -> None:
    """Raise ConfigError unless a task learns from `count` rows without labels, and has a teacher that answers them."""
    if task.type.own_label:
        raise ConfigError(
            f"`{task.name}` is a {task.type.name}, whose rows need no labels: {count:,} rows are for a teacher alone",
            "give all texts as `data`, and leave `texts` out",
        )
    if task.type.finds_texts:
        raise ConfigError(
            f"`{task.name}` is a {task.type.name}: a text alone has nothing to find",
            "give rows with the texts to be found, and leave `texts` out",
        )
    if teacher is not None and teacher.name in MASK_TEACHERS:
        raise ConfigError(
            f"{count:,} rows without labels need a teacher that knows the task, and a `{teacher.name}` learns it in the same run",
            "leave `teacher` at its default, or leave the rows out",
        )
    if teacher is None and request.texts is not None:
        raise ConfigError(
            "`texts` without labels are learned from a teacher, and there is none",
            "leave `teacher` at its default, or leave `texts` out",
        )
    if teacher is None:
        raise ConfigError(
            f"{count:,} rows without a label are learned from a teacher, and there is none",
            "leave `teacher` at its default, or leave the rows out with `unlabelled` skip",
        )
