"""The recipe, read it first: load, quantise, mask, train, freeze, measure, write.

`fit_task` names the steps; they follow in its order. `prepare` loads and `write` writes; what lies
between them touches no file but its checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.linear import count_zeros
from maskpack.compressor.masking.model import (
    MaskedModel,
    build_masked_model,
    extra_bytes,
    freeze,
    masked_names,
)
from maskpack.compressor.masking.sparsity import target_sparsity
from maskpack.compressor.quantization.backbone import PreparedBackbone, load_or_quantize
from maskpack.compressor.training.callbacks import (
    CallbackList,
    EarlyStopping,
    History,
    TrainerCallback,
)
from maskpack.compressor.training.checkpoint import FolderCheckpoints, deferred_interrupt
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter
from maskpack.compressor.training.teacher import DENSE_TEACHER, TeacherPredict, distillation_targets
from maskpack.compressor.training.train import Plan, train, uses_bf16
from maskpack.compressor.types import HISTORY, Curves, FitRequest, RunResult
from maskpack.formats import (
    ConfigError,
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
from maskpack.formats.lazy import renamed_argument
from maskpack.formats.schema import CONFIG, patch_file
from maskpack.formats.writer import check_free
from maskpack.models.build import ParameterShapes, apply_patch, build_classifier, parameter_shapes
from maskpack.models.families import check_length, family_of
from maskpack.models.load import load_config, resolve
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import described
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.evaluation.predict import predict_all, torch_predict
from maskpack.tasks.preprocess import load_splits, preprocess_splits
from maskpack.tasks.pretrained_head import PretrainedHead, original_metrics

__all__ = ["FitRequest", "fit_task"]


@renamed_argument("observe", "on_progress")
def fit_task(request: FitRequest, *, on_progress: OnProgress = lambda _: None) -> RunResult:
    """Learn a mask for one task over a frozen integer backbone, and write it.

    The backbone comes from the artifact at `request.out`, if there is one, or is quantised from the
    pretrained model. Its weights are frozen; scores behind the mask bits and a small head are
    trained; the scores become bits; what is measured is what is written.

    Args:
        request: what to learn, from what, and where to write it.
        on_progress: called after every step, for progress bars.

    Raises:
        MaskpackError: see `formats/errors.py`; what was at `request.out` before is still there.
    """
    # data, backbone, tokenizer; refuses here what cannot end well
    run = prepare(request, on_progress=on_progress)

    # scores and head, on frozen codes
    started = time.perf_counter()
    trained = learn(run, on_progress=on_progress)
    seconds = time.perf_counter() - started

    # scores of the patch as it will be read back: bits and float16
    entry, result = measure(run, trained, seconds=seconds)

    # a new artifact, or one more task in an old one
    size = write(run, entry, trained.patch)
    return replace(result, patch_bytes=size)


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run with everything loaded, before its first step.

    Attributes:
        request: what was asked for.
        data: rows of both splits.
        prepared: what is learned on.
        train, dev: both splits as tokens.
        held_out: training rows kept back to judge when to stop, or None.
        plan: steps and rates.
        shape: of the classifier.
        sparsity: share of zeros to reach, or None.
        head: the head that a fine-tuned source model brings, or None.
    """

    request: FitRequest
    data: TaskData
    prepared: PreparedBackbone
    train: Encoded
    dev: Encoded
    held_out: Encoded | None
    plan: Plan
    shape: ParameterShapes
    sparsity: float | None
    head: PretrainedHead | None = None

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.train) // self.plan.batch_size)

    @property
    def described(self) -> Any:
        """Configuration of the classifier."""
        return described(self.prepared.files[CONFIG], self.data)


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """What training left: the frozen patch, the steps taken, and how they went."""

    patch: Patch
    steps: int
    curves: Curves


_LOG = logging.getLogger(__name__)

_HOLD_OUT_SEED = 11  # the same rows for every seed of a run


def prepare(request: FitRequest, *, on_progress: OnProgress = lambda _: None) -> PreparedRun:
    """Load model, data and tokenizer; refuse before the first step what cannot end well."""
    config, name = request.config, request.stored_name
    if is_artifact(request.out):
        check_vacant(open_artifact(request.out), name, replacing=request.replace)
    else:
        check_free(request.out)
    data, found = load_splits(
        request.model,
        request.task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=config.train_rows,
        revision=request.revision,
    )
    shape = _shape(request, data)
    sparsity = _sparsity(config, shape)
    prepared = load_or_quantize(
        request.model,
        request.out,
        config,
        bits_given=request.bits_given,
        revision=request.revision,
        on_progress=on_progress,
    )
    check_length(config.max_length, prepared.longest)
    train, dev = preprocess_splits(
        prepared.tokenizer,
        data,
        found,
        max_length=config.max_length,
        token_types=prepared.token_types,
        longest=prepared.longest,
    )
    rows, held_out = _hold_out(train, config)
    steps, bf16 = config.total_steps(len(rows)), uses_bf16(config.precision)
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, bf16)
    return PreparedRun(
        request, data, prepared, rows, dev, held_out, plan, shape, sparsity, found.head
    )


