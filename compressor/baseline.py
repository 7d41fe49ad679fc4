"""Baselines that a mask is compared with, on the same data and budget: on floats, or on a quantised backbone.

`full` trains every weight, `head` only the task-specific layers, `head-pooler` those and the pooler
(the stricter baseline: an untrained pooler is a poor input for a linear
classifier), `bitfit` and `lora` the head and a small patch of their own. `imp` trains every weight in rounds, between
which the smallest go (`training/rewind.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.effects import ClassWeights, class_weight_effect, class_weights_of
from maskpack.compressor.label_checks import check_class_weight, check_head
from maskpack.compressor.pooling import pooling_for, say_what_reads
from maskpack.compressor.quantization.backbone import prepare_backbone
from maskpack.compressor.threads import torch_threads, training_threads
from maskpack.compressor.trained_parts import check_finite, trained_groups
from maskpack.compressor.training.callbacks import (
    CallbackList,
    Noise,
    TrainerCallback,
    use_fast_dropout,
)
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter, metric_of
from maskpack.compressor.training.rewind import Pruned, prune_in_rounds
from maskpack.compressor.training.teacher import (
    DenseTeacherRun,
    distillation_targets,
    find_teacher,
)
from maskpack.compressor.training.train import Checkpoints, NoCheckpoints, Plan, train
from maskpack.compressor.types import BaselineRequest, RunResult
from maskpack.formats import Interrupted, open_artifact
from maskpack.formats.codec import encoded_size
from maskpack.formats.lazy import renamed_argument
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import check_free, check_space, check_writable, new_folder
from maskpack.models.build import (
    base_of,
    build_classifier,
    check_plain,
    fold_scale,
    head_parameters,
    scale_outputs,
    shapes_of,
    unfold_scale,
)
from maskpack.models.linears import fold_factors, plain_state
from maskpack.models.load import Pretrained, load_classifier, load_pretrained
from maskpack.models.padding import set_pad_token
from maskpack.models.placement import Placement, placement_of
from maskpack.models.pooling import actual_pooling, gives_vectors
from maskpack.models.sentence_files import write_encoder
from maskpack.models.untrained import load_untrained
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import ModelContext, described, preprocess_splits
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.evaluate import answered
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.preprocess import load_splits
from maskpack.tasks.pretrained_head import Finding, renew_head, scale_for
from maskpack.tasks.task import Unlabelled
from maskpack.tasks.types import TaskType


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Everything that a run needs, before its first step.

    Attributes:
        data: rows of both splits.
        finding: the head of the model, if it has one for this task.
        original: metrics of the original model, if it has a head for this task.
        pretrained: the encoder and its tokenizer.
        context: its configuration and preprocessors.
        described: configuration of the classifier.
        placement: where and in which arithmetic.
        rows, dev: both splits as tokens.
    """

    data: TaskData
    finding: Finding
    original: Mapping[str, float] | None
    pretrained: Pretrained
    context: ModelContext
    described: Any
    placement: Placement
    rows: Encoded
    dev: Encoded

    @property
    def kind(self) -> TaskType:
        """Type of the task."""
        return self.data.task.type


@renamed_argument("observe", "on_progress")
def run_baseline(
    request: BaselineRequest, *, on_progress: OnProgress = lambda _: None
) -> RunResult:
    """Train one baseline and evaluate it; save it as a plain model folder if the request names one.

    Raises:
        ConfigError: the method does not fit the encoder, or `lora` without the package `peft`.
    """
    if request.out is not None:
        check_free(request.out)
        check_writable(request.out)
    with training_threads(request.threads, device=request.device):
        return _run(request, _load(request), on_progress)


def _run(request: BaselineRequest, loaded: _Loaded, on_progress: OnProgress) -> RunResult:
    """Train and evaluate what is loaded, and save it if the request names a folder."""
    config = request.config
    if request.out is not None:
        check_space(request.out, 4 * shapes_of(loaded.pretrained.model).values)
    data, dev = loaded.data, loaded.dev
    model, backbone_bytes = _start(request, loaded, on_progress)
    started = time.perf_counter()
    with _scaled(request, model, loaded):
        trained = _train(request, model, loaded, on_progress)
    seconds = time.perf_counter() - started
    fold_factors(model)
    logits = answered(check_finite(model), loaded.kind, dev)
    if request.out is not None:
        loaded.placement.processes.of_main(partial(_save, model, loaded, request))
    return _result(
        config,
        data,
        model=loaded.pretrained.name,
        scores=compute_metrics(loaded.kind, logits, dev.labels, data.task.metrics),
        majority=majority(loaded.kind, dev.labels, data.task.metrics),
        seconds=round(seconds, 2),
        threads=torch_threads(),
        head_bytes=4 * sum(p.numel() for p in head_parameters(model).values()),
        patch_bytes=4 * (trained.values - trained.zeros.get("zeros", 0)),
        steps=trained.steps,
        **trained.zeros,
        backbone_bytes=backbone_bytes,
        original=loaded.original,
        class_weights=_class_weights(config, loaded, logits),
    )


