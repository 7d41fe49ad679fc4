"""The steps of `fit.py`, in its order, and the two values that pass between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskpack.compressor.batches import Encoded, encode
from maskpack.compressor.checkpoint import FolderCheckpoints
from maskpack.compressor.companion import Companion, Company
from maskpack.compressor.config import FitConfig
from maskpack.compressor.curves import HISTORY, Curves
from maskpack.compressor.data import TaskData, load_data
from maskpack.compressor.evaluate import majority, predict_all, score
from maskpack.compressor.families import check_length, family_of
from maskpack.compressor.freeze import freeze
from maskpack.compressor.ground import Ground, prepare_ground
from maskpack.compressor.history import History
from maskpack.compressor.hub import load_config, resolve
from maskpack.compressor.interrupt import deferred_interrupt
from maskpack.compressor.news import Newsroom, Observe
from maskpack.compressor.objective import Objective, Teaching
from maskpack.compressor.predict import torch_predict
from maskpack.compressor.restore import (
    apply_patch,
    build_classifier,
    classifier_config,
)
from maskpack.compressor.results import RunResult
from maskpack.compressor.shape import Shape, shape_of
from maskpack.compressor.student import Student, enroll, extra_bytes, masked_names
from maskpack.compressor.target import target_sparsity
from maskpack.compressor.tasks import Task
from maskpack.compressor.teacher import teaching_of
from maskpack.compressor.train import Plan, train, uses_bf16
from maskpack.compressor.watch import early_stopping, history_of
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
from maskpack.formats.schema import CONFIG, check_task_name, patch_file
from maskpack.formats.writer import check_free

_HOLD_OUT_SEED = 11  # the same rows for every seed of a run


@dataclass(frozen=True)
class FitRequest:
    """What to learn, from what, and where to write it.

    Attributes:
        model: folder, hub id or alias of the pretrained encoder.
        task: the task, from `find_task`.
        out: artifact to make, or to add the task to.
        config: how to learn.
        data, eval_data: files of the task, see `load_data`.
        name: name of the task in the artifact; None takes the task's own.
        replace: whether a task of that name may be learned again.
        resume: whether to go on from a checkpoint of the same run.
        bits_given: False if `config.bits` is only the default and an artifact may overrule it.
        revision: branch, tag or commit of a hub model.
    """

    model: str
    task: Task
    out: Path
    config: FitConfig = field(default_factory=FitConfig)
    data: Path | None = None
    eval_data: Path | None = None
    name: str | None = None
    replace: bool = False
    resume: bool = False
    bits_given: bool = True
    revision: str | None = None

    @property
    def stored_name(self) -> str:
        """Name of the task in the artifact."""
        return check_task_name(self.name or self.task.name)

    @property
    def checkpoint_folder(self) -> Path:
        """Where an unfinished run keeps its state: beside the artifact, never inside it."""
        return self.out.parent / f".{self.out.name}.{self.stored_name}.unfinished"


@dataclass(frozen=True, eq=False)
class Learning:
    """A run with everything loaded, before its first step.

    Attributes:
        request: what was asked for.
        data: rows of both splits.
        ground: what is learned on.
        train, dev: both splits as tokens.
        held_out: training rows kept back to judge when to stop, or None.
        plan: steps and rates.
        shape: of the classifier.
        sparsity: share of zeros to reach, or None.
    """

    request: FitRequest
    data: TaskData
    ground: Ground
    train: Encoded
    dev: Encoded
    held_out: Encoded | None
    plan: Plan
    shape: Shape
    sparsity: float | None


def prepare(request: FitRequest, *, observe: Observe = lambda _: None) -> Learning:
    """Load model, data and tokenizer; refuse before the first step what cannot end well."""
    config, name = request.config, request.stored_name
    if is_artifact(request.out):
        check_vacant(open_artifact(request.out), name, replacing=request.replace)
    else:
        check_free(request.out)
    data = load_data(request.task, data=request.data, eval_data=request.eval_data)
    data = data.limit_train(config.train_rows)
    shape = _shape(request, data)
    sparsity = _sparsity(config, shape)
    ground = prepare_ground(
        request.model,
        request.out,
        config,
        bits_given=request.bits_given,
        revision=request.revision,
        observe=observe,
    )
    check_length(config.max_length, ground.longest)
    splits = [
        encode(
            ground.tokenizer,
            split,
            max_length=config.max_length,
            token_types=ground.token_types,
        )
        for split in (data.train, data.dev)
    ]
    rows, held_out = _hold_out(splits[0], config)
    steps = config.total_steps(len(rows))
    bf16 = uses_bf16(config.precision)
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, bf16)
    return Learning(request, data, ground, rows, splits[1], held_out, plan, shape, sparsity)


def _hold_out(rows: Encoded, config: FitConfig) -> tuple[Encoded, Encoded | None]:
    """A tenth of the training rows for early stopping, if it is asked for."""
    if config.patience is None:
        return rows, None
    order = np.random.default_rng(_HOLD_OUT_SEED).permutation(len(rows))
    cut = max(1, len(rows) // 10)
    if cut == len(rows):
        raise ConfigError("`patience` wants 2 training rows or more")
    return rows.take(np.sort(order[cut:])), rows.take(np.sort(order[:cut]))


def _shape(request: FitRequest, data: TaskData) -> Shape:
    """What the classifier will be made of, from its configuration alone."""
    if is_artifact(request.out):
        tree = open_artifact(request.out).file(CONFIG)
    else:
        config = load_config(resolve(request.model), revision=request.revision)
        family_of(config.model_type)
        tree = config.to_json_string(use_diff=False).encode()
    return shape_of(classifier_config(tree, data.labels, outputs=data.outputs))


def _sparsity(config: FitConfig, shape: Shape) -> float | None:
    """Share of zeros to reach; refuses a size that cannot be met."""
    sizes = [shape.linears[name] for name in masked_names(shape.linears, config)]
    other = shape.head_bytes + extra_bytes(shape, config)
    weights = sum(rows * width for rows, width in sizes)
    return target_sparsity(config, weights=weights, other_bytes=other)


@dataclass(frozen=True, eq=False)
class Learned:
    """What training left: the frozen patch, the steps taken, and how they went."""

    patch: Patch
    steps: int
    curves: Curves


def learn(run: Learning, *, observe: Observe) -> Learned:
    """Train scores and head on the frozen backbone."""
    checkpoints = _checkpoints(run)
    try:
        objective = Objective(run.train.labels, _teaching(run))
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    student = student_of(run, objective)
    history, early = _watchers(run, student)
    news = Newsroom(
        observe,
        model=student.model,
        layers=list(student.masked.values()),
        dev=run.dev,
        metric=run.data.task.metric,
        per_epoch=_per_epoch(run),
        judge=history.score,
    )
    try:
        with deferred_interrupt() as stop:
            steps = train(
                student.model,
                run.train,
                plan=run.plan,
                groups=student.groups,
                objective=objective,
                company=Company([*student.company, *early, history]),
                checkpoints=checkpoints,
                observe=news.report,
                stop=stop,
            )
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    try:
        patch = freeze(student.model, student.masked, student.dense)
    except ModelError:
        checkpoints.clear()  # nothing to go on from
        raise
    return Learned(patch, steps, history.curves())


def _watchers(run: Learning, student: Student) -> tuple[History, list[Companion]]:
    """The run's memory, and what may end it early."""
    metric, every = run.data.task.metric, _per_epoch(run)
    patience = run.request.config.patience
    return (
        history_of(student, run.dev, metric=metric, steps=run.plan.steps, per_epoch=every),
        early_stopping(student, run.held_out, metric=metric, every=every, patience=patience),
    )


