"""`compress quantize`: the shared backbone alone, before any task."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.replay import ConfigFile, SaveConfig, remembered
from maskpack.compressor.config import BackboneConfig
from maskpack.compressor.options import save_options
from maskpack.formats.schema import BACKBONE


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
    given = {
        "bits": bits,
        "bits_override": opt.overrides(bits_override),
        "group": group,
        "quantizer": quantizer,
        "calibration": calibration,
        "refine": refine,
        "embedding_bits": embedding_bits,
    }
    chosen = opt.resolve(BackboneConfig, config, given)
    if save_config is not None:
        save_options(save_config, chosen, remembered(ctx, set(chosen.__dict__)))
    from maskpack.compressor.backbone import make_backbone  # noqa: PLC0415 - imports torch

    with render.progress("backbone", quiet=quiet) as observe:
        artifact = make_backbone(model, out, chosen, revision=revision, observe=observe)
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
