"""What a mask is compared with, on the same data and budget: on floats, or on a quantised backbone.

`full` trains every weight, `head` only the task-specific layers, `head-pooler` those and the pooler
(the stricter floor: a pooler that was never trained for anything is a poor input for a linear
classifier), `bitfit` and `lora` the head and a small patch of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.quantization.backbone import prepare_backbone
from maskpack.compressor.training.callbacks import Noise, use_fast_dropout
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.progress import OnProgress, ProgressReporter
from maskpack.compressor.training.teacher import distillation_targets
from maskpack.compressor.training.train import (
    Group,
    NoCheckpoints,
    Plan,
    every_weight,
    train,
    uses_bf16,
)
from maskpack.compressor.types import BaselineRequest, RunResult
from maskpack.formats import ConfigError, Interrupted, ModelError, open_artifact
from maskpack.formats.codec import encode_backbone
from maskpack.formats.lazy import renamed_argument
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import check_free, new_folder
from maskpack.models.build import base_of, build_classifier, head_parameters
from maskpack.models.families import check_length, family_of, longest_input, token_kinds
from maskpack.models.linears import plain_state
from maskpack.models.load import Pretrained, load_classifier, load_pretrained, set_pad_token
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import described
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.evaluation.predict import predict_all, torch_predict
from maskpack.tasks.preprocess import load_splits, preprocess_splits
from maskpack.tasks.pretrained_head import Finding, original_metrics, renew_head
from maskpack.tasks.task import PROBLEM_TYPES


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


@renamed_argument("observe", "on_progress")
def run_baseline(
    request: BaselineRequest, *, on_progress: OnProgress = lambda _: None
) -> RunResult:
    """Train one baseline and score it; save it as a plain model folder if asked to.

    Raises:
        ConfigError: the method does not fit the encoder, or `lora` without the package `peft`.
    """
    config = request.config
    if request.out is not None:
        check_free(request.out)
    loaded = _load(request)
    data, dev, head = loaded.data, loaded.dev, loaded.found.head
    model, backbone_bytes = _start(request, loaded, on_progress)
    started = time.perf_counter()
    trained = _train(request, model, loaded, on_progress=on_progress)
    seconds = time.perf_counter() - started
    fold_factors(model)
    logits = predict_all(torch_predict(_check_finite(model)), dev)
    if request.out is not None:
        _save(model, loaded.pretrained.tokenizer, data, request.out)
    return _result(
        config,
        data,
        model=loaded.pretrained.name,
        scores=compute_metrics(logits, dev.labels, data.task.metrics),
        majority=majority(dev.labels, data.task.metrics),
        seconds=round(seconds, 2),
        head_bytes=4 * sum(p.numel() for p in head_parameters(model).values()),
        patch_bytes=4 * trained,
        backbone_bytes=backbone_bytes,
        original=None if head is None else original_metrics(head, dev, data.task.metrics),
    )


def _load(request: BaselineRequest) -> _Loaded:
    """Data, model and tokenizer."""
    config = request.config
    data, found = load_splits(
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
    rows, dev = preprocess_splits(
        pretrained.tokenizer,
        data,
        found,
        max_length=config.max_length,
        token_types=token_kinds(reads) > 0,
        longest=longest,
    )
    config_of_task = described(pretrained.files[CONFIG], data)
    return _Loaded(data, found, pretrained, config_of_task, rows, dev)


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


def _start(request: BaselineRequest, loaded: _Loaded, on_progress: OnProgress) -> tuple[Any, int]:
    """The classifier before its first step, and the bytes of its encoder as stored."""
    config, pretrained, described = request.config, loaded.pretrained, loaded.described
    torch.manual_seed(config.seed)
    if config.bits is None:
        outputs = described.num_labels
        model = load_classifier(request.model, outputs=outputs, revision=request.revision)
        set_pad_token(model, pretrained.model.config.pad_token_id)
        if loaded.found.refused:
            renew_head(model, described)
        return model, 4 * sum(p.numel() for p in base_of(model).parameters())
    if request.backbone is not None:
        backbone = open_artifact(request.backbone).backbone
    else:
        backbone = prepare_backbone(pretrained, config.backbone(), on_progress=on_progress).backbone
    model = build_classifier(backbone, described, seed=config.seed)
    if loaded.found.head is not None:
        loaded.found.head.copy_to(model)
    return model, len(encode_backbone(backbone))


def _train(
    request: BaselineRequest,
    model: Any,
    loaded: _Loaded,
    *,
    on_progress: OnProgress,
) -> int:
    """Train in place what the method trains; return how many parameters that is."""
    config, rows, described = request.config, loaded.rows, loaded.described
    dev, metric = loaded.dev, loaded.data.task.metric
    steps = config.total_steps(len(rows))
    plan = Plan(steps, config.batch_size, config.warmup, config.seed, uses_bf16(config.precision))
    groups = trained_groups(model, config)
    noise = Noise(config.seed)
    use_fast_dropout(model, noise, p=config.dropout)
    per_epoch = -(-len(rows) // config.batch_size)

    def evaluate() -> float:
        logits = predict_all(torch_predict(model), dev)
        model.train()
        return compute_metrics(logits, dev.labels, [metric])[metric]

    reporter = ProgressReporter(
        on_progress, metric=metric, evaluate=evaluate, count=None, per_epoch=per_epoch
    )
    model_name, revision = request.model, request.revision
    try:
        targets = distillation_targets(
            config, rows, described, model=model_name, revision=revision, plan=plan
        )
        train(
            model,
            rows,
            plan=plan,
            groups=groups,
            task_loss=TaskLoss(rows.labels, targets),
            callbacks=noise,
            checkpoints=NoCheckpoints(),
            on_progress=reporter.report,
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


def trained_groups(model: Any, config: BaselineConfig) -> list[Group]:
    """Freeze what the method does not train, and group the rest by learning rate.

    Raises:
        ConfigError: `head-pooler` for an encoder without a pooler, `bitfit` for one without biases.
    """
    if config.method is Method.FULL:
        return every_weight(model, lr=config.peak_lr, head_lr=config.head_lr)
    head, base = Group(list(head_parameters(model).values()), config.head_lr), base_of(model)
    base.requires_grad_(requires_grad=False)
    if config.method is Method.HEAD:
        return [head]
    trained = list(_TRAINED[config.method](base, config))
    for parameter in trained:
        parameter.requires_grad = True
    return [Group(trained, config.peak_lr), head]


def _pooler(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """All of the pooler."""
    pooler = getattr(base, "pooler", None)
    if not isinstance(pooler, nn.Module):
        raise ConfigError(
            f"`{base.config.model_type}` has no pooler to train", "use `--method head`"
        )
    del config
    return pooler.parameters()


def _biases(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """Every bias, LayerNorm's too: BitFit (Ben Zaken et al. 2022, arXiv 2106.10199)."""
    del config
    biases = [p for name, p in base.named_parameters() if name.endswith("bias")]
    if not biases:
        raise ConfigError(
            f"`{base.config.model_type}` has no biases to train", "use `--method lora`"
        )
    return biases


def _factors(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """Low-rank factors beside query and value: LoRA (Hu et al. 2021, arXiv 2106.09685)."""
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("`lora` needs the package peft", "pip install peft") from None
    targets = list(family_of(base.config.model_type).projections)
    options = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=targets)
    inject_adapter_in_model(options, base)
    return (p for name, p in base.named_parameters() if "lora_" in name)


def fold_factors(model: nn.Module) -> None:
    """Add the factors of `lora` to their weights, so that what is measured and saved is plain."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer"):
                layer: Any = child  # peft ships no types
                layer.merge()
                setattr(module, name, layer.get_base_layer())


_TRAINED: dict[Method, Callable[[Any, BaselineConfig], Iterable[nn.Parameter]]] = {
    Method.HEAD_POOLER: _pooler,
    Method.BITFIT: _biases,
    Method.LORA: _factors,
}
