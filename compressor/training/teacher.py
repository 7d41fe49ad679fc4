"""A fine-tuned float model as teacher of a run: its logits for the rows, and its hidden states."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.compressor.config import BaselineConfig
from maskpack.compressor.teacher_config import (
    DENSE_TEACHER,
    MASK_TEACHERS,
    OF_ARTIFACT,
    TeacherConfig,
    artifact_and_task,
)
from maskpack.compressor.training.callbacks import Noise, use_fast_dropout
from maskpack.compressor.training.kept_states import Keeping, answers_and_states
from maskpack.compressor.training.loss import (
    DistillationTargets,
    HiddenStateTeacher,
    TaskLoss,
)
from maskpack.compressor.training.progress import OnProgress, ProgressReporter
from maskpack.compressor.training.train import (
    Checkpoints,
    NoCheckpoints,
    Plan,
    every_weight,
    train,
)
from maskpack.formats import ModelError, is_artifact, open_artifact
from maskpack.formats.errors import Hint
from maskpack.models.build import scale_outputs
from maskpack.models.cloze import fills_masks
from maskpack.models.load import load_classifier
from maskpack.models.locate import resolve
from maskpack.models.padding import set_pad_token
from maskpack.models.placement import Placement
from maskpack.models.pooling import actual_pooling, gives_vectors
from maskpack.models.processes import Processes
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.context import load_dense, restore_task
from maskpack.tasks.pretrained_head import Finding
from maskpack.tasks.types import TaskType, has_several

_LOG = logging.getLogger(__name__)

TeacherPredict = Callable[[Encoded], NDArray[np.float32]]
"""Rows to a teacher's logits `(rows, c)`."""

_STATES = 3.0  # usual weight of hidden states; 1 and 10 were worse, see docs/RESULTS.md


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher of a run.

    Attributes:
        name: as an option names it.
        model: a fine-tuned classifier; None: it is trained first, or it is a mask of the run.
    """

    name: str
    model: Any = None

    @property
    def shown(self) -> str:
        """The name for a manifest: of a folder only its last part."""
        return Path(self.name).name


def find_teacher(config: TeacherConfig, finding: Finding, kind: TaskType) -> Teacher | None:
    """The teacher of a run, loaded if it has a name; None without one.

    Args:
        config: names the teacher, or leaves it to the source model.
        finding: the source model, if it is fine-tuned for the task already: it is not loaded again.
        kind: type of the task.

    Raises:
        ModelError: no such teacher.
    """
    source = None if finding.head is None or finding.pretrained else finding.head.model
    name = config.teacher_name(source)
    if name is None or name == DENSE_TEACHER or name in MASK_TEACHERS:
        return None if name is None else Teacher(name)
    if source is not None and (name == source or resolve(name) == resolve(source)):
        return Teacher(name, finding.classifier)
    return Teacher(name, _named(name, kind))


def distillation_targets(
    teacher: Teacher | None,
    config: TeacherConfig,
    rows: Encoded,
    student: Any,
    *,
    placement: Placement,
    train_first: Callable[[], Any],
    heard: Callable[[TeacherPredict], None] = lambda _: None,
    keep: Keeping | None = None,
) -> DistillationTargets | None:
    """The targets of a teacher, or None without one, or with one that is a mask of the run (`live_teachers.py`).

    Args:
        teacher: from `find_teacher`.
        config: how much it counts.
        rows: the training rows.
        student: configuration of the classifier that will learn, from `classifier_config`.
        placement: where the teacher computes.
        train_first: trains a dense teacher, see `DenseTeacherRun`.
        heard: called with the teacher's predictor, to evaluate it.
        keep: where its hidden states are kept, if that is worth it; None: they are not.

    Raises:
        ModelError: the teacher has other logits, tokens or labels than the task, or no hidden states that fit.
    """
    if teacher is None or teacher.name in MASK_TEACHERS:
        return None
    model = train_first() if teacher.model is None else placement.put(teacher.model)
    ask = _teacher_predict(model, teacher.name, student, placement.processes, pad=rows.pad)
    _check_fits(model.config, teacher.name, rows, student)
    own = state_teacher(config, model, student, name=teacher.name)
    heard(ask)
    if rows.redrawn:
        return _asked_in_steps(config, own, model)
    if own is None or keep is None or not keep.pays(rows, model.config, placement):
        return DistillationTargets(ask(rows), config.teacher_share, config.temperature, own)
    logits, states = answers_and_states(own, rows, folder=keep.folder)
    return DistillationTargets(logits, config.teacher_share, config.temperature, states)


def _asked_in_steps(
    config: TeacherConfig, own: HiddenStateTeacher | None, model: Any
) -> DistillationTargets:
    """The targets of a teacher that answers in every step, because rows are others in every epoch."""
    asked = own or HiddenStateTeacher(model.eval(), 0.0)
    return DistillationTargets(None, config.teacher_share, config.temperature, own, asked)


def _teacher_predict(
    teacher: Any, name: str, student: Any, processes: Processes, *, pad: int
) -> TeacherPredict:
    """The teacher's predictor, which refuses rows that it cannot read."""
    predict = torch_predict(set_pad_token(teacher, pad))

    def ask(split: Encoded) -> NDArray[np.float32]:
        _check_fits(teacher.config, name, split, student)
        return predict_all(predict, split.read_by(teacher.config.to_dict()), processes=processes)

    return ask


