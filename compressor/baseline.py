"""What a mask is compared with, on the same data and budget: on floats, or on a quantised backbone.

What each method trains is in `methods.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpack.compressor.config import BaselineConfig
from maskpack.compressor.data.batches import Encoded
from maskpack.compressor.data.load import TaskData
from maskpack.compressor.data.tasks import Task
from maskpack.compressor.ground import quantized_ground
from maskpack.compressor.learning.dropout import Noise, quicken_dropout
from maskpack.compressor.learning.news import Newsroom, Observe
from maskpack.compressor.learning.objective import Objective
from maskpack.compressor.learning.teacher import teaching_of
from maskpack.compressor.learning.train import NoCheckpoints, Plan, train, uses_bf16
from maskpack.compressor.material import encode_material, load_material
from maskpack.compressor.methods import fold_factors, trained_groups
from maskpack.compressor.models.families import check_length, longest_input, token_kinds
from maskpack.compressor.models.hub import (
    Pretrained,
    heed_padding,
    load_classifier,
    load_pretrained,
)
from maskpack.compressor.models.linearize import plain_state
from maskpack.compressor.own_head import Finding, original_scores, renew_head
from maskpack.compressor.restore import (
    PROBLEM_TYPES,
    base_of,
    build_classifier,
    classifier_config,
    head_parameters,
)
from maskpack.compressor.results import RunResult
from maskpack.compressor.scores.evaluate import majority, predict_all, score
from maskpack.compressor.scores.predict import torch_predict
from maskpack.formats import Interrupted, ModelError, open_artifact
from maskpack.formats.codec import encode_backbone
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import check_free, new_folder


@dataclass(frozen=True)
class BaselineRequest:
    """What to train, on what, and where to keep it.

    Attributes:
        model: folder, hub id or alias of the pretrained encoder.
        task: the task, from `find_task`.
        config: method, budget and rates.
        out: folder for the trained model, or None to keep only the figures.
        data, eval_data: files of the task, see `load_data`.
        revision: branch, tag or commit of a hub model.
        backbone: artifact whose backbone to start from, where `config.bits` asks for one; None
            quantises the model anew.
    """

    model: str
    task: Task
    config: BaselineConfig = field(default_factory=BaselineConfig)
    out: Path | None = None
    data: Path | None = None
    eval_data: Path | None = None
    revision: str | None = None
    backbone: Path | None = None


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Everything that a run needs, before its first step.

    Attributes:
        data: rows of both splits.
        found: the head that the model brings, if it does.
        pretrained: the encoder and its tokenizer.
        described: configuration of the classifier.
        rows, dev: both splits as tokens.
    """

    data: TaskData
    found: Finding
    pretrained: Pretrained
    described: Any
    rows: Encoded
    dev: Encoded


def run_baseline(request: BaselineRequest, *, observe: Observe = lambda _: None) -> RunResult:
    """Train one baseline and score it; save it as a plain model folder if asked to.

    Raises:
        ConfigError: the method does not fit the encoder, or `lora` without the package `peft`.
    """
    config = request.config
    if request.out is not None:
        check_free(request.out)
    loaded = _load(request)
    data, dev, head = loaded.data, loaded.dev, loaded.found.head
    model, backbone_bytes = _start(request, loaded, observe)
    started = time.perf_counter()
    trained = _train(request, model, loaded, observe=observe)
    seconds = time.perf_counter() - started
    fold_factors(model)
    logits = predict_all(torch_predict(_check_finite(model)), dev)
    if request.out is not None:
        _save(model, loaded.pretrained.tokenizer, data, request.out)
    return _result(
        config,
        data,
        model=loaded.pretrained.name,
        scores=score(logits, dev.labels, data.task.metrics),
        majority=majority(dev.labels, data.task.metrics),
        seconds=round(seconds, 2),
        head_bytes=4 * sum(p.numel() for p in head_parameters(model).values()),
        patch_bytes=4 * trained,
        backbone_bytes=backbone_bytes,
        original=None if head is None else original_scores(head, dev, data.task.metrics),
    )