def _hold_out(rows: Encoded, config: FitConfig) -> tuple[Encoded, Encoded | None]:
    """A tenth of the training rows for early stopping, if it is asked for."""
    if config.patience is None:
        return rows, None
    order = np.random.default_rng(_HOLD_OUT_SEED).permutation(len(rows))
    cut = max(1, len(rows) // 10)
    if cut == len(rows):
        raise ConfigError("`patience` wants 2 training rows or more")
    return rows.take(np.sort(order[cut:])), rows.take(np.sort(order[:cut]))


def _shape(request: FitRequest, data: TaskData) -> ParameterShapes:
    """What the classifier will be made of, from its configuration alone."""
    if is_artifact(request.out):
        tree = open_artifact(request.out).file(CONFIG)
    else:
        config = load_config(resolve(request.model), revision=request.revision)
        family_of(config.model_type)
        tree = config.to_json_string(use_diff=False).encode()
    return parameter_shapes(described(tree, data))


def _sparsity(config: FitConfig, shape: ParameterShapes) -> float | None:
    """Share of zeros to reach; refuses a size that cannot be met."""
    sizes = [shape.linears[name] for name in masked_names(shape.linears, config)]
    other = shape.head_bytes + extra_bytes(shape, config)
    weights = sum(rows * width for rows, width in sizes)
    return target_sparsity(config, weights=weights, other_bytes=other)


def learn(run: PreparedRun, *, on_progress: OnProgress) -> TrainedRun:
    """Train scores and head on the frozen backbone."""
    checkpoints = _checkpoints(run)
    try:
        task_loss = _task_loss(run)
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    student = masked_model_of(run, task_loss)
    count = partial(count_zeros, list(student.masked.values()))
    history = History(
        _metric_of(run, student, run.dev),
        lambda: count().zeros,
        steps=run.plan.steps,
        per_epoch=run.per_epoch,
    )
    reporter = ProgressReporter(
        on_progress,
        metric=run.data.task.metric,
        evaluate=history.score,
        count=count,
        per_epoch=run.per_epoch,
    )
    try:
        with deferred_interrupt() as stop:
            steps = train(
                student.model,
                run.train,
                plan=run.plan,
                groups=student.groups,
                task_loss=task_loss,
                callbacks=CallbackList(
                    [*student.callbacks, *_early_stopping(run, student), history]
                ),
                checkpoints=checkpoints,
                on_progress=reporter.report,
                stop=stop,
            )
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    try:
        patch = freeze(student.model, student.masked, student.dense)
    except ModelError:
        checkpoints.clear()  # nothing to go on from
        raise
    return TrainedRun(patch, steps, history.curves())


def _early_stopping(run: PreparedRun, student: MaskedModel) -> list[TrainerCallback]:
    """What ends the run early on the rows held out for it; nothing without them."""
    patience = run.request.config.patience
    if run.held_out is None or patience is None:
        return []
    tensors = [parameter.data for group in student.groups for parameter in group.parameters]
    tensors += [layer.threshold for layer in student.masked.values()]
    evaluate = _metric_of(run, student, run.held_out)
    return [EarlyStopping(tensors, evaluate, every=run.per_epoch, patience=patience)]


def _metric_of(run: PreparedRun, student: MaskedModel, rows: Encoded) -> Callable[[], float]:
    """The main metric of the student as it stands; the student is left in training mode."""

    def evaluate() -> float:
        logits = predict_all(torch_predict(student.model), rows)
        student.model.train()
        return compute_metrics(logits, rows.labels, [run.data.task.metric])[run.data.task.metric]

    return evaluate


def masked_model_of(run: PreparedRun, task_loss: TaskLoss) -> MaskedModel:
    """The classifier with its masks, before the first step."""
    config = run.request.config
    model = build_classifier(run.prepared.backbone, run.described, seed=config.seed)
    if run.head is not None:
        run.head.copy_to(model)
    return build_masked_model(
        model,
        run.shape,
        config,
        plan=run.plan,
        rows=run.train,
        task_loss=task_loss,
        sparsity=run.sparsity,
    )


def _task_loss(run: PreparedRun) -> TaskLoss:
    """What a step minimises; a teacher that is trained first is announced, it shows no progress."""
    if run.request.config.teacher == DENSE_TEACHER:
        _LOG.info("a dense teacher is trained first, in %d steps; then the mask", run.plan.steps)
    return TaskLoss(run.train.labels, targets_for(run, run.plan, heard=partial(_tell, run)))


def _tell(run: PreparedRun, teacher: TeacherPredict) -> None:
    """How good the teacher is: a mask that is weak may have a weak one."""
    metric = run.data.task.metric
    value = compute_metrics(teacher(run.dev), run.dev.labels, [metric])[metric]
    _LOG.info("the teacher has %s %.4f on the evaluation rows", metric, value)


def targets_for(
    run: PreparedRun, plan: Plan, *, heard: Callable[[TeacherPredict], None] = lambda _: None
) -> DistillationTargets | None:
    """What the teacher has to say, see `distillation_targets`; one that is trained first learns by `plan`."""
    return distillation_targets(
        run.request.config,
        run.train,
        run.described,
        model=run.request.model,
        revision=run.request.revision,
        plan=plan,
        heard=heard,
    )


def measure(
    run: PreparedRun, trained: TrainedRun, *, seconds: float
) -> tuple[TaskEntry, RunResult]:
    """Score the patch as it will be stored, and describe it."""
    prepared, patch = run.prepared, trained.patch
    model = build_classifier(prepared.backbone, run.described, seed=0)
    apply_patch(model, prepared.backbone, patch)
    logits = predict_all(torch_predict(model), run.dev)
    scores = compute_metrics(logits, run.dev.labels, run.data.task.metrics)
    original = None
    if run.head is not None:
        original = original_metrics(run.head, run.dev, run.data.task.metrics)
    result = _result(run, patch, scores, steps=trained.steps, seconds=seconds)
    entry = _entry(run, trained, scores, original)
    return entry, replace(result, original=original)


def _entry(
    run: PreparedRun,
    trained: TrainedRun,
    scores: Mapping[str, float],
    original: Mapping[str, float] | None,
) -> TaskEntry:
    """What the manifest will say; the writer fills in file and digest."""
    request, data, count = run.request, run.data, trained.patch.count
    return TaskEntry(
        name=request.stored_name,
        file=patch_file(request.stored_name),
        sha256="0" * 64,
        kind=str(data.task.kind),
        labels=data.labels,
        metric=data.task.metric,
        scores=scores,
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
            **({} if original is None else {"original": dict(original)}),
        },
        training={**request.config.record(), HISTORY: trained.curves.to_tree()},
    )


