"""`compress baseline`: train what a mask is compared with. `compress quantize`: the backbone alone."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.fit import show_result
from maskpack.compressor.config import BackboneConfig, BaselineConfig
from maskpack.formats.schema import BACKBONE


def baseline(
    ctx: typer.Context,
    model: opt.Model,
    method: Annotated[
        str, Option(help="full, head, head-pooler, bitfit or lora: what is trained.")
    ],
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder for the trained model. [not kept]")
    ] = None,
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    text_field: opt.TextField = None,
    pair_field: opt.PairField = None,
    label_field: opt.LabelField = None,
    regression: opt.Regression = False,
    multi_label: opt.MultiLabel = False,
    label_separator: opt.LabelSeparator = None,
    metric: opt.Metric = None,
    epochs: opt.Epochs = None,
    steps: opt.Steps = None,
    batch_size: opt.BatchSize = None,
    max_length: opt.MaxLength = None,
    lr: Annotated[
        float | None,
        Option(help="Peak learning rate beside the head. [full: 0.0001, others: 0.001]"),
    ] = None,
    rank: Annotated[int | None, Option(help="Rank of the factors of lora. [8]")] = None,
    bits: Annotated[
        int | None,
        Option(help="Start from the linears quantised to so many bits. [the float model]"),
    ] = None,
    group: opt.Group = None,
    quantizer: opt.Quantizer = None,
    calibration: opt.Calibration = None,
    refine: opt.Refine = None,
    embedding_bits: opt.EmbeddingBits = None,
    teacher: opt.Teacher = None,
    teacher_share: opt.TeacherShare = None,
    temperature: opt.Temperature = None,
    teacher_states: opt.TeacherStates = None,
    dropout: opt.Dropout = None,
    head_lr: opt.HeadLr = None,
    warmup: opt.Warmup = None,
    seed: opt.Seed = None,
    train_rows: opt.TrainRows = None,
    precision: opt.Precision = None,
    config: opt.ConfigFile = None,
    save_config: opt.SaveConfig = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train what a mask is compared with: every weight, the head alone, BitFit or LoRA.

    Example: compress baseline demo --task reviews --method full -o dense
    """
    chosen = opt.config_of(ctx, BaselineConfig, config, save_config)
    from maskpack.compressor.baseline import run_baseline  # noqa: PLC0415 - imports torch
    from maskpack.compressor.types import BaselineRequest  # noqa: PLC0415

    request = BaselineRequest(
        model=model,
        task=opt.find_named_task(ctx, data),
        config=chosen,
        out=out,
        data=data,
        eval_data=eval_data,
        revision=revision,
    )
    with render.progress(f"{request.task.name} {method}", quiet=quiet) as on_progress:
        result = run_baseline(request, on_progress=on_progress)
    show_result(result, json=json)


def quantize(
    ctx: typer.Context,
    model: opt.Model,
    out: Annotated[Path, Option("--out", "-o", help="Artifact to write.")],
    bits: opt.Bits = None,
    bits_override: opt.BitsOverride = None,
    group: opt.Group = None,
    quantizer: opt.Quantizer = None,
    calibration: opt.Calibration = None,
    refine: opt.Refine = None,
    embedding_bits: opt.EmbeddingBits = None,
    config: opt.ConfigFile = None,
    save_config: opt.SaveConfig = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Quantise an encoder into an artifact without tasks; `fit` with the same --out adds them.

    `fit` does this by itself. Alone it is of use where the backbone takes long (2 and 1 bits), or
    where several runs should start from the same one.

    Example: compress quantize demo --bits 2 -o artifact
    """
    chosen = opt.config_of(ctx, BackboneConfig, config, save_config)
    from maskpack.compressor.quantization.backbone import make_backbone  # noqa: PLC0415 - imports torch

    with render.progress("backbone", quiet=quiet) as on_progress:
        artifact = make_backbone(model, out, chosen, revision=revision, on_progress=on_progress)
    scheme = artifact.manifest.scheme
    facts = {
        "source": artifact.manifest.source.model,
        "bits": scheme.bits,
        "group": scheme.group,
        "quantizer": scheme.quantizer,
        "embedding_bits": scheme.embedding_bits,
        "masked_weights": artifact.backbone.maskable,
        "backbone_bytes": artifact.size(BACKBONE),
        "backbone_sha256": artifact.manifest.backbone_sha256,
    }
    if json:
        render.data(codec.dumps(facts))
    else:
        rows = [(name.replace("_", " "), str(value)) for name, value in facts.items()]
        render.table("backbone", ("what", "value"), rows)
