"""`compress fit`: learn a mask for one task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.dry_run import dry_run as rehearse
from maskpack.cli.logs import LogDir, LogFile, check_tensorboard, logged
from maskpack.cli.replay import ConfigFile, SaveConfig, remembered
from maskpack.cli.result import show_next, show_result
from maskpack.compressor.config import FitConfig
from maskpack.compressor.options import save_options


def fit(
    ctx: typer.Context,
    model: opt.Model,
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Artifact to write, or to add the task to. [artifact]",
            show_default=False,
        ),
    ] = Path("artifact"),
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    text_field: opt.TextField = None,
    pair_field: opt.PairField = None,
    label_field: opt.LabelField = None,
    regression: opt.Regression = False,
    multi_label: opt.MultiLabel = False,
    label_separator: opt.LabelSeparator = None,
    metric: opt.Metric = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the task in the artifact. [the task's own]")
    ] = None,
    bits: opt.Bits = None,
    bits_override: opt.BitsOverride = None,
    group: opt.Group = None,
    quantizer: opt.Quantizer = None,
    calibration: opt.Calibration = None,
    refine: opt.Refine = None,
    embedding_bits: opt.EmbeddingBits = None,
    epochs: opt.Epochs = None,
    steps: opt.Steps = None,
    batch_size: opt.BatchSize = None,
    max_length: opt.MaxLength = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of the scores. [the estimator's]")
    ] = None,
    head_lr: opt.HeadLr = None,
    warmup: opt.Warmup = None,
    estimator: Annotated[
        str | None, typer.Option(help="threshold, topk, bernoulli or fixed. [threshold]")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="First scores: constant, magnitude, soft-magnitude, snip, random. [auto]"
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Distance to a flip, in deviations of noise; smaller: more flips. [1.6; 1 bit: 0.8]"
        ),
    ] = None,
    boundary: Annotated[
        float | None,
        typer.Option(help="Least share of that distance in early steps; 1: all of it. [0.4]"),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(help="How much the size of a gradient counts; 0: not at all. [1]"),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of zeros to end with. [the margin decides]")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="Entropy of the mask to stay within, in bits per weight.")
    ] = None,
    target_bytes: Annotated[
        int | None, typer.Option(help="Coded bytes of the whole patch to stay within.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Encoder layers to mask, such as 2-5 or 0,3. [all]")
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Parts of linear names to mask: query,value. [all]")
    ] = None,
    train_bias: Annotated[
        bool | None, typer.Option(help="Train biases too; they join the patch. [no]")
    ] = None,
    train_norm: Annotated[
        bool | None, typer.Option(help="Train LayerNorm parameters too. [no]")
    ] = None,
    train_scales: Annotated[
        bool | None, typer.Option(help="Train a factor for each row of weights too. [no]")
    ] = None,
    dense_lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of those three. [0.0003]")
    ] = None,
    teacher: opt.Teacher = None,
    teacher_share: opt.TeacherShare = None,
    temperature: opt.Temperature = None,
    teacher_states: opt.TeacherStates = None,
    ema: Annotated[
        float | None, typer.Option(help="Cut the mask from averaged scores; decay a step. [0: no]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many epochs without a better score on held-out rows."),
    ] = None,
    dropout: opt.Dropout = None,
    seed: opt.Seed = None,
    train_rows: opt.TrainRows = None,
    precision: opt.Precision = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; 0: none. [200]")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Learn a task again that is already there.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a stopped run.")
    ] = False,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
    revision: opt.Revision = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Load everything, try a few steps, say what would be done, stop."
        ),
    ] = False,
    log_dir: LogDir = None,
    log: LogFile = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Learn a mask for one task over the frozen quantised backbone.

    The first call quantises the model and writes the backbone; later calls with the same --out
    reuse it byte for byte and only add a task.

    Models: ALBERT, BERT, CamemBERT, DeBERTa-v2 (and v3), DistilBERT, ELECTRA, GPT-2, Llama, ModernBERT,
    RoBERTa, XLM-RoBERTa, XLNet.

    Before a long run: `--dry-run` measures a few steps and estimates time and memory. `--save-config
    run.yaml` writes the whole run down, `compress fit --config run.yaml` repeats it, with changes:

    Example: compress fit demo --task reviews -o artifact --save-config run.yaml

    Example: compress fit --config run.yaml --seed 1 -o other

    Own data: compress fit demo --data tickets.csv --text-field body --label-field queue
    """
    began = time.perf_counter(), time.process_time()
    check_tensorboard(log_dir)
    given = {
        "bits": bits,
        "group": group,
        "quantizer": quantizer,
        "calibration": calibration,
        "refine": refine,
        "embedding_bits": embedding_bits,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "max_length": max_length,
        "lr": lr,
        "head_lr": head_lr,
        "warmup": warmup,
        "estimator": estimator,
        "init": init,
        "margin": margin,
        "boundary": boundary,
        "floor": floor,
        "sparsity": sparsity,
        "target_bpp": target_bpp,
        "target_bytes": target_bytes,
        "layers": layers,
        "modules": modules,
        "train_bias": train_bias,
        "train_norm": train_norm,
        "train_scales": train_scales,
        "dense_lr": dense_lr,
        "teacher": teacher,
        "teacher_share": teacher_share,
        "temperature": temperature,
        "teacher_states": teacher_states,
        "ema": ema,
        "patience": patience,
        "dropout": dropout,
        "seed": seed,
        "train_rows": train_rows,
        "precision": precision,
        "checkpoint_every": checkpoint_every,
        "bits_override": opt.overrides(bits_override),
    }
    chosen = opt.resolve(FitConfig, config, given)
    if save_config is not None:
        save_options(save_config, chosen, remembered(ctx, set(chosen.__dict__)))
    from maskpack.compressor import FitRequest, fit_task  # noqa: PLC0415 - imports torch

    request = FitRequest(
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
        out=out,
        config=chosen,
        data=data,
        eval_data=eval_data,
        name=name,
        replace=replace,
        resume=resume,
        bits_given=bits is not None or config is not None,
        revision=revision,
    )
    if dry_run:
        rehearse(request, began=began, json=json)
        return
    with (
        render.progress(request.stored_name, quiet=quiet) as shown,
        logged(shown, request.stored_name, log_dir, log) as observe,
    ):
        result = fit_task(request, observe=observe)
    show_result(result, json=json)
    if not quiet:
        show_next(out, request.stored_name, eval_data or data)
