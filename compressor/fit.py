"""The recipe, read it first: load, quantise, mask, train, freeze, measure, write.

`fit_task` names the steps; they follow in its order. `prepare` loads and `write` writes; the steps
between them touch no file but the checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from maskpack.compressor.masking.linear import count_zeros
from maskpack.compressor.masking.model import MaskedModel, build_masked_model, freeze, sparsity_of
from maskpack.compressor.masking.patterns import PATTERNS, MaskPattern
from maskpack.compressor.quantization.backbone import (
    PreparedBackbone,
    config_bytes,
    load_or_quantize,
)
from maskpack.compressor.training.callbacks import CallbackList, EarlyStopping, History
from maskpack.compressor.training.checkpoint import FolderCheckpoints, deferred_interrupt
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter, metric_of
from maskpack.compressor.training.teacher import DENSE_TEACHER, TeacherPredict, distillation_targets
from maskpack.compressor.training.train import Plan, train
from maskpack.compressor.types import HISTORY, Curves, FitRequest, RunResult
from maskpack.formats import (
    Interrupted,
    ModelError,
    Patch,
    TaskEntry,
    add_task,
    check_vacant,
    create_artifact,
    is_artifact,
    open_artifact,
)
from maskpack.formats.lazy import find_entry, renamed_argument
from maskpack.formats.schema import CONFIG, patch_file
from maskpack.formats.writer import check_free
from maskpack.models.build import ParameterShapes, apply_patch, build_classifier, parameter_shapes
from maskpack.models.placement import Placement, placement_of
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.card import card_facts
from maskpack.tasks.context import described, preprocess_splits
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.preprocess import load_splits
from maskpack.tasks.pretrained_head import PretrainedHead
from maskpack.tasks.types import TaskType

_LOG = logging.getLogger(__name__)


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
    # data, backbone, preprocessor; refuses requests that cannot succeed
    run = prepare(request, on_progress=on_progress)

    # scores and head, on frozen codes
    trained = learn(run, on_progress=on_progress)

    # metrics of the patch as it will be read back: bits and float16
    entry, result = measure(run, trained)

    # a new artifact, or one more task in an old one
    size = write(run, entry, trained.patch)
    return replace(result, patch_bytes=size)


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run with everything loaded, before its first step.

    Attributes:
        request: what was asked for.
        data: rows of both splits.
        prepared: the backbone.
        train, dev: both splits as tokens.
        held_out: training rows kept back to decide when to stop, or None.
        plan: steps and rates.
        placement: where and in which arithmetic.
        pattern: what a score of the mask stands for.
        shapes: of the classifier's parameters.
        sparsity: share of zeros to reach, or None.
        head: the head of a fine-tuned source model for this task, or None.
        original: metrics of that model before the run, or None.
    """

    request: FitRequest
    data: TaskData
    prepared: PreparedBackbone
    train: Encoded
    dev: Encoded
    held_out: Encoded | None
    plan: Plan
    placement: Placement
    pattern: MaskPattern
    shapes: ParameterShapes
    sparsity: float | None
    head: PretrainedHead | None
    original: Mapping[str, float] | None

    @property
    def kind(self) -> TaskType:
        """Type of the task."""
        return self.data.task.type

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.train) // self.plan.batch_size)

    @property
    def described(self) -> Any:
        """Configuration of the classifier."""
        return described(self.prepared.context.files[CONFIG], self.kind, self.data.labels)

    def classifier(self, seed: int) -> Any:
        """The classifier over the backbone, with a fresh head."""
        model = build_classifier(self.prepared.backbone, self.described, seed=seed)
        return self.placement.put(model)


