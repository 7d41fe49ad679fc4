"""`compress vote`: several masks of one task as one, by majority. `compress path`: a task on the way to another mask."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render

if TYPE_CHECKING:
    from maskpack.tasks.vote import VoteResult


def vote(
    artifact: opt.ArtifactPath,
    tasks: Annotated[
        list[str], Argument(help="Two tasks or more, of one type with the same labels.")
    ],
    name: Annotated[str, Option(help="Name of the new task.")],
    data: Annotated[
        Path | None,
        Option(help="Evaluation file or folder, if the tasks' does not ship with the package."),
    ] = None,
    replace: Annotated[bool, Option("--replace", help="Replace a task of that name.")] = False,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Add a task whose mask removes what most masks of other tasks remove, and whose head is the mean of theirs.

    The tasks are those that `compress fit --snapshots` left behind, or others of the same labels. The new one is evaluated and
    takes the bytes of one task.

    Example: compress vote artifact reviews-1 reviews-2 reviews --name voted --data reviews
    """
    from maskpack.tasks.vote import VoteRequest, vote_tasks  # noqa: PLC0415 - imports torch

    result = vote_tasks(VoteRequest(artifact, tuple(tasks), name, data, replace, device))
    if json:
        render.json(_tree(result), sort_keys=True)
    else:
        _show(result, artifact, tasks[0])


def _tree(result: VoteResult) -> dict[str, object]:
    return {
        **asdict(result.assessment),
        **{k: v for k, v in asdict(result).items() if k != "assessment"},
    }


def _show(result: VoteResult, artifact: Path, first: str) -> None:
    found = result.assessment
    columns = {"value": found.scores, f"{first} when learned": found.recorded}
    rows = [
        (name, *(f"{each[name]:.4f}" if name in each else "-" for each in columns.values()))
        for name in found.scores
    ]
    render.table(f"{found.task}: {found.rows} evaluation rows", ("metric", *columns), rows)
    zeros = {**result.members, found.task: result.zeros}
    render.table("", ("mask", "zeros"), [(task, f"{count:,}") for task, count in zeros.items()])
    render.words(f"`{found.task}` is in {artifact}, {render.size(result.file_bytes)}")


def path(
    artifact: opt.ArtifactPath,
    first: Annotated[str, Argument(help="Task that is measured.")],
    second: Annotated[str, Argument(help="Task to whose mask the way leads.")],
    data: Annotated[
        Path | None,
        Option(help="Evaluation rows of the first, if they do not ship with the package."),
    ] = None,
    points: Annotated[int, Option(help="On the way, both ends included.")] = 11,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Measure a task on the straight line between its mask and another task's: does a hill lie between them?

    Where both have the same labels, heads fade too; else the first one's stays.

    Example: compress path artifact reviews-1 reviews
    """
    from maskpack.tasks.path import PathRequest, mask_path  # noqa: PLC0415 - imports torch

    found = mask_path(PathRequest(artifact, first, second, data, points, device))
    if json:
        render.json({**asdict(found), "barrier": found.barrier}, sort_keys=True)
        return
    rows = [(f"{one.share:.2f}", f"{one.value:.4f}", f"{one.loss:.4f}") for one in found.points]
    render.table(f"{first} to {second}", (f"share of {second}", found.metric, "loss"), rows)
    render.words(f"the loss rises {found.barrier:.4f} above the line between its ends")
