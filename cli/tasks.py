"""`compress pack`, `unpack`, `remove`, `rename`, `merge`, `diff` and `overlap`: tasks as things."""

from __future__ import annotations

import json as codec
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.formats import (
    Artifact,
    ArtifactError,
    difference,
    merge_tasks,
    open_artifact,
    overlaps,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.thing import Thing, what_is
from maskpack.formats.writer import check_free, write_bytes

Other = Annotated[Path, typer.Argument(help="Another artifact.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace what is there.")]


def pack(
    artifact: opt.ArtifactPath,
    task: opt.TaskName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. [TASK.patch]")
    ] = None,
    replace: Replace = False,
    json: opt.Json = False,
) -> None:
    """Write a task as one small file: coded mask, head and what the manifest says of it.

    Whoever has the backbone needs nothing else. Example: compress pack artifact -t reviews
    """
    opened = open_artifact(artifact)
    opened.entry(task)
    place = Path(f"{task}.patch") if out is None else out
    if not replace:
        check_free(place)
    data = pack_task(opened, task)
    write_bytes(place, data)
    stored = opened.size(opened.entry(task).file)
    if json:
        render.data(codec.dumps({"file": str(place), "bytes": len(data), "stored_bytes": stored}))
    else:
        render.data(f"{place}: {render.size(len(data))}, {render.size(stored)} in the artifact")


def unpack(
    file: Annotated[Path, typer.Argument(help="File that `compress pack` wrote.")],
    artifact: Annotated[Path, typer.Argument(help="Artifact with the same backbone.")],
    name: Annotated[str | None, typer.Option(help="Call the task this. [as packed]")] = None,
    replace: Replace = False,
    json: opt.Json = False,
) -> None:
    """Add a packed task to an artifact.

    Example: compress unpack reviews.patch artifact
    """
    thing = what_is(file)
    if thing not in {Thing.PATCH, Thing.OTHER}:
        raise ArtifactError(
            f"`{file}` is not a packed task: {thing}", "give the file that `compress pack` wrote"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read `{file}`: {error.strerror}") from error
    _say_tasks(unpack_task(artifact, data, name=name, replacing=replace), json=json)


def remove(artifact: opt.ArtifactPath, task: opt.TaskName, json: opt.Json = False) -> None:
    """Take a task out of an artifact. Its patch is deleted: pack it first to keep it."""
    _say_tasks(remove_task(artifact, task), json=json)


def rename(
    artifact: opt.ArtifactPath,
    task: opt.TaskName,
    name: Annotated[str, typer.Option(help="What to call it from now on.")],
    json: opt.Json = False,
) -> None:
    """Call a task something else."""
    _say_tasks(rename_task(artifact, task, name), json=json)


def merge(artifact: opt.ArtifactPath, other: Other, json: opt.Json = False) -> None:
    """Add all tasks of another artifact with the same backbone: all, or none of them."""
    _say_tasks(merge_tasks(artifact, open_artifact(other)), json=json)


def diff(artifact: opt.ArtifactPath, other: Other, json: opt.Json = False) -> None:
    """Say what sets two artifacts apart. Exit 1 if anything does."""
    found = difference(open_artifact(artifact), open_artifact(other))
    if json:
        render.data(codec.dumps({**asdict(found), "same": found.empty}, sort_keys=True))
    elif found.empty:
        render.data("the same backbone, the same tasks, byte for byte")
    else:
        render.data(f"backbone: {'the same' if found.same_backbone else 'different'}")
        for where, names in ((artifact, found.only_a), (other, found.only_b)):
            if names:
                render.data(f"only in {where}: {', '.join(names)}")
        for field, (own, others) in found.fields.items():
            render.data(f"{field}: {own} | {others}")
        rows = [
            (
                task.name,
                "the same" if task.same_bytes else "different",
                ", ".join(task.fields) or "-",
                "-" if task.bits is None else f"{task.bits:,}",
                ", ".join(f"{name} {a:.4f} | {b:.4f}" for name, (a, b) in task.scores.items()),
            )
            for task in found.tasks
        ]
        if rows:
            render.table(
                "tasks of both", ("task", "patch", "entry", "mask bits apart", "scores"), rows
            )
    if not found.empty:
        raise typer.Exit(1)


def overlap(artifact: opt.ArtifactPath, json: opt.Json = False) -> None:
    """Say how far the tasks of an artifact remove the same weights."""
    found = overlaps(open_artifact(artifact))
    if json:
        pairs = [{**asdict(p), "either": p.either, "jaccard": p.jaccard} for p in found]
        render.data(codec.dumps(pairs))
        return
    rows = [
        (
            f"{pair.first}, {pair.second}",
            f"{pair.first_zeros:,}",
            f"{pair.second_zeros:,}",
            f"{pair.both:,}",
            f"{pair.by_chance:,.0f}",
            f"{pair.jaccard:.3f}",
        )
        for pair in found
    ]
    head = ("tasks", "zeros", "zeros", "of both", "by chance", "both / either")
    render.table("overlap of masks", head, rows)


def _say_tasks(artifact: Artifact, *, json: bool) -> None:
    names = sorted(artifact.manifest.tasks)
    if json:
        render.data(codec.dumps({"artifact": str(artifact.path), "tasks": names}))
    else:
        render.data(f"{artifact.path} holds the tasks: {', '.join(names) or 'none'}")