def _result(
    run: PreparedRun, patch: Patch, scores: Mapping[str, float], *, steps: int, seconds: float
) -> RunResult:
    """The run's figures; the size of the task's file is known once it is written."""
    request, data, prepared = run.request, run.data, run.prepared
    count = patch.count
    return RunResult(
        method="mask",
        model=prepared.source.model,
        task=request.stored_name,
        bits=prepared.scheme.bits,
        seed=request.config.seed,
        train_rows=len(run.train),
        eval_rows=len(data.dev),
        steps=steps,
        seconds=round(seconds, 2),
        metric=data.task.metric,
        scores=scores,
        majority=majority(run.dev.labels, data.task.metrics),
        weights=count.weights,
        zeros=count.zeros,
        mask_bytes=sum(mask.packed.nbytes for mask in patch.masks.values()),
        head_bytes=sum(tensor.nbytes for tensor in patch.head.values()),
        extra_bytes=sum(tensor.nbytes for tensor in (*patch.dense.values(), *patch.gains.values())),
        backbone_bytes=prepared.backbone_bytes(),
        options=request.config.record(),
    )


def write(run: PreparedRun, entry: TaskEntry, patch: Patch) -> int:
    """Write the artifact, or add the task to it; return the bytes of the task's file."""
    request, prepared = run.request, run.prepared
    if is_artifact(request.out):
        artifact = add_task(request.out, entry, patch, replacing=request.replace)
    else:
        artifact = create_artifact(
            request.out,
            prepared.backbone,
            source=prepared.source,
            scheme=prepared.scheme,
            files=prepared.files,
            first=(entry, patch),
        )
    _checkpoints(run).clear()
    return artifact.size(artifact.entry(entry.name).file)


def _checkpoints(run: PreparedRun) -> FolderCheckpoints:
    parts = (
        run.request.config.sha256(),
        run.data.train.sha256(),
        run.data.outputs,
        run.prepared.source.weights_sha256,
        run.prepared.scheme,
        run.plan.bf16,
        *(() if run.head is None else ("own head", run.data.labels)),
    )
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return FolderCheckpoints(
        run.request.checkpoint_folder,
        run.request.config.checkpoint_every,
        key,
        run.request.resume,
    )


def _interrupted(run: PreparedRun, checkpoints: FolderCheckpoints) -> Interrupted:
    if not checkpoints.found():
        return Interrupted("stopped before the first checkpoint; nothing was written")
    return Interrupted(
        f"stopped; the checkpoint is kept in `{run.request.checkpoint_folder}`",
        "repeat the same command with `--resume` to go on",
    )
