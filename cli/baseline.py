"""`compress baseline`: train what a mask is compared with. `compress quantize`: the backbone alone."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.fit import show_result
from maskpack.cli.options import ConfigFile, SaveConfig, remembered
from maskpack.compressor.config import BackboneConfig, BaselineConfig
from maskpack.compressor.options import save_options
from maskpack.formats.schema import BACKBONE


def baseline(
    ctx: typer.Context,
    model: opt.Model,
    method: Annotated[
        str,
        typer.Option(help="full, head, head-pooler, bitfit or lora: what is trained."),
    ],
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the trained model. [not kept]")
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
        typer.Option(help="Peak learning rate beside the head. [full: 0.0001, others: 0.001]"),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the factors of lora. [8]")] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Start from the linears quantised to so many bits. [the float model]"),
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
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train what a mask is compared with: every weight, the head alone, BitFit or LoRA.

    Example: compress baseline demo --task reviews --method full -o twin
    """
    chosen = opt.resolve(BaselineConfig, config, opt.given_options(ctx, BaselineConfig))
    if save_config is not None:
        save_options(save_config, chosen, remembered(ctx, set(chosen.__dict__)))
    from maskpack.compressor import BaselineRequest, run_baseline  # noqa: PLC0415 - imports torch

    request = BaselineRequest(
        model=model,
        task=opt.find_named_task(
            task,
            text_field,
            pair_field,
            label_field,
            regression,
            metric,
            multi_label=multi_label,
            separator=label_separator,
            data=data,
            quiet=quiet,
        ),
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
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact to write.")],
    bits: opt.Bits = None,
    bits_override: opt.BitsOverride = None,
    group: opt.Group = None,
    quantizer: opt.Quantizer = None,
    calibration: opt.Calibration = None,
    refine: opt.Refine = None,
    embedding_bits: opt.EmbeddingBits = None,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Quantise an encoder into an artifact without tasks; `fit` with the same --out adds them.

    `fit` does this by itself. Alone it is of use where the backbone takes long (2 and 1 bits), or
    where several runs should start from the same one.

    Example: compress quantize demo --bits 2 -o artifact
    """
    chosen = opt.resolve(BackboneConfig, config, opt.given_options(ctx, BackboneConfig))
    if save_config is not None:
        save_options(save_config, chosen, remembered(ctx, set(chosen.__dict__)))
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
