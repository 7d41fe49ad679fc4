"""The recipe, read it first: load, quantise, mask, train, freeze, measure, write.

`fit_task` names the steps; they follow in its order. `prepare` loads and `write` writes; the steps between them touch no file but the checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from maskpack.compressor.describe import entry_of, result_of
from maskpack.compressor.effects import HeadTuning
from maskpack.compressor.mask_teachers import (
    PeerPair,
    has_peer,
    train_peers,
    with_snapshot_teacher,
)
from maskpack.compressor.masking.linear import count_zeros
from maskpack.compressor.masking.model import (
    MaskedModel,
    build_masked_model,
    freeze,
    start_from,
    start_height,
    with_rounding,
    with_units,
)
from maskpack.compressor.masking.snapshots import Snapshot, with_snapshots
from maskpack.compressor.prepare import (
    PreparedRun,
    load_rows,
    prepare,
    prepare_rows,
    with_divisors,
)
from maskpack.compressor.quantization.backbone import load_or_quantize, with_seed
from maskpack.compressor.run_key import run_key
from maskpack.compressor.run_teacher import log_teacher, targets_for
from maskpack.compressor.space import may_replace_snapshots
from maskpack.compressor.stops import checkpoints_of, interrupted, interrupted_at_the_end
from maskpack.compressor.threads import torch_threads, training_threads
from maskpack.compressor.training.callbacks import CallbackList, EarlyStopping, History
from maskpack.compressor.training.checkpoint import FolderCheckpoints, deferred_interrupt
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter, metric_of
from maskpack.compressor.training.train import Checkpoints, train
from maskpack.compressor.trunk import with_trunk_found
from maskpack.compressor.tune import tune_head
from maskpack.compressor.types import Curves, FitRequest, RunResult, SnapshotResult
from maskpack.formats import (
    ModelError,
    Patch,
    TaskEntry,
    add_task,
    create_artifact,
    is_artifact,
)
from maskpack.formats.lazy import renamed_argument
from maskpack.models.build import apply_patch
from maskpack.models.placement import placement_of
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.card import card_facts
from maskpack.tasks.data_warnings import answer_warnings, log_warnings
from maskpack.tasks.pretrained_head import start_head

_LOG = logging.getLogger(__name__)

_VERSIONS = ("maskpack", "torch", "transformers", "tokenizers")  # must be those of all processes


@renamed_argument("observe", "on_progress")
def fit_task(request: FitRequest, *, on_progress: OnProgress = lambda _: None) -> RunResult:
    """Learn a mask for one task over a frozen integer backbone, and write it.

    The backbone comes from the artifact at `request.out`, if there is one, or is quantised from the
    pretrained model. Its weights are frozen; scores behind the mask bits and a small head are
    trained; the scores become bits; the written patch is the one that is evaluated.

    Args:
        request: what to learn, from what, and where to write it.
        on_progress: called after every step, for progress bars.

    Raises:
        MaskpackError: see `formats/errors.py`; what was at `request.out` before is still there.
    """
    with training_threads(request.threads, device=request.device):
        # data, backbone, preprocessor; refuses requests that cannot succeed
        run = prepare_together(with_seed(request), on_progress=on_progress)
        return fit_run(run, on_progress=on_progress)


def fit_run(run: PreparedRun, *, on_progress: OnProgress = lambda _: None) -> RunResult:
    """The same from a run that is prepared."""
    # what int8 graphs divide outlier channels by, if their rounding is to be learned
    run = with_divisors(run)

    # how many lower layers the task leaves alone, if that is to be found
    run, trunk = with_trunk_found(run, targets_for, train_mask, on_progress=on_progress)

    # scores and head, on frozen codes
    trained = learn(run, on_progress=on_progress)

    # masks on the way there, if the run keeps any, then the last one: each is a task
    try:
        before = [finish(each, part) for each, part in on_the_way(run, trained)]
        snapshots = tuple(map(SnapshotResult.of, before))
        return replace(finish(run, trained), trunk=trunk, snapshots=snapshots)
    except KeyboardInterrupt:
        raise interrupted_at_the_end(run) from None


def finish(run: PreparedRun, trained: TrainedRun) -> RunResult:
    """From what was learned to a task of the artifact."""
    # the end of the head, on rows that were held out, if an option asks for it
    patch, tuning = tune_head(run, trained.patch)
    trained = replace(trained, patch=patch, tuning=tuning)

    # metrics of the patch as it will be read back: bits and float16
    entry, result = measure(run, trained)

    # a new artifact, or one more task in an old one
    size = run.placement.processes.of_main(partial(write, run, entry, trained.patch))
    return replace(result, patch_bytes=size)


def on_the_way(run: PreparedRun, trained: TrainedRun) -> Iterator[tuple[PreparedRun, TrainedRun]]:
    """Each snapshot as a run that ended there, under a name of its own."""
    request = run.request
    for name, snapshot in zip(request.snapshot_names, trained.snapshots, strict=True):
        # a resumed run may have written it before it was stopped
        own = replace(request, name=name, replace=may_replace_snapshots(request))
        yield (
            replace(run, request=own),
            replace(
                trained,
                patch=snapshot.patch,
                steps=snapshot.step,
                curves=snapshot.curves or trained.curves,
                snapshots=(),
                part_of=request.stored_name,
            ),
        )


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """Result of training: the frozen patch, its steps, time and threads, learning curves, what was tuned after it, patches on the way; of such a patch the run's own task."""

    patch: Patch
    steps: int
    curves: Curves
    seconds: float
    threads: int
    tuning: HeadTuning | None = None
    snapshots: tuple[Snapshot, ...] = ()
    part_of: str | None = None


