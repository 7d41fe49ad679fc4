"""Runs whose mask learns from a mask of the same run: from a peer, or from its own last snapshot (`training/live_teachers.py`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from maskpack.compressor.masking.linear import count_zeros
from maskpack.compressor.masking.model import MaskedModel, freeze
from maskpack.compressor.masking.snapshots import Snapshot
from maskpack.compressor.prepare import PreparedRun
from maskpack.compressor.teacher_config import PEER_TEACHER, SNAPSHOT_TEACHER
from maskpack.compressor.training.callbacks import CallbackList, History
from maskpack.compressor.training.live_teachers import (
    PeerLoss,
    Peers,
    SnapshotTeacher,
    snapshot_targets,
)
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter, metric_of
from maskpack.compressor.training.train import Checkpoints, train
from maskpack.formats import Patch
from maskpack.tasks.evaluation.gains import SMALLER

_LOG = logging.getLogger(__name__)
_APART = 1 << 30  # between the seeds of two peers: no usual seed is another run's peer

Build = Callable[[PreparedRun, TaskLoss], MaskedModel]
"""`masked_model_of` of `compressor/fit.py`."""


def has_peer(run: PreparedRun) -> bool:
    """Whether the run learns two masks that teach each other."""
    return run.teacher is not None and run.teacher.name == PEER_TEACHER


def has_snapshot_teacher(run: PreparedRun) -> bool:
    """Whether the run learns from its own last snapshot."""
    return run.teacher is not None and run.teacher.name == SNAPSHOT_TEACHER


def with_snapshot_teacher(
    run: PreparedRun, masked: MaskedModel, task_loss: TaskLoss
) -> tuple[MaskedModel, TaskLoss]:
    """The model with a callback that keeps what each cycle's mask answers, and a loss that compares with it; both as they are in other runs."""
    if not has_snapshot_teacher(run):
        return masked, task_loss
    config = run.request.config
    targets = snapshot_targets(
        masked.model, run.train, share=config.teacher_share, temperature=config.temperature
    )
    teacher = SnapshotTeacher(
        masked.model,
        run.train,
        targets,
        run.plan.parts(config.parts)[:-1],
        run.placement.processes,
    )
    taught = replace(masked, callbacks=[*masked.callbacks, teacher])
    return taught, replace(task_loss, targets=targets)


@dataclass(frozen=True, eq=False)
class PeerPair:
    """Two masks that will learn in the same steps.

    Attributes:
        each: both, each with its own model, groups and callbacks.
        together: both as one, whose model gives logits `(2, ...)`; its layers are the first one's.
        task_loss: of both.
    """

    each: tuple[MaskedModel, MaskedModel]
    together: MaskedModel
    task_loss: PeerLoss

    @classmethod
    def of(cls, run: PreparedRun, alone: TaskLoss, build: Build) -> PeerPair:
        """The pair of a run, before its first step.

        Args:
            run: as prepared; the second mask has another seed, so that its head starts elsewhere and its dropout differs.
            alone: the loss of one mask without a teacher.
            build: makes one mask.
        """
        config = run.request.config
        other = replace(config, seed=(config.seed + _APART) % (1 << 31))
        first = build(run, alone)
        second = build(replace(run, request=replace(run.request, config=other)), alone)
        together = replace(
            first,
            model=Peers(first.model, second.model),
            groups=[*first.groups, *second.groups],
            callbacks=[*first.callbacks, *second.callbacks],
        )
        share, temperature = config.teacher_share, config.temperature
        return cls(
            (first, second), together, PeerLoss.of(alone, share=share, temperature=temperature)
        )


@dataclass(frozen=True, eq=False)
class OtherPeer:
    """The patch of the peer that is not the task, as a snapshot of the run's end."""

    snapshot: Snapshot

    def taken(self) -> tuple[Snapshot, ...]:
        """That one."""
        return (self.snapshot,)


def train_peers(
    run: PreparedRun,
    pair: PeerPair,
    checkpoints: Checkpoints,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> tuple[MaskedModel, int, History]:
    """Train both; return the one that is better on the held-out rows, with the other as its snapshot if that is asked for."""
    histories = [_history(run, one) for one in pair.each]
    first = list(pair.each[0].layers.values())
    reporter = ProgressReporter(
        on_progress,
        metric=run.data.task.metric,
        evaluate=histories[0].metric,
        count=partial(count_zeros, first),
        per_epoch=run.per_epoch,
    )
    steps = train(
        pair.together.model,
        run.train,
        plan=run.plan,
        groups=pair.together.groups,
        task_loss=pair.task_loss,
        callbacks=CallbackList([*pair.together.callbacks, *histories]),
        placement=run.placement,
        checkpoints=checkpoints,
        on_step=reporter.report,
        stop=stop,
    )
    best = _better(run, pair)
    chosen, other = pair.each[best], pair.each[1 - best]
    if run.request.config.snapshots:
        curves = histories[1 - best].curves()
        chosen = replace(chosen, snapshots=OtherPeer(Snapshot(steps, _patch(other), curves)))
    return chosen, steps, histories[best]


def _history(run: PreparedRun, one: MaskedModel) -> History:
    """Curves of one peer; the loss in them is that of both."""
    metric, layers = run.data.task.metric, list(one.layers.values())
    evaluate = metric_of(one.model, run.kind, run.dev, metric, run.placement.processes)
    steps, per_epoch = run.plan.steps, run.per_epoch
    return History(evaluate, lambda: count_zeros(layers).zeros, steps=steps, per_epoch=per_epoch)


def _better(run: PreparedRun, pair: PeerPair) -> int:
    """Number of the peer with the better metric on the held-out rows; of equal ones the first."""
    assert run.held_out is not None
    metric, processes = run.data.task.metric, run.placement.processes
    asked = (run.kind, run.held_out, metric, processes)
    found = [metric_of(one.model, *asked, rising=True)() for one in pair.each]
    for one in pair.each:
        one.model.eval()
    _LOG.info(
        "the peers have %s %.4f and %.4f on %d held-out training rows: the task is the %s",
        metric,
        *(-one if metric in SMALLER else one for one in found),
        len(run.held_out),
        ("first", "second")[int(found[1] > found[0])],
    )
    return int(found[1] > found[0])


def _patch(masked: MaskedModel) -> Patch:
    return freeze(masked.model, masked.layers, masked.dense)