def _load(request: BaselineRequest) -> _Loaded:
    """Data, model and tokenizer."""
    config = request.config
    data, found = load_material(
        request.model,
        request.task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=config.train_rows,
        revision=request.revision,
    )
    pretrained = load_pretrained(request.model, revision=request.revision)
    reads = pretrained.model.config.to_dict()
    longest = longest_input(reads)
    check_length(config.max_length, longest)
    rows, dev = encode_material(
        pretrained.tokenizer,
        data,
        found,
        max_length=config.max_length,
        token_types=token_kinds(reads) > 0,
        longest=longest,
    )
    described = classifier_config(
        pretrained.files[CONFIG], data.labels, outputs=data.outputs, kind=data.task.kind
    )
    return _Loaded(data, found, pretrained, described, rows, dev)


def _result(config: BaselineConfig, data: TaskData, **measured: Any) -> RunResult:
    """What was measured, with what options and data say."""
    return RunResult(
        method=str(config.method),
        task=data.task.name,
        bits=config.bits or 32,
        seed=config.seed,
        train_rows=len(data.train),
        eval_rows=len(data.dev),
        steps=config.total_steps(len(data.train)),
        metric=data.task.metric,
        options=config.record(),
        **measured,
    )


def _start(request: BaselineRequest, loaded: _Loaded, observe: Observe) -> tuple[Any, int]:
    """The classifier before its first step, and the bytes of its encoder as stored."""
    config, pretrained, described = request.config, loaded.pretrained, loaded.described
    torch.manual_seed(config.seed)
    if config.bits is None:
        outputs = described.num_labels
        model = load_classifier(request.model, outputs=outputs, revision=request.revision)
        heed_padding(model, pretrained.model.config.pad_token_id)
        if loaded.found.refused:
            renew_head(model, described)
        return model, 4 * sum(p.numel() for p in base_of(model).parameters())
    if request.backbone is not None:
        backbone = open_artifact(request.backbone).backbone
    else:
        backbone = quantized_ground(pretrained, config.backbone(), observe=observe).backbone
    model = build_classifier(backbone, described, seed=config.seed)
    if loaded.found.head is not None:
        loaded.found.head.give_to(model)
    return model, len(encode_backbone(backbone))


def _train(
    request: BaselineRequest,
    model: Any,
    loaded: _Loaded,
    *,
    observe: Observe,
) -> int:
    """Train in place what the method trains; return how many parameters that is."""
    config, rows, described = request.config, loaded.rows, loaded.described
    dev, metric = loaded.dev, loaded.data.task.metric
    steps = config.total_steps(len(rows))
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, uses_bf16(config.precision))
    groups = trained_groups(model, config)
    noise = Noise(config.seed)
    quicken_dropout(model, noise, p=config.dropout)
    per_epoch = -(-len(rows) // config.batch_size)
    news = Newsroom(observe, model=model, layers=(), dev=dev, metric=metric, per_epoch=per_epoch)
    model_name, revision = request.model, request.revision
    try:
        teaching = teaching_of(
            config, rows, described, model=model_name, revision=revision, plan=plan
        )
        train(
            model,
            rows,
            plan=plan,
            groups=groups,
            objective=Objective(rows.labels, teaching),
            company=noise,
            checkpoints=NoCheckpoints(),
            observe=news.report,
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped; a baseline keeps no checkpoint, nothing was written") from None
    return sum(p.numel() for group in groups for p in group.parameters)


def _check_finite(model: nn.Module) -> nn.Module:
    """`model` itself, if no parameter has diverged."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"training diverged: `{name}` holds a value that is not finite",
                "lower `--lr` or `--head-lr`",
            )
    return model


def _save(model: Any, tokenizer: Any, data: TaskData, out: Path) -> None:
    """Write model, tokenizer and label names as transformers reads them."""
    if data.labels:
        model.config.id2label = dict(enumerate(data.labels))
        model.config.label2id = {name: place for place, name in enumerate(data.labels)}
    model.config.problem_type = PROBLEM_TYPES[data.task.kind]
    with new_folder(out) as build:
        model.save_pretrained(str(build), state_dict=plain_state(model))
        tokenizer.save_pretrained(str(build))
