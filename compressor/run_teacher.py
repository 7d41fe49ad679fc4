"""The teacher of a run: asked, or trained first; its logits, and where its hidden states are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable

from maskpack.compressor.prepare import PreparedRun
from maskpack.compressor.training.kept_states import Keeping
from maskpack.compressor.training.loss import DistillationTargets
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.training.teacher import (
    DenseTeacherRun,
    TeacherPredict,
    distillation_targets,
)
from maskpack.compressor.training.train import Checkpoints, NoCheckpoints, Plan
from maskpack.formats.writer import nearest_folder
from maskpack.tasks.evaluation.metrics import compute_metrics

_LOG = logging.getLogger(__name__)


def log_teacher(run: PreparedRun, predict: TeacherPredict) -> None:
    """Log the teacher's metric: a weak teacher may be the reason for a weak mask."""
    metric = run.data.task.metric
    value = compute_metrics(run.kind, predict(run.dev), run.dev.labels, [metric])[metric]
    _LOG.info("the teacher has %s %.4f on the evaluation rows", metric, value)


def targets_for(
    run: PreparedRun,
    plan: Plan,
    *,
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    heard: Callable[[TeacherPredict], None] = lambda _: None,
) -> DistillationTargets | None:
    """The teacher's targets, see `distillation_targets`; one that is trained first learns by `plan`, at linear rates."""
    first = DenseTeacherRun(
        run.request.model,
        run.request.revision,
        run.train,
        run.described,
        run.kind,
        plan.linear(),
        run.placement,
        on_progress,
        checkpoints or NoCheckpoints(),
        stop,
        run.class_weights,
        None if run.request.config.random is None else run.classifier,
    )
    return distillation_targets(
        run.teacher,
        run.request.config,
        run.train,
        run.described,
        placement=run.placement,
        train_first=first.train,
        heard=heard,
        keep=_keeping(run),
    )


def _keeping(run: PreparedRun) -> Keeping | None:
    """Where the run may keep a teacher's states: on the disk that the artifact comes to."""
    place, rows = run.request.out, run.plan.steps * run.plan.batch_size
    return Keeping(nearest_folder(place), rows) if run.request.config.keep_states else None
