"""`compress check` and `tasks` show an artifact; `pack` to `overlap` move and compare tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import PathKind, path_kind
from maskpack.cli.sources import ArtifactSource
from maskpack.cli.task_data import only_task
from maskpack.formats import (
    Artifact,
    ArtifactError,
    Overlap,
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
from maskpack.formats.writer import check_free, check_writable, write_bytes
from maskpack.tasks.card import card_facts
from maskpack.tasks.types import type_of


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
        render.json({"ok": not findings, "findings": findings})
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
    "fill-mask": "--type fill-mask",
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
        render.json(listed)
    else:
        render.table("", ("task", "what"), list(listed.items()))
        if types:
            render.table("types of tasks on your own rows", ("type", "answer", "options"), types)


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
        render.json({"file": str(path), "bytes": len(data), "stored_bytes": stored})
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
        render.json({**asdict(changes), "same": changes.empty}, sort_keys=True)
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
        render.json([_overlap_tree(pair) for pair in compared])
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
        render.json({"artifact": str(artifact.path), "tasks": names})
    else:
        render.data(f"{artifact.path} holds the tasks: {', '.join(names) or 'none'}")
