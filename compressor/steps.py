"""The steps of `fit.py`, in its order; the values that pass between them are in `request.py`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial

import numpy as np

from maskpack.compressor.config import FitConfig
from maskpack.compressor.data.batches import Encoded
from maskpack.compressor.data.load import TaskData
from maskpack.compressor.ground import prepare_ground
from maskpack.compressor.learning.checkpoint import FolderCheckpoints
from maskpack.compressor.learning.companion import Companion, Company
from maskpack.compressor.learning.freeze import freeze
from maskpack.compressor.learning.history import History
from maskpack.compressor.learning.interrupt import deferred_interrupt
from maskpack.compressor.learning.news import Newsroom, Observe
from maskpack.compressor.learning.objective import Objective, Teaching
from maskpack.compressor.learning.student import Student, enroll, extra_bytes, masked_names
from maskpack.compressor.learning.target import target_sparsity
from maskpack.compressor.learning.teacher import TWIN, Answers, teaching_of
from maskpack.compressor.learning.train import Plan, train, uses_bf16
from maskpack.compressor.learning.watch import early_stopping, history_of
from maskpack.compressor.material import encode_material, load_material
from maskpack.compressor.models.families import check_length, family_of
from maskpack.compressor.models.hub import load_config, resolve
from maskpack.compressor.request import FitRequest, Learned, Learning
from maskpack.compressor.restore import build_classifier, classifier_config
from maskpack.compressor.scores.evaluate import score
from maskpack.compressor.shape import Shape, shape_of
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
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import check_free

_LOG = logging.getLogger(__name__)

_HOLD_OUT_SEED = 11  # the same rows for every seed of a run


def prepare(request: FitRequest, *, observe: Observe = lambda _: None) -> Learning:
    """Load model, data and tokenizer; refuse before the first step what cannot end well."""
    config, name = request.config, request.stored_name
    if is_artifact(request.out):
        check_vacant(open_artifact(request.out), name, replacing=request.replace)
    else:
        check_free(request.out)
    data, found = load_material(
        request.model,
        request.task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=config.train_rows,
        revision=request.revision,
    )
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
    train, dev = encode_material(
        ground.tokenizer,
        data,
        found,
        max_length=config.max_length,
        token_types=ground.token_types,
        longest=ground.longest,
    )
    rows, held_out = _hold_out(train, config)
    steps, bf16 = config.total_steps(len(rows)), uses_bf16(config.precision)
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, bf16)
    return Learning(request, data, ground, rows, dev, held_out, plan, shape, sparsity, found.head)


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
    kind = data.task.kind
    return shape_of(classifier_config(tree, data.labels, outputs=data.outputs, kind=kind))


def _sparsity(config: FitConfig, shape: Shape) -> float | None:
    """Share of zeros to reach; refuses a size that cannot be met."""
    sizes = [shape.linears[name] for name in masked_names(shape.linears, config)]
    other = shape.head_bytes + extra_bytes(shape, config)
    weights = sum(rows * width for rows, width in sizes)
    return target_sparsity(config, weights=weights, other_bytes=other)


def learn(run: Learning, *, observe: Observe) -> Learned:
    """Train scores and head on the frozen backbone."""
    checkpoints = _checkpoints(run)
    try:
        objective = _objective(run)
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
        per_epoch=run.per_epoch,
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
    metric, every = run.data.task.metric, run.per_epoch
    patience = run.request.config.patience
    return (
        history_of(student, run.dev, metric=metric, steps=run.plan.steps, per_epoch=every),
        early_stopping(student, run.held_out, metric=metric, every=every, patience=patience),
    )


def student_of(run: Learning, objective: Objective) -> Student:
    """The classifier with its masks, before the first step."""
    config = run.request.config
    model = build_classifier(run.ground.backbone, run.described, seed=config.seed)
    if run.head is not None:
        run.head.give_to(model)
    return enroll(
        model,
        run.shape,
        config,
        plan=run.plan,
        rows=run.train,
        objective=objective,
        sparsity=run.sparsity,
    )


def _objective(run: Learning) -> Objective:
    """What a step minimises; a teacher that is trained first is announced, it shows no progress."""
    if run.request.config.teacher == TWIN:
        _LOG.info("a dense teacher is trained first, in %d steps; then the mask", run.plan.steps)
    return Objective(run.train.labels, teaching_for(run, run.plan, heard=partial(_tell, run)))


def _tell(run: Learning, teacher: Answers) -> None:
    """How good the teacher is: a mask that is weak may have a weak one."""
    metric = run.data.task.metric
    value = score(teacher(run.dev), run.dev.labels, [metric])[metric]
    _LOG.info("the teacher has %s %.4f on the evaluation rows", metric, value)


def teaching_for(
    run: Learning, plan: Plan, *, heard: Callable[[Answers], None] = lambda _: None
) -> Teaching | None:
    """What the teacher has to say, see `teaching_of`; one that is trained first learns by `plan`."""
    return teaching_of(
        run.request.config,
        run.train,
        run.described,
        model=run.request.model,
        revision=run.request.revision,
        plan=plan,
        heard=heard,
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


def _checkpoints(run: Learning) -> FolderCheckpoints:
    parts = (
        run.request.config.sha256(),
        run.data.train.sha256(),
        run.data.outputs,
        run.ground.source.weights_sha256,
        run.ground.scheme,
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


def _interrupted(run: Learning, checkpoints: FolderCheckpoints) -> Interrupted:
    if not checkpoints.found():
        return Interrupted("stopped before the first checkpoint; nothing was written")
    return Interrupted(
        f"stopped; the checkpoint is kept in `{run.request.checkpoint_folder}`",
        "repeat the same command with `--resume` to go on",
    )
