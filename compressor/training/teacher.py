"""A fine-tuned float model as teacher of a run: its logits for the rows, and its hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.compressor.config import BaselineConfig, TeacherConfig
from maskpack.compressor.training.callbacks import Noise, use_fast_dropout
from maskpack.compressor.training.loss import DistillationTargets, HiddenStateTeacher, TaskLoss
from maskpack.compressor.training.train import NoCheckpoints, Plan, every_weight, train
from maskpack.formats import ModelError
from maskpack.formats.errors import Hint
from maskpack.models.families import longest_input, token_kinds
from maskpack.models.load import load_classifier, load_finetuned, set_pad_token
from maskpack.models.placement import Placement
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.types import TaskType, has_several

DENSE_TEACHER = "twin"
"""As `teacher`: fine-tune a dense teacher first, with the same data and budget."""

TeacherPredict = Callable[[Encoded], NDArray[np.float32]]
"""Rows to a teacher's logits `(rows, c)`."""

_STATES = 3.0  # usual weight of hidden states; 1 and 10 were worse, see docs/RESULTS.md


def distillation_targets(
    config: TeacherConfig,
    rows: Encoded,
    student: Any,
    *,
    kind: TaskType,
    model: str,
    revision: str | None,
    plan: Plan,
    placement: Placement,
    heard: Callable[[TeacherPredict], None] = lambda _: None,
) -> DistillationTargets | None:
    """The targets of the teacher that `config` names, or None without one.

    Args:
        config: names the teacher.
        rows: the training rows.
        student: configuration of the classifier that will learn, from `classifier_config`.
        kind: type of the task.
        model: the pretrained model, for a dense teacher that is trained first.
        revision: of the model.
        plan: steps and order of such a teacher's training.
        placement: where the teacher computes.
        heard: called with the teacher's predictor, to evaluate it.

    Raises:
        ModelError: the teacher has other logits, tokens or labels than the task, or no hidden states that fit.
    """
    if config.teacher is None:
        return None
    if config.teacher == DENSE_TEACHER:
        teacher = _fine_tuned(model, revision, rows, student.num_labels, kind, plan, placement)
    else:
        teacher = placement.put(_named(config.teacher, kind))
    ask = _teacher_predict(teacher, config.teacher, student, pad=rows.pad)
    logits = ask(rows)
    heard(ask)
    states = state_teacher(config, teacher, student)
    return DistillationTargets(logits, config.teacher_share, config.temperature, states)


def _teacher_predict(teacher: Any, name: str, student: Any, *, pad: int) -> TeacherPredict:
    """The teacher's predictor, which refuses rows that it cannot read."""
    predict = torch_predict(set_pad_token(teacher, pad))

    def ask(split: Encoded) -> NDArray[np.float32]:
        _check_fits(teacher.config, name, split, student)
        return predict_all(predict, split.read_by(teacher.config.to_dict()))

    return ask


def _named(teacher: str, kind: TaskType) -> Any:
    """The fine-tuned model of that name; the error for a missing one mentions the teacher that needs no name."""
    try:
        return load_finetuned(teacher, auto_class=kind.auto_class)
    except ModelError as error:
        if Path(teacher).exists():
            raise
        hint = Hint("the teacher `{own}` is trained first{other}", own=DENSE_TEACHER, other="")
        if error.hint:
            hint.fields["other"] = f"; or {error.hint}"
        raise ModelError(str(error), hint) from error


def _check_fits(config: Any, name: str, rows: Encoded, student: Any) -> None:
    """Raise ModelError unless the teacher has these tokens and these labels."""
    outputs = student.num_labels
    if config.num_labels != outputs:
        raise ModelError(f"the teacher `{name}` has {config.num_labels} logits, the task {outputs}")
    problem = getattr(config, "problem_type", None)
    if problem is not None and has_several(problem) != has_several(student.problem_type):
        raise ModelError(
            f"the teacher `{name}` is one of `{problem}`, not of {student.problem_type}"
        )
    highest = max(int(row.max()) for row in rows.ids)
    if highest >= config.vocab_size:
        raise ModelError(
            f"the teacher `{name}` has {config.vocab_size} tokens, the data holds token {highest}",
            "teacher and backbone must share a tokenizer",
        )
    longest = longest_input(config.to_dict())
    if int(rows.lengths.max()) > longest:
        raise ModelError(
            f"the teacher `{name}` reads {longest} tokens, a row has {int(rows.lengths.max())}",
            Hint("give a `max_length` of {longest}", longest=longest),
        )
    kinds = 1 + max((int(row.max()) for row in rows.types or ()), default=0)
    if 0 < token_kinds(config.to_dict()) < kinds:
        raise ModelError(f"the teacher `{name}` cannot tell the two texts of a pair apart")
    own, wanted = (
        [str(each.id2label.get(index)).casefold() for index in range(outputs)]
        for each in (config, student)
    )
    if set(own) == set(wanted) and own != wanted:
        raise ModelError(
            f"the teacher `{name}` has its labels in another order: {own}, the task {wanted}"
        )


def state_teacher(config: TeacherConfig, teacher: Any, student: Any) -> HiddenStateTeacher | None:
    """The teacher of hidden states, if it is wanted and its states have the student's shape."""
    weight = _STATES if config.teacher_states is None else config.teacher_states
    if weight == 0.0:
        return None
    own, other = (
        f"{each.num_hidden_layers} layers of {each.hidden_size}"
        for each in (student, teacher.config)
    )
    if own != other:
        if config.teacher_states is None:
            return None
        raise ModelError(
            f"the teacher `{config.teacher}` has {other}, the student {own}: no hidden states to follow",
            "leave `teacher_states` out",
        )
    return HiddenStateTeacher(teacher, weight)


def _fine_tuned(
    model: str,
    revision: str | None,
    rows: Encoded,
    outputs: int,
    kind: TaskType,
    plan: Plan,
    placement: Placement,
) -> Any:
    """A float model with a fresh head, every weight fine-tuned."""
    torch.manual_seed(plan.seed)
    teacher = placement.put(
        load_classifier(model, outputs=outputs, revision=revision, auto_class=kind.auto_class)
    )
    noise, usual = Noise(plan.seed), BaselineConfig()
    use_fast_dropout(set_pad_token(teacher, rows.pad), noise)
    train(
        teacher,
        rows,
        plan=plan,
        groups=every_weight(teacher, lr=usual.peak_lr, head_lr=usual.head_lr),
        task_loss=TaskLoss(kind, rows.labels),
        callbacks=noise,
        placement=placement,
        checkpoints=NoCheckpoints(),
        on_step=lambda _: None,
    )
    return teacher
