"""`compress baseline`: train what a mask is compared with. `compress quantize`: the backbone alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.exportable import SkipExportCheck, check_export
from maskpack.cli.fit import show_result
from maskpack.cli.inspect import embedding_widths
from maskpack.cli.lr_find import found_rate
from maskpack.cli.task_data import find_named_task
from maskpack.compressor.backbone_config import BackboneConfig, CodesConfig
from maskpack.compressor.config import BaselineConfig
from maskpack.formats import ConfigError
from maskpack.formats.options import options_of
from maskpack.formats.schema import BACKBONE
from maskpack.tasks.options import CacheOptions, TaskOptions


@opt.with_options
def baseline(
    ctx: typer.Context,
    model: opt.Model,
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder for the trained model. [not kept]")
    ] = None,
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    *,
    columns: TaskOptions,
    rows: CacheOptions,
    chosen: opt.Replayed[BaselineConfig],
    find_lr: opt.FindLr = False,
    revision: opt.Revision = None,
    resize_embeddings: opt.ResizeEmbeddings = False,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train what a mask is compared with: every weight, the head alone, BitFit or LoRA.

    `imp` trains every weight in rounds, removes the smallest after each, and rewinds the others (lottery tickets).

    Example: compress baseline demo --task reviews --method full -o dense

    Example: compress baseline demo --task reviews --method imp --sparsity 0.5 -o ticket
    """
    from maskpack.compressor.baseline import run_baseline  # noqa: PLC0415 - imports torch
    from maskpack.compressor.types import BaselineRequest  # noqa: PLC0415

    _refuse_idle(chosen)
    request = BaselineRequest(
        model=model,
        task=find_named_task(task, data, columns, quiet=quiet),
        config=chosen,
        out=out,
        data=data,
        eval_data=eval_data,
        revision=revision,
        resize_embeddings=resize_embeddings,
        device=device,
        threads=threads,
        cache=rows.cache,
    )
    if find_lr:
        request = found_rate(request, quiet=quiet)
    with render.progress(f"{request.task.name} {chosen.method}", quiet=quiet) as on_progress:
        result = run_baseline(request, on_progress=on_progress)
    show_result(result, json=json)


def _refuse_idle(chosen: BaselineConfig) -> None:
    """Raise ConfigError for options of codes where the weights stay floats. In a sweep they may stand, for all of its runs."""
    if chosen.bits is not None or chosen.random is not None:
        return
    usual = BaselineConfig()
    for option in options_of(CodesConfig):
        if getattr(chosen, option.name) != getattr(usual, option.name):
            flag = option.name.replace("_", "-")
            raise ConfigError(
                f"`--{flag}` says how weights become codes, and a float model is trained",
                "give `--bits`, or leave it out",
            )


@opt.with_options
def quantize(
    ctx: typer.Context,
    model: opt.Model,
    out: Annotated[Path, Option("--out", "-o", help="Artifact to write.")],
    *,
    chosen: opt.Replayed[BackboneConfig],
    revision: opt.Revision = None,
    resize_embeddings: opt.ResizeEmbeddings = False,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    skip_export_check: SkipExportCheck = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Quantise an encoder into an artifact without tasks; `fit` with the same --out adds them.

    `fit` does this by itself. Alone it is of use where the backbone takes long (2 and 1 bits), or
    where several runs should start from the same one. With --random no weights are read: MODEL may
    be a folder of a configuration and a tokenizer, and the artifact holds the seed.

    Example: compress quantize demo --bits 2 -o artifact

    Example: compress quantize configuration --random 7 --bits 1 -o hidden
    """
    from maskpack.compressor.quantization.backbone import make_backbone  # noqa: PLC0415 - imports torch

    check_export(model, revision, skip=skip_export_check)
    with render.progress("backbone", quiet=quiet) as on_progress:
        artifact = make_backbone(
            model,
            out,
            chosen,
            revision=revision,
            resize_embeddings=resize_embeddings,
            device=device,
            threads=threads,
            on_progress=on_progress,
        )
    scheme = artifact.manifest.scheme
    facts = {
        "source": artifact.manifest.source.model,
        "bits": scheme.bits,
        "group": scheme.group,
        "quantizer": scheme.quantizer,
        **embedding_widths(artifact),
        "masked_weights": artifact.backbone.maskable,
        "backbone_bytes": artifact.size(BACKBONE),
        "backbone_sha256": artifact.manifest.backbone_sha256,
        **({} if chosen.random is None else {"seed": chosen.random}),
    }
    if json:
        render.json(facts)
    else:
        rows = [(name.replace("_", " "), str(value)) for name, value in facts.items()]
        render.table("backbone", ("what", "value"), rows)