def _class_weights(
    config: BaselineConfig, loaded: _Loaded, logits: NDArray[np.float32]
) -> ClassWeights | None:
    """What weights of labels did, if there were any."""
    return class_weight_effect(
        loaded.kind,
        loaded.data.labels,
        _weights(config, loaded),
        trained=loaded.rows.labels,
        logits=logits,
        labels=loaded.dev.labels,
    )


def _weights(config: BaselineConfig, loaded: _Loaded) -> NDArray[np.float32] | None:
    """Weights of the labels in the loss; None: all count alike."""
    data, labels = loaded.data, loaded.rows.labels
    return class_weights_of(config.class_weight, loaded.kind, labels, data.outputs)


def _load(request: BaselineRequest) -> _Loaded:
    """Data, model and tokenizer. Rows without a label are for masks: a baseline leaves them out."""
    config, task = request.config, request.task
    if task.unlabelled is Unlabelled.TEACH:
        task = replace(task, unlabelled=Unlabelled.SKIP)
    data, finding = load_splits(
        request.model,
        task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=config.train_rows,
        revision=request.revision,
        cache=request.cache,
        untrained=config.random is not None,
    )
    check_class_weight(config.class_weight, data.task, labelled=True)
    check_head(config.method, data.task)
    pretrained = _encoder(request, finding)
    context, kind = ModelContext.of_pretrained(pretrained), data.task.type
    pooling = pooling_for(request, finding)
    rows, dev = preprocess_splits(context, data, finding.note, config.max_length)
    return _Loaded(
        data=data,
        finding=finding,
        original=finding.metrics(kind, dev, data.task.metrics),
        pretrained=pretrained,
        context=context,
        described=described(context.files[CONFIG], kind, data.labels, pooling),
        placement=placement_of(request.device, config.precision),
        rows=rows,
        dev=dev,
    )


def _encoder(request: BaselineRequest, finding: Finding) -> Pretrained:
    """The pretrained encoder, or one of random weights."""
    revision, resize = request.revision, request.resize_embeddings
    if request.config.random is not None:
        return load_untrained(request.model, revision=revision, resize_embeddings=resize)
    own = finding.encoder
    return load_pretrained(
        request.model, revision=revision, classifier=own, resize_embeddings=resize
    )


def _result(config: BaselineConfig, data: TaskData, **measured: Any) -> RunResult:
    """The result, with facts of options and data."""
    return RunResult(
        method=str(config.method),
        task=data.task.name,
        bits=32 if config.bits is config.random is None else config.backbone().bits,
        seed=config.seed,
        train_rows=len(data.train),
        eval_rows=len(data.dev),
        metric=data.task.metric,
        options=config.record(),
        rows_without_label=data.rows_without_label,
        **measured,
    )


def _start(request: BaselineRequest, loaded: _Loaded, on_progress: OnProgress) -> tuple[Any, int]:
    """The classifier before its first step, and the bytes of its encoder as stored."""
    config, pretrained, described = request.config, loaded.pretrained, loaded.described
    train = loaded.data.train
    torch.manual_seed(config.seed)
    if config.bits is None and config.random is None:
        model = loaded.finding.classifier or load_classifier(
            request.model,
            outputs=described.num_labels,
            revision=request.revision,
            auto_class=loaded.kind.auto_class,
            vocabulary=getattr(described, "vocab_size", 0),
            pooling=actual_pooling(described),
            vectors=gives_vectors(described),
        )
        set_pad_token(model, pretrained.model.config.pad_token_id)
        if loaded.finding.refused:
            renew_head(model, described)
        return loaded.placement.put(model), 4 * sum(p.numel() for p in base_of(model).parameters())
    if request.backbone is not None:
        backbone = open_artifact(request.backbone).backbone
    else:
        backbone = prepare_backbone(
            pretrained, config.backbone(), train, device=request.device, on_progress=on_progress
        ).backbone
    model = build_classifier(backbone, described, seed=config.seed)
    if loaded.finding.head is not None:
        loaded.finding.head.copy_to(model)
    return loaded.placement.put(model), encoded_size(backbone)


