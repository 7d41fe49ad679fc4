"""`compress fit` and `compress baseline`: learn a mask, or train what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.compressor.config import BaselineConfig, FitConfig, save_options

if TYPE_CHECKING:
    from maskpack.compressor.results import RunResult
    from maskpack.compressor.tasks import Task


def fit(
    model: opt.Model,
    task: opt.TaskName,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Artifact to write, or to add the task to.")
    ],
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    text_field: opt.TextField = None,
    pair_field: opt.PairField = None,
    label_field: opt.LabelField = None,
    regression: opt.Regression = False,
    metric: opt.Metric = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the task in the artifact. [the task's own]")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits of a backbone weight: 8 or 4. [8, or the artifact's]")
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(help="Weights that share a scale; 0: a row at 8 bits, 64 at 4. [0]"),
    ] = None,
    quantizer: Annotated[
        str | None, typer.Option(help="auto, minmax or mse. [auto: minmax at 8 bits, mse at 4]")
    ] = None,
    epochs: opt.Epochs = None,
    steps: opt.Steps = None,
    batch_size: opt.BatchSize = None,
    max_length: opt.MaxLength = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of the scores. [0.0003]")
    ] = None,
    head_lr: opt.HeadLr = None,
    warmup: opt.Warmup = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Distance to a flip, in deviations of noise; smaller: more flips. [1.6]"),
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(help="How much the size of a gradient counts; 0: not at all. [1]"),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of zeros to end with. [the margin decides]")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="The same as entropy of the mask, in bits per weight.")
    ] = None,
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
    config: opt.ConfigFile = None,
    save_config: opt.SaveConfig = None,
    revision: opt.Revision = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load everything, say what would be done, stop.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Learn a mask for one task over the frozen quantised backbone.

    The first call quantises the model and writes the backbone; later calls with the same --out
    reuse it byte for byte and only add a task.

    Example: compress fit demo --task reviews -o artifact
    """
    given = {
        "bits": bits,
        "group": group,
        "quantizer": quantizer,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "max_length": max_length,
        "lr": lr,
        "head_lr": head_lr,
        "warmup": warmup,
        "margin": margin,
        "floor": floor,
        "sparsity": sparsity,
        "target_bpp": target_bpp,
        "seed": seed,
        "train_rows": train_rows,
        "precision": precision,
        "checkpoint_every": checkpoint_every,
    }
    chosen = opt.resolve(FitConfig, config, given)
    if save_config is not None:
        save_options(save_config, chosen)
    from maskpack.compressor import FitRequest, fit_task  # noqa: PLC0415 - imports torch
    from maskpack.compressor.steps import prepare  # noqa: PLC0415

    request = FitRequest(
        model=model,
        task=_task(task, text_field, pair_field, label_field, regression, metric),
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
        run = prepare(request)
        _show_plan(
            {
                "model": run.ground.source.model,
                "backbone": "already there" if run.ground.artifact else "to be quantised",
                "bits": run.ground.scheme.bits,
                "backbone bytes": run.ground.backbone_bytes(),
                "masked weights": run.ground.backbone.maskable,
                "training rows": len(run.data.train),
                "evaluation rows": len(run.data.dev),
                "labels": ", ".join(run.data.labels) or "a number",
                "steps": run.plan.steps,
                "arithmetic": "bf16" if run.plan.bf16 else "fp32",
                "out": str(out),
            },
            json=json,
        )
        return
    with render.progress(request.stored_name, quiet=quiet) as observe:
        result = fit_task(request, observe=observe)
    show_result(result, json=json)


def baseline(
    model: opt.Model,
    task: opt.TaskName,
    method: Annotated[
        str,
        typer.Option(help="full: every weight; head: the classifier; head-pooler: and the pooler."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the trained model. [not kept]")
    ] = None,
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    text_field: opt.TextField = None,
    pair_field: opt.PairField = None,
    label_field: opt.LabelField = None,
    regression: opt.Regression = False,
    metric: opt.Metric = None,
    epochs: opt.Epochs = None,
    steps: opt.Steps = None,
    batch_size: opt.BatchSize = None,
    max_length: opt.MaxLength = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of the pretrained weights. [0.0001]")
    ] = None,
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
    """Train a dense baseline: the fine-tuned twin, or the head-only floor.

    Example: compress baseline demo --task reviews --method full -o twin
    """
    given = {
        "method": method,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "max_length": max_length,
        "lr": lr,
        "head_lr": head_lr,
        "warmup": warmup,
        "seed": seed,
        "train_rows": train_rows,
        "precision": precision,
    }
    chosen = opt.resolve(BaselineConfig, config, given)
    if save_config is not None:
        save_options(save_config, chosen)
    from maskpack.compressor import BaselineRequest, run_baseline  # noqa: PLC0415 - imports torch

    request = BaselineRequest(
        model=model,
        task=_task(task, text_field, pair_field, label_field, regression, metric),
        config=chosen,
        out=out,
        data=data,
        eval_data=eval_data,
        revision=revision,
    )
    with render.progress(f"{task} {method}", quiet=quiet) as observe:
        result = run_baseline(request, observe=observe)
    show_result(result, json=json)


def show_result(result: RunResult, *, json: bool) -> None:
    """Print what a run measured."""
    if json:
        render.data(result.to_json())
        return
    count = result.count
    scores = [
        (name, f"{value:.4f}", f"{result.majority[name]:.4f}")
        for name, value in result.scores.items()
    ]
    render.table(
        f"{result.task}: {result.method}, {result.steps} steps in {result.seconds:.0f} s",
        ("metric", "value", "majority class"),
        scores,
    )
    rows = [("head", render.size(result.head_bytes)), ("patch", render.size(result.patch_bytes))]
    if count.weights:
        rows = [
            ("zeros", f"{count.zeros:,} of {count.weights:,} ({count.sparsity:.2%})"),
            ("mask, packed", render.size(result.mask_bytes)),
            (
                "mask, entropy",
                f"{render.size(count.entropy_bytes)} ({count.entropy_bpp:.3f} bits a weight)",
            ),
            *rows,
        ]
    render.table("", ("part", "size"), [*rows, ("backbone", render.size(result.backbone_bytes))])
    if result.collapsed:
        render.words(
            f"warning: {result.metric} is no better than always giving the same answer; "
            "try more steps, or a larger --margin"
        )


def _task(
    name: str,
    text_field: str | None,
    pair_field: str | None,
    label_field: str | None,
    regression: bool,
    metric: str | None,
) -> Task:
    from maskpack.compressor.tasks import Kind, find_task  # noqa: PLC0415 - keeps --help fast

    return find_task(
        name,
        text_field=text_field,
        pair_field=pair_field,
        label_field=label_field,
        kind=Kind.REGRESSION if regression else None,
        metric=metric,
    )


def _show_plan(plan: Mapping[str, Any], *, json: bool) -> None:
    if json:
        import json as codec  # noqa: PLC0415 - the option has the module's name

        render.data(codec.dumps(plan))
    else:
        render.table("dry run", ("what", "value"), [(k, str(v)) for k, v in plan.items()])
