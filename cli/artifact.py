"""`compress eval`, `inspect`, `check`, `tasks` show an artifact; `pack` to `overlap` move and compare tasks."""

from __future__ import annotations

import json as codec
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.fit import show_run
from maskpack.cli.hints import PathKind, path_kind
from maskpack.cli.sources import ArtifactSource
from maskpack.cli.task_data import only_task
from maskpack.formats import (
    Artifact,
    ArtifactError,
    ConfigError,
    MaskCount,
    Overlap,
    Patch,
    TaskEntry,
    check_artifact,
    difference,
    merge_tasks,
    open_artifact,
    overlaps,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.schema import BACKBONE, CONFIG
from maskpack.formats.unit_bits import count_beside_units, mask_bytes, unit_bytes
from maskpack.formats.writer import check_free, check_writable, write_bytes
from maskpack.models.families import FAMILIES
from maskpack.tasks.card import card_facts
from maskpack.tasks.types import TASK_TYPES, may_use_pooler, type_of


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
        render.data(codec.dumps(_describe(opened), indent=2, sort_keys=True))
        return
    manifest, padding, unread = opened.manifest, _padding(opened), _unread_pooler(opened)
    render.table(
        f"{artifact}",
        ("part", "value"),
        [
            ("source model", f"{manifest.source.model} ({manifest.source.model_type})"),
            ("backbone", f"{manifest.scheme.bits} bits, {render.size(opened.size(BACKBONE))}"),
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


def check(artifact: ArtifactSource, json: opt.Json = False) -> None:
    """Validate an artifact: digests, headers, shapes, counts. Exit 1 if anything is wrong."""
    findings = check_artifact(artifact)
    if not findings:
        for entry in open_artifact(artifact).manifest.tasks.values():
            try:
                type_of(entry)
            except ArtifactError as error:
                findings.append(str(error))
    if json:
        render.data(codec.dumps({"ok": not findings, "findings": findings}))
    for finding in [] if json else findings:
        render.data(f"wrong: {finding}")
    if findings:
        raise typer.Exit(1)
    if not json:
        render.data(f"{artifact} is sound: {len(open_artifact(artifact).manifest.tasks)} tasks")


_ASKED = {
    "multi-label": "--multi-label, or --label-separator",
    "regression": "--regression",
    "similarity": "--type sentence-similarity --regression",
    "retrieval": "--type sentence-similarity",
    "label-retrieval": "--type sentence-similarity --same-label",
    "token-classification": "--type token-classification",
    "question-answering": "--type question-answering",
    "image-classification": "a folder of images by class, or --type image-classification",
    "image-multi-label": "a column image and --multi-label, or --label-separator",
    "image-regression": "a column image and --regression",
}
"""Type of a task -> how a command on data of one's own asks for it; the others need nothing."""


def tasks(
    artifact: Annotated[
        Path | None, Argument(help="List the tasks of this artifact instead.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """List the tasks that `fit` knows by name, or the tasks of an artifact."""
    if artifact is not None:
        entries = open_artifact(artifact).manifest.tasks
        listed = {name: f"{entry.kind}, {entry.metric}" for name, entry in sorted(entries.items())}
        types = []
    else:
        from maskpack.tasks.task import TASKS  # noqa: PLC0415 - keeps --help fast
        from maskpack.tasks.types import TASK_TYPES  # noqa: PLC0415

        listed = {task.name: f"{task.summary}; {task.metric}" for task in TASKS.values()}
        types = [
            (kind.name, kind.summary, _ASKED.get(kind.name, "")) for kind in TASK_TYPES.values()
        ]
    if json:
        render.data(codec.dumps(listed))
    else:
        render.table("", ("task", "what"), list(listed.items()))
        if types:
            render.table("types of tasks on your own rows", ("type", "answer", "options"), types)


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
        "masked_weights": opened.backbone.maskable,
        "backbone_bytes": opened.size(BACKBONE),
        "backbone_sha256": manifest.backbone_sha256,
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


Other = Annotated[Path, Argument(help="Another artifact.")]
Replace = Annotated[bool, Option("--replace", help="Replace what is there.")]


def pack(
    artifact: ArtifactSource,
    task: opt.OnlyTask = None,
    out: Annotated[Path | None, Option("--out", "-o", help="File to write. [TASK.patch]")] = None,
    replace: Replace = False,
    json: opt.Json = False,
) -> None:
    """Write a task as one small file: coded mask, head and its entry in the manifest.

    A device with the backbone needs no other file. Example: compress pack artifact -t reviews
    """
    opened = open_artifact(artifact)
    name = only_task(opened, task)
    path = Path(f"{name}.patch") if out is None else out
    if not replace:
        check_free(path)
    check_writable(path)
    data = pack_task(opened, name)
    write_bytes(path, data)
    stored = opened.size(opened.entry(name).file)
    if json:
        render.data(codec.dumps({"file": str(path), "bytes": len(data), "stored_bytes": stored}))
    else:
        render.data(f"{path}: {render.size(len(data))}, {render.size(stored)} in the artifact")


def unpack(
    file: Annotated[Path, Argument(help="File that `compress pack` wrote.")],
    artifact: Annotated[Path, Argument(help="Artifact with the same backbone.")],
    name: Annotated[str | None, Option(help="Call the task this. [as packed]")] = None,
    replace: Replace = False,
    json: opt.Json = False,
) -> None:
    """Add a packed task to an artifact.

    Example: compress unpack reviews.patch artifact
    """
    kind = path_kind(file)
    if kind not in {PathKind.PATCH, PathKind.OTHER}:
        raise ArtifactError(
            f"`{file}` is not a packed task: {kind}", "give the file that `compress pack` wrote"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read `{file}`: {error.strerror}") from error
    _say_tasks(
        unpack_task(artifact, data, name=name, replacing=replace, describe=card_facts), json=json
    )


def remove(artifact: opt.ArtifactPath, task: opt.TaskName, json: opt.Json = False) -> None:
    """Remove a task from an artifact. Its patch is deleted: pack it first to keep it."""
    _say_tasks(remove_task(artifact, task, describe=card_facts), json=json)


def rename(
    artifact: opt.ArtifactPath,
    task: opt.OnlyTask = None,
    *,
    name: Annotated[str, Option(help="What to call it from now on.")],
    json: opt.Json = False,
) -> None:
    """Rename a task of an artifact."""
    old = only_task(open_artifact(artifact), task)
    _say_tasks(rename_task(artifact, old, name, describe=card_facts), json=json)


def merge(artifact: opt.ArtifactPath, other: Other, json: opt.Json = False) -> None:
    """Add all tasks of another artifact with the same backbone: all, or none of them."""
    _say_tasks(merge_tasks(artifact, open_artifact(other), describe=card_facts), json=json)


def diff(artifact: opt.ArtifactPath, other: Other, json: opt.Json = False) -> None:
    """Show the differences of two artifacts. Exit 1 if there are any."""
    changes = difference(open_artifact(artifact), open_artifact(other))
    if json:
        render.data(codec.dumps({**asdict(changes), "same": changes.empty}, sort_keys=True))
    elif changes.empty:
        render.data("the same backbone, the same tasks, byte for byte")
    else:
        render.data(f"backbone: {'the same' if changes.same_backbone else 'different'}")
        for where, names in ((artifact, changes.only_a), (other, changes.only_b)):
            if names:
                render.data(f"only in {where}: {', '.join(names)}")
        for field, (own, others) in changes.fields.items():
            render.data(f"{field}: {own} | {others}")
        units = ["units apart"] if any(task.units for task in changes.tasks) else []
        rows = [
            (
                task.name,
                "the same" if task.same_bytes else "different",
                ", ".join(task.fields) or "-",
                "-" if task.bits is None else f"{task.bits:,}",
                *([] if not units else ["-" if task.units is None else f"{task.units:,}"]),
                ", ".join(f"{name} {a:.4f} | {b:.4f}" for name, (a, b) in task.scores.items()),
            )
            for task in changes.tasks
        ]
        if rows:
            columns = ("task", "patch", "entry", "mask bits apart", *units, "scores")
            render.table("tasks of both", columns, rows)
    if not changes.empty:
        raise typer.Exit(1)


def overlap(artifact: ArtifactSource, json: opt.Json = False) -> None:
    """Show how many weights the tasks of an artifact remove in common."""
    compared = overlaps(open_artifact(artifact))
    if json:
        render.data(codec.dumps([_overlap_tree(pair) for pair in compared]))
        return
    ends = ("of both", "by chance", "both / either")
    render.table(
        "overlap of masks", ("tasks", "zeros", "zeros", *ends), [_overlap_row(p) for p in compared]
    )
    units = [pair.units for pair in compared if pair.units is not None]
    if units:
        head = ("tasks", "removed", "removed", *ends)
        render.table("overlap of units", head, [_overlap_row(pair) for pair in units])


def _overlap_row(pair: Overlap) -> tuple[str, ...]:
    return (
        f"{pair.first}, {pair.second}",
        *(f"{zeros:,}" for zeros in (pair.first_zeros, pair.second_zeros, pair.both)),
        f"{pair.by_chance:,.0f}",
        f"{pair.jaccard:.3f}",
    )


def _overlap_tree(pair: Overlap) -> dict[str, Any]:
    units = None if pair.units is None else _overlap_tree(pair.units)
    return {**asdict(pair), "either": pair.either, "jaccard": pair.jaccard, "units": units}


def _say_tasks(artifact: Artifact, *, json: bool) -> None:
    names = sorted(artifact.manifest.tasks)
    if json:
        render.data(codec.dumps({"artifact": str(artifact.path), "tasks": names}))
    else:
        render.data(f"{artifact.path} holds the tasks: {', '.join(names) or 'none'}")