def prepare(request: FitRequest, *, on_progress: OnProgress = lambda _: None) -> PreparedRun:
    """Load model, data and tokenizer; refuse requests that cannot succeed before the first step."""
    config = request.config
    if is_artifact(request.out):
        check_vacant(open_artifact(request.out), request.stored_name, replacing=request.replace)
    else:
        check_free(request.out)
    placement = placement_of(request.device, config.precision)
    pattern = find_entry(PATTERNS, request.pattern, "pattern")
    data, finding = load_splits(
        request.model,
        request.task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=config.train_rows,
        revision=request.revision,
    )
    shapes = parameter_shapes(described(config_bytes(request), data.task.type, data.labels))
    sparsity = sparsity_of(shapes, config)
    prepared = load_or_quantize(request, finding.classifier, on_progress)
    train_rows, dev = preprocess_splits(prepared.context, data, finding.note, config.max_length)
    rows, held_out = train_rows.hold_out(if_asked=config.patience is not None)
    plan = Plan(config.total_steps(len(rows)), config.batch_size, config.warmup, config.seed)
    return PreparedRun(
        request=request,
        data=data,
        prepared=prepared,
        train=rows,
        dev=dev,
        held_out=held_out,
        plan=plan,
        placement=placement,
        pattern=pattern,
        shapes=shapes,
        sparsity=sparsity,
        head=finding.head,
        original=finding.metrics(data.task.type, dev, data.task.metrics),
    )


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """Result of training: the frozen patch, its steps and time, and learning curves."""

    patch: Patch
    steps: int
    curves: Curves
    seconds: float


def learn(run: PreparedRun, *, on_progress: OnProgress) -> TrainedRun:
    """Train scores and head on the frozen backbone."""
    started = time.perf_counter()
    checkpoints, metric, per_epoch = _checkpoints(run), run.data.task.metric, run.per_epoch
    try:
        task_loss = _task_loss(run)
        masked = masked_model_of(run, task_loss)
        count = partial(count_zeros, list(masked.layers.values()))
        evaluate = metric_of(masked.model, run.kind, run.dev, metric)
        history = History(
            evaluate, lambda: count().zeros, steps=run.plan.steps, per_epoch=per_epoch
        )
        reporter = ProgressReporter(
            on_progress, metric=metric, evaluate=history.metric, count=count, per_epoch=per_epoch
        )
        callbacks = [*masked.callbacks, *_early_stopping(run, masked), history]
        with deferred_interrupt() as stop:
            steps = train(
                masked.model,
                run.train,
                plan=run.plan,
                groups=masked.groups,
                task_loss=task_loss,
                callbacks=CallbackList(callbacks),
                placement=run.placement,
                checkpoints=checkpoints,
                on_step=reporter.report,
                stop=stop,
            )
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    try:
        patch = freeze(masked.model, masked.layers, masked.dense)
    except ModelError:
        checkpoints.clear()  # no checkpoint yet
        raise
    return TrainedRun(patch, steps, history.curves(), time.perf_counter() - started)


def _task_loss(run: PreparedRun) -> TaskLoss:
    """The loss; a note announces a teacher that is trained first, because its training shows no progress."""
    if run.request.config.teacher == DENSE_TEACHER:
        _LOG.info("a dense teacher is trained first, in %d steps; then the mask", run.plan.steps)

    def heard(teacher: TeacherPredict) -> None:  # a weak teacher may be the reason for a weak mask
        metric = run.data.task.metric
        value = compute_metrics(run.kind, teacher(run.dev), run.dev.labels, [metric])[metric]
        _LOG.info("the teacher has %s %.4f on the evaluation rows", metric, value)

    return TaskLoss(run.kind, run.train.labels, targets_for(run, run.plan, heard=heard))


def targets_for(
    run: PreparedRun, plan: Plan, *, heard: Callable[[TeacherPredict], None] = lambda _: None
) -> DistillationTargets | None:
    """The teacher's targets, see `distillation_targets`; one that is trained first learns by `plan`."""
    return distillation_targets(
        run.request.config,
        run.train,
        run.described,
        kind=run.kind,
        model=run.request.model,
        revision=run.request.revision,
        plan=plan,
        placement=run.placement,
        heard=heard,
    )


def masked_model_of(run: PreparedRun, task_loss: TaskLoss) -> MaskedModel:
    """The classifier with its masks, before the first step."""
    model = run.classifier(run.request.config.seed)
    if run.head is not None:
        run.head.copy_to(model)
    return build_masked_model(
        model,
        run.shapes,
        run.request.config,
        pattern=run.pattern,
        plan=run.plan,
        rows=run.train,
        task_loss=task_loss,
        sparsity=run.sparsity,
    )


def _early_stopping(run: PreparedRun, masked: MaskedModel) -> list[EarlyStopping]:
    """Early stopping on the held-out rows, if there are any."""
    patience = run.request.config.patience
    if run.held_out is None or patience is None:
        return []
    tensors = [parameter.data for group in masked.groups for parameter in group.parameters]
    tensors += [layer.threshold for layer in masked.layers.values()]
    evaluate = metric_of(masked.model, run.kind, run.held_out, run.data.task.metric)
    return [EarlyStopping(tensors, evaluate, every=run.per_epoch, patience=patience)]