def student_of(run: Learning, objective: Objective) -> Student:
    """The classifier with its masks, before the first step."""
    config = run.request.config
    return enroll(
        build_classifier(run.ground.backbone, _config(run), seed=config.seed),
        run.shape,
        config,
        plan=run.plan,
        rows=run.train,
        objective=objective,
        sparsity=run.sparsity,
    )


def _teaching(run: Learning) -> Teaching | None:
    """What the teacher has to say."""
    return teaching_of(
        run.request.config,
        run.train,
        _config(run),
        model=run.request.model,
        revision=run.request.revision,
        plan=run.plan,
    )


def _per_epoch(run: Learning) -> int:
    return -(-len(run.train) // run.plan.batch_size)


def measure(run: Learning, learned: Learned, *, seconds: float) -> tuple[TaskEntry, RunResult]:
    """Score the patch as it will be stored, and describe it."""
    ground, patch = run.ground, learned.patch
    model = build_classifier(ground.backbone, _config(run), seed=0)
    apply_patch(model, ground.backbone, patch)
    logits = predict_all(torch_predict(model), run.dev)
    scores = score(logits, run.dev.labels, run.data.task.metrics)
    result = _result(run, patch, scores, steps=learned.steps, seconds=seconds)
    return _entry(run, learned, scores), result


def _entry(run: Learning, learned: Learned, scores: Mapping[str, float]) -> TaskEntry:
    """What the manifest will say; the writer fills in file and digest."""
    request, data, count = run.request, run.data, learned.patch.count
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
            "train_rows": len(data.train),
            "eval_rows": len(data.dev),
            "eval_sha256": data.dev.sha256(),
        },
        training={**request.config.record(), HISTORY: learned.curves.to_tree()},
    )


def _result(
    run: Learning, patch: Patch, scores: Mapping[str, float], *, steps: int, seconds: float
) -> RunResult:
    """The run's figures; the size of the task's file is known once it is written."""
    request, data, ground = run.request, run.data, run.ground
    count = patch.count
    return RunResult(
        method="mask",
        model=ground.source.model,
        task=request.stored_name,
        bits=ground.scheme.bits,
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
        backbone_bytes=ground.backbone_bytes(),
        options=request.config.record(),
    )


def write(run: Learning, entry: TaskEntry, patch: Patch) -> int:
    """Write the artifact, or add the task to it; return the bytes of the task's file."""
    request, ground = run.request, run.ground
    if is_artifact(request.out):
        artifact = add_task(request.out, entry, patch, replacing=request.replace)
    else:
        artifact = create_artifact(
            request.out,
            ground.backbone,
            source=ground.source,
            scheme=ground.scheme,
            files=ground.files,
            first=(entry, patch),
        )
    _checkpoints(run).clear()
    return artifact.size(artifact.entry(entry.name).file)


def _config(run: Learning) -> Any:
    return classifier_config(
        run.ground.files["config.json"], run.data.labels, outputs=run.data.outputs
    )


def _checkpoints(run: Learning) -> FolderCheckpoints:
    parts = (
        run.request.config.sha256(),
        run.data.train.sha256(),
        run.data.outputs,
        run.ground.source.weights_sha256,
        run.ground.scheme,
        run.plan.bf16,
    )
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return FolderCheckpoints(
        run.request.checkpoint_folder,
        run.request.config.checkpoint_every,
        key,
        run.request.resume,
    )


def _interrupted(run: Learning, checkpoints: FolderCheckpoints) -> Interrupted:
    if not checkpoints.found():
        return Interrupted("stopped before the first checkpoint; nothing was written")
    return Interrupted(
        f"stopped; the checkpoint is kept in `{run.request.checkpoint_folder}`",
        "repeat the same command with `--resume` to go on",
    )
