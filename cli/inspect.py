"""`compress inspect`: what an artifact holds, as tables or JSON."""

from __future__ import annotations

import json as codec
from dataclasses import asdict, replace
from typing import Annotated, Any

from typer import Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.fit import show_run
from maskpack.cli.sources import ArtifactSource
from maskpack.cli.task_data import only_task
from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.formats import Artifact, ConfigError, MaskCount, Patch, TaskEntry, open_artifact
from maskpack.formats.bits import MIXED_ROWS, RARE_BITS
from maskpack.formats.codec import encoded_size
from maskpack.formats.schema import BACKBONE, CONFIG
from maskpack.formats.unit_bits import count_beside_units, mask_bytes, unit_bytes
from maskpack.models.families import FAMILIES
from maskpack.tasks.types import TASK_TYPES, may_use_pooler


def inspect(
    artifact: ArtifactSource,
    config: Annotated[
        bool, Option("--config", help="Print the run that made a task, as `fit --config` reads it.")
    ] = False,
    task: Annotated[
        str | None, Option("--task", "-t", help="Task of --config. [the only one]")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Print what an artifact holds: bytes of each part, tasks, sparsity of each layer.

    A run is repeated from the artifact alone, but for the data, which you give:

    Example: compress inspect artifact --config -t tickets > run.yaml

    Example: compress fit --config run.yaml --data tickets.csv -o again
    """
    opened = open_artifact(artifact)
    if config:
        show_run(opened, only_task(opened, task), json=json)
        return
    if task is not None:
        raise ConfigError("`--task` is for `--config`; all tasks are shown")
    if json:
        render.json(_describe(opened), indent=2, sort_keys=True)
        return
    manifest, padding, unread = opened.manifest, _padding(opened), _unread_pooler(opened)
    render.table(
        f"{artifact}",
        ("part", "value"),
        [
            ("source model", f"{manifest.source.model} ({manifest.source.model_type})"),
            ("backbone", f"{manifest.scheme.bits} bits, {render.size(opened.size(BACKBONE))}"),
            *_drawn(opened),
            *_narrow(opened),
            ("masked weights", f"{opened.backbone.maskable:,}"),
            ("backbone digest", manifest.backbone_sha256[:16]),
            *([("pooler that no task reads", render.size(unread))] if unread else []),
            *([] if padding is None else [("padding, behind the last token", f"token {padding}")]),
        ],
    )
    rows = [_task_row(opened, entry) for _, entry in sorted(manifest.tasks.items())]
    head = ("task", "metric", "value", "zeros", "bpp", "mask", "entropy", "patch", "a task in all")
    render.table("tasks", head, rows)
    for name in sorted(manifest.tasks):
        _show_units(name, opened.patch(name))
        layers = [
            (layer, str(mask.zeros), f"{mask.zeros / (mask.shape[0] * mask.shape[1]):.2%}")
            for layer, mask in sorted(opened.patch(name).masks.items())
        ]
        render.table(f"{name}: zeros of each layer", ("layer", "zeros", "share"), layers)


def _show_units(name: str, patch: Patch) -> None:
    """Heads and neurons that a task keeps, a row for each layer; nothing of a task that knows of none."""
    if patch.units is None:
        return
    counts = patch.units.counts()
    kinds = sorted({one.kind for one in counts})
    layers = {one.layer: dict.fromkeys(kinds, "-") for one in counts}
    for one in counts:
        layers[one.layer][one.kind] = f"{one.kept:,} of {one.count:,}"
    rows = [(str(layer), *cells.values()) for layer, cells in sorted(layers.items())]
    title = f"{name}: units that stay, {render.size(unit_bytes(patch.units))}"
    render.table(title, ("layer", *kinds), rows)


def _task_row(opened: Artifact, entry: TaskEntry) -> tuple[str, ...]:
    patch, all_weights = opened.patch(entry.name), MaskCount(entry.weights, entry.zeros)
    count, stored = all_weights, -(-all_weights.weights // 8)
    if patch.units is not None:  # a mask costs only what it adds to the units
        count, stored = count_beside_units(patch), mask_bytes(patch)
    size = opened.size(entry.file)
    shared = opened.size(BACKBONE) / len(opened.manifest.tasks)
    return (
        entry.name,
        entry.metric,
        f"{entry.scores[entry.metric]:.4f}",
        f"{all_weights.sparsity:.2%}",
        f"{count.entropy_bpp:.3f}",
        render.size(stored),
        render.size(count.entropy_bytes),
        render.size(size),
        render.size(round(size + shared)),
    )


def _describe(opened: Artifact) -> dict[str, Any]:
    manifest = opened.manifest
    shared = opened.size(BACKBONE) / max(1, len(manifest.tasks))
    tasks_found = {}
    for name, entry in manifest.tasks.items():
        count, size = MaskCount(entry.weights, entry.zeros), opened.size(entry.file)
        patch = opened.patch(name)
        beside = count if patch.units is None else count_beside_units(patch)
        tasks_found[name] = {
            "kind": entry.kind,
            "metric": entry.metric,
            "scores": dict(entry.scores),
            "labels": list(entry.labels),
            "weights": count.weights,
            "zeros": count.zeros,
            "sparsity": count.sparsity,
            "entropy_bpp": beside.entropy_bpp,
            "entropy_bytes": beside.entropy_bytes,
            "mask_bytes": mask_bytes(patch),
            "unit_bytes": unit_bytes(patch.units),
            "units": None if patch.units is None else [asdict(c) for c in patch.units.counts()],
            "head_bytes": sum(tensor.nbytes for tensor in patch.head.values()),
            "extra_bytes": sum(t.nbytes for t in (*patch.dense.values(), *patch.gains.values())),
            "patch_bytes": size,
            "amortised_bytes": round(size + shared),
            "layer_zeros": {layer: mask.zeros for layer, mask in patch.masks.items()},
        }
    return {
        "source": manifest.source.model,
        "model_type": manifest.source.model_type,
        "bits": manifest.scheme.bits,
        **embedding_widths(opened),
        "masked_weights": opened.backbone.maskable,
        "backbone_bytes": opened.size(BACKBONE),
        "backbone_sha256": manifest.backbone_sha256,
        "seed": opened.backbone.seed,
        "padding_token": _padding(opened),
        "unread_pooler_bytes": _unread_pooler(opened),
        "tasks": tasks_found,
    }


def _unread_pooler(opened: Artifact) -> int:
    """Bytes of the encoder's pooler where there are tasks and none of them reads it; folded graphs of these do not hold it."""
    tasks = opened.manifest.tasks.values()
    known = all(entry.kind in TASK_TYPES for entry in tasks)
    if not tasks or not known or any(may_use_pooler(entry) for entry in tasks):
        return 0
    backbone = opened.backbone
    if backbone.seed is not None:  # the file holds none of it
        return 0
    codes = {name: one.pack().nbytes + one.scales.nbytes for name, one in backbone.linears.items()}
    floats = {name: array.nbytes for name, array in backbone.dense.items()}
    return sum(size for name, size in (codes | floats).items() if name.startswith("pooler."))


def _padding(opened: Artifact) -> int | None:
    """The padding token of a model that classifies the last token, `fit` may have chosen it; of a family by rule whatever it has."""
    family = FAMILIES.get(opened.manifest.source.model_type)
    if family is not None and not family.last_token:
        return None
    told = codec.loads(opened.file(CONFIG)).get("pad_token_id")
    return None if told is None else int(told)


def _drawn(opened: Artifact) -> list[tuple[str, str]]:
    """What is said of weights that a reader draws; nothing where all are stored."""
    backbone = opened.backbone
    if backbone.seed is None:
        return []
    whole = render.size(encoded_size(replace(backbone, seed=None)))
    return [("weights drawn from seed", f"{backbone.seed}, in place of {whole}")]


def embedding_widths(opened: Artifact) -> dict[str, int]:
    """Bits of a weight of the token embeddings, and of their rare rows where these have fewer."""
    widths = {"embedding_bits": opened.manifest.scheme.embedding_bits}
    if MIXED_ROWS in opened.manifest.requires:
        widths["rare_embedding_bits"] = RARE_BITS
    return widths


def _narrow(opened: Artifact) -> list[tuple[str, str]]:
    """What is said of token embeddings below the usual width."""
    widths = list(embedding_widths(opened).values())
    if widths == [BackboneConfig.embedding_bits]:
        return []
    rare = "".join(f", {bits} in rare rows" for bits in widths[1:])
    return [("token embeddings", f"{widths[0]} bits{rare}")]