def prepare_together(request: FitRequest, *, on_progress: OnProgress) -> PreparedRun:
    """The prepared run, in each of the processes that train together.

    Each reads the rows; the first one alone quantises; an error of one ends all. All must have found the same.
    """
    processes = placement_of(request.device, request.config.precision).processes
    if processes.alone:
        return prepare(request, on_progress=on_progress)
    rows = processes.agreed(lambda: load_rows(request))
    own, train = rows.finding.encoder, rows.data.train
    prepared = processes.of_main(lambda: load_or_quantize(request, own, on_progress, train))
    run = processes.agreed(lambda: prepare_rows(request, rows, prepared=prepared))
    facts = [(f"version of {name}", version(name)) for name in _VERSIONS]
    processes.check_same([*facts, ("set of options, data and model", run_key(run))])
    return run


def learn(run: PreparedRun, *, on_progress: OnProgress) -> TrainedRun:
    """Train scores and head on the frozen backbone."""
    started = time.perf_counter()
    checkpoints = checkpoints_of(run)
    checkpoints.check()
    try:
        with deferred_interrupt() as stop:
            masked, steps, history = _train(run, checkpoints, on_progress, stop)
    except KeyboardInterrupt:
        raise interrupted(run) from None
    units = None if masked.units is None else masked.units.units
    try:
        patch = freeze(masked.model, masked.layers, masked.dense, units)
    except ModelError:
        checkpoints.clear()  # no checkpoint yet
        raise
    curves, seconds = history.curves(), time.perf_counter() - started
    snapshots = () if masked.snapshots is None else masked.snapshots.taken()
    return TrainedRun(patch, steps, curves, seconds, torch_threads(), snapshots=snapshots)