def measure(run: PreparedRun, trained: TrainedRun) -> tuple[TaskEntry, RunResult]:
    """Evaluate the patch as it will be stored, and describe it."""
    model = apply_patch(run.classifier(0), run.prepared.backbone, trained.patch)
    logits = predict_all(torch_predict(model), run.dev)
    metrics = compute_metrics(run.kind, logits, run.dev.labels, run.data.task.metrics)
    return _entry(run, trained, metrics), _result(run, trained, metrics)


def _entry(run: PreparedRun, trained: TrainedRun, metrics: Mapping[str, float]) -> TaskEntry:
    """The manifest's entry of the task; the writer fills in file and digest."""
    request, data, count = run.request, run.data, trained.patch.count
    return TaskEntry(
        name=request.stored_name,
        file=patch_file(request.stored_name),
        sha256="0" * 64,
        kind=run.kind.name,
        labels=data.labels,
        metric=data.task.metric,
        scores=metrics,
        zeros=count.zeros,
        weights=count.weights,
        max_length=request.config.max_length,
        data={
            "task": data.task.name,
            "texts": list(data.task.texts),
            "label": data.task.label,
            "metrics": list(data.task.metrics),
            **({} if data.task.separator is None else {"separator": data.task.separator}),
            "train_rows": len(data.train),
            "eval_rows": len(data.dev),
            "eval_sha256": data.dev.sha256(),
            **({} if run.original is None else {"original": dict(run.original)}),
        },
        training={**request.config.record(), HISTORY: trained.curves.to_tree()},
    )


def _result(run: PreparedRun, trained: TrainedRun, metrics: Mapping[str, float]) -> RunResult:
    """The run's figures; the size of the task's file is known once it is written."""
    request, data, patch = run.request, run.data, trained.patch
    return RunResult(
        method="mask",
        model=run.prepared.source.model,
        task=request.stored_name,
        bits=run.prepared.scheme.bits,
        seed=request.config.seed,
        train_rows=len(run.train),
        eval_rows=len(data.dev),
        steps=trained.steps,
        seconds=round(trained.seconds, 2),
        metric=data.task.metric,
        scores=metrics,
        majority=majority(run.kind, run.dev.labels, data.task.metrics),
        weights=patch.count.weights,
        zeros=patch.count.zeros,
        mask_bytes=sum(mask.packed.nbytes for mask in patch.masks.values()),
        head_bytes=sum(tensor.nbytes for tensor in patch.head.values()),
        extra_bytes=sum(tensor.nbytes for tensor in (*patch.dense.values(), *patch.gains.values())),
        backbone_bytes=run.prepared.backbone_bytes(),
        original=run.original,
        options=request.config.record(),
    )


def write(run: PreparedRun, entry: TaskEntry, patch: Patch) -> int:
    """Write the artifact, or add the task to it; return the bytes of the task's file."""
    request, prepared, out = run.request, run.prepared, run.request.out
    if is_artifact(out):
        artifact = add_task(out, entry, patch, replacing=request.replace, describe=card_facts)
    else:
        artifact = create_artifact(
            out,
            prepared.backbone,
            source=prepared.source,
            scheme=prepared.scheme,
            files=prepared.context.files,
            first=(entry, patch),
            describe=card_facts,
        )
    _checkpoints(run).clear()
    return artifact.size(artifact.entry(entry.name).file)


def _checkpoints(run: PreparedRun) -> FolderCheckpoints:
    request = run.request
    parts = (
        request.config.sha256(),
        run.data.train.sha256(),
        run.data.outputs,
        run.prepared.source.weights_sha256,
        run.prepared.scheme,
        run.placement.bf16,
        *(() if run.head is None else ("own head", run.data.labels)),
        *(() if request.pattern == "weight" else (request.pattern,)),
    )
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    folder, every = request.checkpoint_folder, request.config.checkpoint_every
    return FolderCheckpoints(folder, every, key, request.resume)


def _interrupted(run: PreparedRun, checkpoints: FolderCheckpoints) -> Interrupted:
    if not checkpoints.found():
        return Interrupted("stopped before the first checkpoint; nothing was written")
    return Interrupted(
        f"stopped; the checkpoint is kept in `{run.request.checkpoint_folder}`",
        "repeat the same request with `resume` to go on",
    )
