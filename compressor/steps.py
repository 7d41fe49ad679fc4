"""The steps of `fit.py`, in its order, and the two values that pass between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.batches import Encoded, encode
from maskpack.compressor.checkpoint import FolderCheckpoints
from maskpack.compressor.config import FitConfig
from maskpack.compressor.data import TaskData, load_data
from maskpack.compressor.evaluate import majority, predict_all, score
from maskpack.compressor.families import check_length
from maskpack.compressor.freeze import freeze
from maskpack.compressor.ground import Ground, prepare_ground
from maskpack.compressor.interrupt import deferred_interrupt
from maskpack.compressor.news import Newsroom, Observe
from maskpack.compressor.predict import torch_predict
from maskpack.compressor.restore import (
    apply_patch,
    base_of,
    build_classifier,
    classifier_config,
    head_parameters,
)
from maskpack.compressor.results import RunResult
from maskpack.compressor.size import steering
from maskpack.compressor.surgery import mask_linears
from maskpack.compressor.tasks import Task
from maskpack.compressor.train import Group, Plan, train, uses_bf16
from maskpack.formats import (
    Interrupted,
    MaskCount,
    ModelError,
    Patch,
    TaskEntry,
    add_task,
    check_vacant,
    create_artifact,
    is_artifact,
    open_artifact,
)
from maskpack.formats.schema import check_task_name, patch_file
from maskpack.formats.writer import check_free


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
        plan: steps and rates.
    """

    request: FitRequest
    data: TaskData
    ground: Ground
    train: Encoded
    dev: Encoded
    plan: Plan


def prepare(request: FitRequest) -> Learning:
    """Load model, data and tokenizer; refuse before the first step what cannot end well."""
    config, name = request.config, request.stored_name
    if is_artifact(request.out):
        check_vacant(open_artifact(request.out), name, replacing=request.replace)
    else:
        check_free(request.out)
    data = load_data(request.task, data=request.data, eval_data=request.eval_data)
    data = data.limit_train(config.train_rows)
    ground = prepare_ground(
        request.model,
        request.out,
        config,
        bits_given=request.bits_given,
        revision=request.revision,
    )
    check_length(config.max_length, ground.longest)
    splits = [
        encode(
            ground.tokenizer,
            split,
            max_length=config.max_length,
            token_types=ground.family.token_types,
        )
        for split in (data.train, data.dev)
    ]
    steps = config.total_steps(len(data.train))
    bf16 = uses_bf16(config.precision)
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, bf16)
    return Learning(request, data, ground, splits[0], splits[1], plan)


def learn(run: Learning, *, observe: Observe) -> Patch:
    """Train scores and head on the frozen backbone; return the frozen patch."""
    config, ground = run.request.config, run.ground
    model = build_classifier(ground.backbone, _config(run), seed=config.seed)
    start = config.margin * config.lr * run.plan.drift()
    masked = mask_linears(base_of(model), ground.backbone.linears, start=start)
    layers = list(masked.values())
    head = list(head_parameters(model).values())
    size = steering(config.target_sparsity)
    checkpoints = _checkpoints(run)
    news = Newsroom(
        observe,
        model=model,
        layers=layers,
        dev=run.dev,
        metric=run.data.task.metric,
        per_epoch=-(-len(run.train) // config.batch_size),
    )
    try:
        with deferred_interrupt() as stop:
            train(
                model,
                run.train,
                plan=run.plan,
                groups=[
                    Group([layer.score for layer in layers], config.lr, config.floor),
                    Group(head, config.head_lr),
                ],
                checkpoints=checkpoints,
                after_step=lambda step: size.steer(layers, step, run.plan.steps),
                observe=news.report,
                stop=stop,
            )
    except KeyboardInterrupt:
        raise _interrupted(run, checkpoints) from None
    try:
        return freeze(model, masked)
    except ModelError:
        checkpoints.clear()  # nothing to go on from
        raise


def measure(run: Learning, patch: Patch, *, seconds: float) -> tuple[TaskEntry, RunResult]:
    """Score the patch as it will be stored, and describe it."""
    ground = run.ground
    model = build_classifier(ground.backbone, _config(run), seed=0)
    apply_patch(model, ground.backbone, patch)
    logits = predict_all(torch_predict(model), run.dev)
    scores = score(logits, run.dev.labels, run.data.task.metrics)
    return _entry(run, patch.count, scores), _result(run, patch, scores, seconds=seconds)


def _entry(run: Learning, count: MaskCount, scores: Mapping[str, float]) -> TaskEntry:
    """What the manifest will say; the writer fills in file and digest."""
    request, data = run.request, run.data
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
        training=asdict(request.config),
    )


def _result(
    run: Learning, patch: Patch, scores: Mapping[str, float], *, seconds: float
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
        train_rows=len(data.train),
        eval_rows=len(data.dev),
        steps=run.plan.steps,
        seconds=round(seconds, 2),
        metric=data.task.metric,
        scores=scores,
        majority=majority(run.dev.labels, data.task.metrics),
        weights=count.weights,
        zeros=count.zeros,
        mask_bytes=sum(mask.packed.nbytes for mask in patch.masks.values()),
        head_bytes=sum(tensor.nbytes for tensor in patch.head.values()),
        backbone_bytes=ground.backbone_bytes(),
        options=asdict(request.config),
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