def _train(
    run: PreparedRun,
    checkpoints: FolderCheckpoints,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> tuple[MaskedModel, int, History]:
    """Train a dense teacher first if the run has one, then scores and head."""
    targets = targets_for(
        run,
        run.plan,
        checkpoints=checkpoints_of(run, of_teacher=True),
        on_progress=on_progress,
        stop=stop,
        heard=partial(log_teacher, run),
    )
    return train_mask(run, targets, checkpoints, on_progress, stop)


def train_mask(
    run: PreparedRun,
    targets: DistillationTargets | None,
    checkpoints: Checkpoints,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> tuple[MaskedModel, int, History]:
    """Train scores and head; of two peers both, of which the better one is returned."""
    if has_peer(run):
        pair = PeerPair.of(run, loss_of(run, targets), masked_model_of)
        return train_peers(run, pair, checkpoints, on_progress, stop)
    metric, per_epoch = run.data.task.metric, run.per_epoch
    task_loss = loss_of(run, targets)
    masked, task_loss = with_snapshot_teacher(run, masked_model_of(run, task_loss), task_loss)
    count = partial(count_zeros, list(masked.layers.values()))
    evaluate = metric_of(masked.model, run.kind, run.dev, metric, run.placement.processes)
    history = History(evaluate, lambda: count().zeros, steps=run.plan.steps, per_epoch=per_epoch)
    reporter = ProgressReporter(
        on_progress, metric=metric, evaluate=history.metric, count=count, per_epoch=per_epoch
    )
    steps = train(
        masked.model,
        run.train,
        plan=run.plan,
        groups=masked.groups,
        task_loss=task_loss,
        callbacks=CallbackList([*masked.callbacks, *_early_stopping(run, masked), history]),
        placement=run.placement,
        checkpoints=checkpoints,
        on_step=reporter.report,
        stop=stop,
    )
    return masked, steps, history


def loss_of(run: PreparedRun, targets: DistillationTargets | None) -> TaskLoss:
    """The loss of a step of the run."""
    rows = run.train
    return TaskLoss(run.kind, rows.labels, targets, rows.labelled, run.class_weights, rows)


def masked_model_of(run: PreparedRun, task_loss: TaskLoss) -> MaskedModel:
    """The classifier with its masks, before the first step."""
    config = run.request.config
    assert (run.divisors is None) == (config.simulate is None)
    masked = build_masked_model(
        start_head(run.classifier(config.seed), run.head, run.target),
        run.shapes,
        config,
        pattern=run.pattern,
        plan=run.plan,
        rows=run.train,
        task_loss=task_loss,
        sparsity=run.sparsity,
        byte_dropout=run.placement.byte_dropout,
    )
    if run.start is not None:
        start_from(masked, run.start, height=start_height(config, run.plan))
    masked = with_units(
        masked,
        run.units,
        run.chosen_units.target,
        config.unit_order,
        plan=run.plan,
        rows=run.train,
        task_loss=task_loss,
        placement=run.placement,
        start=None if run.start is None else run.start.units,
    )
    masked = with_rounding(
        masked,
        run.prepared.backbone,
        run.divisors,
        first=config.first_rounded(run.plan.steps),
        dtype=run.placement.dtype,
    )
    return (
        masked
        if has_peer(run)
        else with_snapshots(masked, run.plan.parts(1 + len(config.stops))[:-1])
    )


def _early_stopping(run: PreparedRun, masked: MaskedModel) -> list[EarlyStopping]:
    """Early stopping on the held-out rows, if there are any."""
    patience = run.request.config.patience
    if run.held_out is None or patience is None:
        return []
    tensors = [parameter.data for group in masked.groups for parameter in group.parameters]
    tensors += [layer.threshold for layer in masked.layers.values()]
    asked = (masked.model, run.kind, run.held_out, run.data.task.metric, run.placement.processes)
    evaluate = metric_of(*asked, rising=True)
    return [EarlyStopping(tensors, evaluate, every=run.per_epoch, patience=patience)]


def measure(run: PreparedRun, trained: TrainedRun) -> tuple[TaskEntry, RunResult]:
    """Evaluate the patch as it will be stored, and describe it."""
    model = apply_patch(run.classifier(0), run.prepared.backbone, trained.patch, run.target)
    logits = predict_all(torch_predict(model), run.dev, processes=run.placement.processes)
    log_warnings(answer_warnings(run.kind, logits, run.dev.labels))
    return entry_of(run, trained, run.metrics(logits)), result_of(run, trained, logits)


def write(run: PreparedRun, entry: TaskEntry, patch: Patch) -> int:
    """Write the artifact, or add the task to it; return the bytes of the task's file."""
    request, prepared, out = run.request, run.prepared, run.request.out
    if is_artifact(out):
        artifact = add_task(
            out, entry, patch, replacing=request.replace, divisors=run.divisors, describe=card_facts
        )
    else:
        artifact = create_artifact(
            out,
            prepared.backbone,
            source=prepared.source,
            scheme=prepared.scheme,
            files=prepared.context.files,
            first=(entry, patch),
            divisors=run.divisors,
            describe=card_facts,
        )
    checkpoints_of(run).clear()
    return artifact.size(artifact.entry(entry.name).file)
