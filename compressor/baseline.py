"""What a mask is compared with, on the same data and budget: on floats, or on a quantised backbone.

`full` trains every weight, `head` only the task-specific layers, `head-pooler` those and the pooler
(the stricter floor: a pooler that was never trained for anything is a poor input for a linear
classifier), `bitfit` and `lora` the head and a small patch of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpack.compressor.batches import Encoded, encode
from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.data import TaskData, load_data
from maskpack.compressor.dropout import Noise, quicken_dropout
from maskpack.compressor.evaluate import majority, predict_all, score
from maskpack.compressor.families import check_length, family_of, longest_input
from maskpack.compressor.ground import quantized_ground
from maskpack.compressor.hub import Pretrained, load_classifier, load_pretrained
from maskpack.compressor.news import Newsroom, Observe
from maskpack.compressor.objective import Objective
from maskpack.compressor.predict import torch_predict
from maskpack.compressor.restore import (
    base_of,
    build_classifier,
    classifier_config,
    head_parameters,
)
from maskpack.compressor.results import RunResult
from maskpack.compressor.tasks import Task
from maskpack.compressor.train import (
    Group,
    NoCheckpoints,
    Plan,
    train,
    uses_bf16,
)
from maskpack.formats import ConfigError, Interrupted, ModelError, open_artifact
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


def run_baseline(request: BaselineRequest, *, observe: Observe = lambda _: None) -> RunResult:
    """Train one baseline and score it; save it as a plain model folder if asked to.

    Raises:
        ConfigError: the method does not fit the encoder, or `lora` without the package `peft`.
    """
    config = request.config
    if request.out is not None:
        check_free(request.out)
    data = load_data(request.task, data=request.data, eval_data=request.eval_data)
    data = data.limit_train(config.train_rows)
    pretrained = load_pretrained(request.model, revision=request.revision)
    check_length(config.max_length, longest_input(pretrained.model.config.to_dict()))
    types = family_of(pretrained.model.config.model_type).token_types
    rows, dev = (
        encode(pretrained.tokenizer, split, max_length=config.max_length, token_types=types)
        for split in (data.train, data.dev)
    )
    model, backbone_bytes = _start(request, pretrained, data, observe)
    started = time.perf_counter()
    trained = _train(model, rows, dev, config=config, metric=data.task.metric, observe=observe)
    seconds = time.perf_counter() - started
    _fold_factors(model)
    logits = predict_all(torch_predict(_check_finite(model)), dev)
    if request.out is not None:
        _save(model, pretrained.tokenizer, data, request.out)
    return _result(
        config,
        data,
        model=pretrained.name,
        scores=score(logits, dev.labels, data.task.metrics),
        majority=majority(dev.labels, data.task.metrics),
        seconds=round(seconds, 2),
        head_bytes=4 * sum(p.numel() for p in head_parameters(model).values()),
        patch_bytes=4 * trained,
        backbone_bytes=backbone_bytes,
    )


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


def _start(
    request: BaselineRequest, pretrained: Pretrained, data: TaskData, observe: Observe
) -> tuple[Any, int]:
    """The classifier before its first step, and the bytes of its encoder as stored."""
    config = request.config
    torch.manual_seed(config.seed)
    if config.bits is None:
        model = load_classifier(request.model, outputs=data.outputs, revision=request.revision)
        return model, 4 * sum(p.numel() for p in base_of(model).parameters())
    if request.backbone is not None:
        backbone = open_artifact(request.backbone).backbone
    else:
        backbone = quantized_ground(pretrained, config.backbone(), observe=observe).backbone
    tree = classifier_config(pretrained.files[CONFIG], data.labels, outputs=data.outputs)
    model = build_classifier(backbone, tree, seed=config.seed)
    return model, len(encode_backbone(backbone))


def _train(
    model: Any,
    rows: Encoded,
    dev: Encoded,
    *,
    config: BaselineConfig,
    metric: str,
    observe: Observe,
) -> int:
    """Train in place what the method trains; return how many parameters that is."""
    groups = trained_groups(model, config)
    noise = Noise(config.seed)
    quicken_dropout(model, noise, p=config.dropout)
    steps = config.total_steps(len(rows))
    bf16 = uses_bf16(config.precision)
    per_epoch = -(-len(rows) // config.batch_size)
    news = Newsroom(observe, model=model, layers=(), dev=dev, metric=metric, per_epoch=per_epoch)
    try:
        train(
            model,
            rows,
            plan=Plan(steps, config.batch_size, config.warmup, config.seed, bf16),
            groups=groups,
            objective=Objective(rows.labels),
            company=noise,
            checkpoints=NoCheckpoints(),
            observe=news.report,
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped; a baseline keeps no checkpoint, nothing was written") from None
    return sum(p.numel() for group in groups for p in group.parameters)


def trained_groups(model: Any, config: BaselineConfig) -> list[Group]:
    """Freeze what the method does not train, and group the rest by learning rate.

    Raises:
        ConfigError: `head-pooler` for an encoder without a pooler.
    """
    head = Group(list(head_parameters(model).values()), config.head_lr)
    base = base_of(model)
    if config.method is Method.FULL:
        return [Group(list(base.parameters()), config.peak_lr), head]
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
    return (p for name, p in base.named_parameters() if name.endswith("bias"))


def _factors(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """Low-rank factors beside query and value: LoRA (Hu et al. 2021, arXiv 2106.09685)."""
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("`lora` needs the package peft", "pip install peft") from None
    names = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    targets = [name for name in ("query", "value", "q_lin", "v_lin") if name in names]
    options = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=targets)
    inject_adapter_in_model(options, base)
    return (p for name, p in base.named_parameters() if "lora_" in name)


def _fold_factors(model: nn.Module) -> None:
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
    with new_folder(out) as build:
        model.save_pretrained(str(build))
        tokenizer.save_pretrained(str(build))
