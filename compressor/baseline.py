"""Dense baselines of a task: the fine-tuned twin and the head-only floor, same data and budget.

`full` trains every weight of the float model, `head` only the task-specific layers, `head-pooler`
those and the pooler (the stricter floor: a pooler that was never trained for anything is a poor
input for a linear classifier).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskpack.compressor.batches import Encoded, encode
from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.data import TaskData, load_data
from maskpack.compressor.evaluate import majority, predict_all, score
from maskpack.compressor.families import check_length, family_of, longest_input
from maskpack.compressor.hub import load_classifier, load_pretrained
from maskpack.compressor.news import Newsroom, Observe
from maskpack.compressor.predict import torch_predict
from maskpack.compressor.restore import base_of, head_parameters
from maskpack.compressor.results import RunResult
from maskpack.compressor.tasks import Task
from maskpack.compressor.train import (
    Group,
    NoCheckpoints,
    Plan,
    train,
    uses_bf16,
)
from maskpack.formats import ConfigError, Interrupted, ModelError
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
    """

    model: str
    task: Task
    config: BaselineConfig = field(default_factory=BaselineConfig)
    out: Path | None = None
    data: Path | None = None
    eval_data: Path | None = None
    revision: str | None = None


def run_baseline(request: BaselineRequest, *, observe: Observe = lambda _: None) -> RunResult:
    """Train one dense baseline and score it; save it as a plain model folder if asked to."""
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
    torch.manual_seed(config.seed)
    model = load_classifier(request.model, outputs=data.outputs, revision=request.revision)
    started = time.perf_counter()
    trained = _train(model, rows, dev, config=config, metric=data.task.metric, observe=observe)
    seconds = time.perf_counter() - started
    logits = predict_all(torch_predict(_check_finite(model)), dev)
    if request.out is not None:
        _save(model, pretrained.tokenizer, data, request.out)
    return RunResult(
        method=str(config.method),
        model=pretrained.name,
        task=data.task.name,
        bits=32,
        seed=config.seed,
        train_rows=len(data.train),
        eval_rows=len(data.dev),
        steps=config.total_steps(len(data.train)),
        seconds=round(seconds, 2),
        metric=data.task.metric,
        scores=score(logits, dev.labels, data.task.metrics),
        majority=majority(dev.labels, data.task.metrics),
        head_bytes=4 * sum(p.numel() for p in head_parameters(model).values()),
        patch_bytes=4 * trained,
        backbone_bytes=4 * sum(p.numel() for p in base_of(model).parameters()),
        options=asdict(config),
    )


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
            checkpoints=NoCheckpoints(),
            after_step=lambda _: None,
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
    head = list(head_parameters(model).values())
    base = base_of(model)
    if config.method is Method.FULL:
        return [Group(list(base.parameters()), config.lr), Group(head, config.head_lr)]
    base.requires_grad_(requires_grad=False)
    if config.method is Method.HEAD:
        return [Group(head, config.head_lr)]
    pooler = getattr(base, "pooler", None)
    if not isinstance(pooler, nn.Module):
        raise ConfigError(
            f"`{model.config.model_type}` has no pooler to train", "use `--method head`"
        )
    pooler.requires_grad_(requires_grad=True)
    return [Group([*head, *pooler.parameters()], config.head_lr)]


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