@contextmanager
def _scaled(request: BaselineRequest, model: Any, loaded: _Loaded) -> Iterator[None]:
    """Let the head learn in its own unit; before and after it answers in the target's."""
    head = loaded.finding.head
    target = scale_for(loaded.kind, loaded.rows.labels, head)
    if request.out is not None:
        check_plain(head_parameters(model), model.config.model_type, target)
    if head is not None:
        unfold_scale(model, target)
    restore = scale_outputs(model, target)
    yield
    restore()
    fold_scale(model, target)


@dataclass(frozen=True, eq=False)
class _Trained:
    """What was trained: values, optimiser steps of all rounds, and the weights of which some are gone."""

    values: int
    steps: int
    pruned: Pruned | None

    @property
    def zeros(self) -> dict[str, int]:
        """Weights that could go and those that are gone, for a result."""
        if self.pruned is None:
            return {}
        return {"weights": self.pruned.size, "zeros": self.pruned.zeros}


def _train(
    request: BaselineRequest, model: Any, loaded: _Loaded, on_progress: OnProgress
) -> _Trained:
    """Train the parameters of the method, in place."""
    config, rows, metric = request.config, loaded.rows, loaded.data.task.metric
    plan = Plan.of(config, len(rows))
    groups, noise = trained_groups(model, config), Noise(config.seed)
    use_fast_dropout(model, noise, p=config.dropout, as_bytes=loaded.placement.byte_dropout)
    reporter = ProgressReporter(
        on_progress,
        metric=metric,
        evaluate=metric_of(model, loaded.kind, loaded.dev, metric, loaded.placement.processes),
        count=None,
        per_epoch=-(-len(rows) // config.batch_size),
    )
    try:
        targets = _targets(request, loaded, plan, on_progress)
        task_loss = TaskLoss(
            loaded.kind, rows.labels, targets, weights=_weights(config, loaded), encoded=rows
        )

        def once(checkpoints: Checkpoints, more: TrainerCallback) -> int:
            return train(
                model,
                rows,
                plan=plan,
                groups=groups,
                task_loss=task_loss,
                callbacks=CallbackList([noise, more]),
                placement=loaded.placement,
                checkpoints=checkpoints,
                on_step=reporter.report,
            )

        pruned, steps = _rounds(model, config, plan.steps, once)
    except KeyboardInterrupt:
        raise Interrupted("stopped; a baseline keeps no checkpoint, nothing was written") from None
    return _Trained(sum(p.numel() for group in groups for p in group.parameters), steps, pruned)


def _rounds(
    model: Any,
    config: BaselineConfig,
    steps: int,
    once: Callable[[Checkpoints, TrainerCallback], int],
) -> tuple[Pruned | None, int]:
    """Train once, or in the rounds of `imp`; the weights of which some are gone, and the steps taken."""
    if config.method is not Method.IMP:
        return None, once(NoCheckpoints(), TrainerCallback())
    return prune_in_rounds(base_of(model), config, steps, lambda each: once(each, each))


def _targets(
    request: BaselineRequest, loaded: _Loaded, plan: Plan, on_progress: OnProgress
) -> DistillationTargets | None:
    """The targets of the teacher that the options name, or None."""
    first = DenseTeacherRun(
        request.model,
        request.revision,
        loaded.rows,
        loaded.described,
        loaded.kind,
        plan.linear(),
        loaded.placement,
        on_progress,
        weights=_weights(request.config, loaded),
        drawn=None
        if request.config.random is None
        else lambda _: _start(request, loaded, on_progress)[0],
    )
    return distillation_targets(
        find_teacher(request.config, loaded.finding, loaded.kind),
        request.config,
        loaded.rows,
        loaded.described,
        placement=loaded.placement,
        train_first=first.train,
    )


def _save(model: Any, loaded: _Loaded, request: BaselineRequest) -> None:
    """Write model, tokenizer and label names as transformers reads them; one that gives vectors as sentence-transformers does."""
    labels, length = loaded.data.labels, request.config.max_length
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: index for index, name in enumerate(labels)}
    model.config.problem_type = loaded.kind.problem_type
    assert request.out is not None
    with new_folder(request.out) as build:
        if loaded.kind.decoder.vectors:
            prefixes = loaded.data.task.prefixes or ()
            write_encoder(model, build, max_length=length, prefixes=prefixes)
        else:
            model.save_pretrained(str(build), state_dict=plain_state(model))
        loaded.context.preprocessor(loaded.kind.preprocessor).save(build)
    if not loaded.kind.decoder.vectors:
        say_what_reads(model.config, request.out)