def _named(teacher: str, kind: TaskType) -> Any:
    """The fine-tuned model of that name; the error for a missing one mentions the teacher that needs no name."""
    if (masked := _masked(teacher)) is not None:
        return masked
    try:
        return load_dense(teacher, kind)
    except ModelError as error:
        if Path(teacher).exists():
            raise
        hint = Hint("the teacher `{own}` is trained first{other}", own=DENSE_TEACHER, other="")
        if error.hint:
            hint.fields["other"] = f"; or {error.hint}"
        raise ModelError(str(error), hint) from error


def _masked(teacher: str) -> Any:
    """The model of an artifact's task, so that one mask can teach the next; None if no artifact is named.

    Born-again networks: Furlanello et al. 2018, arXiv 1805.04770.
    """
    folder, task = artifact_and_task(teacher)
    if not is_artifact(Path(folder)):
        return None
    artifact = open_artifact(Path(folder))
    if not task and len(artifact.manifest.tasks) == 1:
        task = next(iter(artifact.manifest.tasks))
    if not task:
        names = ", ".join(f"{folder}{OF_ARTIFACT}{name}" for name in artifact.manifest.tasks)
        raise ModelError(f"the teacher `{folder}` holds several tasks", f"name one: {names}")
    return restore_task(artifact, task)


def _check_fits(config: Any, name: str, rows: Encoded, student: Any) -> None:
    """Raise ModelError unless the teacher has these tokens and these labels."""
    outputs = student.num_labels
    if config.num_labels != outputs and not fills_masks(student):
        raise ModelError(f"the teacher `{name}` has {config.num_labels} logits, the task {outputs}")
    problem = getattr(config, "problem_type", None)
    if problem is not None and has_several(problem) != has_several(student.problem_type):
        raise ModelError(
            f"the teacher `{name}` is one of `{problem}`, not of {student.problem_type}"
        )
    if (refusal := rows.refusal(f"the teacher `{name}`", config.to_dict())) is not None:
        raise refusal
    if fills_masks(student) or gives_vectors(student):
        return
    own, wanted = (
        [str(each.id2label.get(index)).casefold() for index in range(outputs)]
        for each in (config, student)
    )
    if set(own) == set(wanted) and own != wanted:
        raise ModelError(
            f"the teacher `{name}` has its labels in another order: {own}, the task {wanted}"
        )


def state_teacher(
    config: TeacherConfig, teacher: Any, student: Any, *, name: str
) -> HiddenStateTeacher | None:
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
            f"the teacher `{name}` has {other}, the student {own}: no hidden states to follow",
            "leave `teacher_states` out",
        )
    return HiddenStateTeacher(teacher, weight)


@dataclass(frozen=True, eq=False)
class DenseTeacherRun:
    """The training of a dense teacher: a float model with a fresh head, every weight fine-tuned.

    Attributes:
        model: the pretrained model.
        revision: of it.
        rows: the training rows; those without labels are left out.
        student: configuration of the classifier that will learn.
        kind: type of the task.
        plan: steps and order.
        placement: where it computes.
        on_progress: called after every step, with the stage `teacher`.
        checkpoints: where the training keeps its state.
        stop: as of `train`.
        weights: of the labels in the loss, as of the model that it will teach; None: all count alike.
        drawn: of the seed of a head, the classifier over drawn weights that it starts from; None: from the pretrained ones.
    """

    model: str
    revision: str | None
    rows: Encoded
    student: Any
    kind: TaskType
    plan: Plan
    placement: Placement
    on_progress: OnProgress = lambda _: None
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    stop: Callable[[], bool] = lambda: False
    weights: NDArray[np.float32] | None = None
    drawn: Callable[[int], Any] | None = None

    def train(self) -> Any:
        """The trained model."""
        rows = self.rows.with_labels()
        _LOG.info("a dense teacher is trained first, in %d steps", self.plan.steps)
        teacher = self._first() if self.drawn is None else self.drawn(self.plan.seed)
        noise, usual = Noise(self.plan.seed), BaselineConfig()
        set_pad_token(teacher, rows.pad)
        use_fast_dropout(teacher, noise, as_bytes=self.placement.byte_dropout)
        scale_outputs(teacher, self.kind.target_scale(rows.labels))
        train(
            teacher,
            rows,
            plan=self.plan,
            groups=every_weight(teacher, lr=usual.peak_lr, head_lr=usual.head_lr),
            task_loss=TaskLoss(self.kind, rows.labels, weights=self.weights, encoded=rows),
            callbacks=noise,
            placement=self.placement,
            checkpoints=self.checkpoints,
            on_step=ProgressReporter(self.on_progress, stage="teacher").report,
            stop=self.stop,
        )
        return teacher

    def _first(self) -> Any:
        """The pretrained model with a fresh head."""
        torch.manual_seed(self.plan.seed)
        return self.placement.put(
            load_classifier(
                self.model,
                outputs=self.student.num_labels,
                revision=self.revision,
                auto_class=self.kind.auto_class,
                vocabulary=getattr(self.student, "vocab_size", 0),
                pooling=actual_pooling(self.student),
                vectors=gives_vectors(self.student),
            )
        )
