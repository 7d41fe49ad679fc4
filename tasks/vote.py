"""One task out of several of an artifact: their masks vote, and the result is evaluated and added."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskpack.formats import Artifact, ConfigError, TaskEntry, add_task, check_vacant, open_artifact
from maskpack.formats.schema import check_new_name, patch_file
from maskpack.formats.vote import MEMBERS, majority_patch
from maskpack.tasks.card import card_facts
from maskpack.tasks.context import restore_patch
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import (
    Assessment,
    assessed,
    evaluation_rows,
    predictions_of,
)


@dataclass(frozen=True)
class VoteRequest:
    """Tasks whose masks vote.

    Attributes:
        artifact: that holds them.
        tasks: their names: two or more, of one type with the same labels.
        name: of the new task.
        data: evaluation rows, if they do not ship with the package.
        replace: whether a task of that name is replaced.
        device: where it is evaluated, see `assess`.
    """

    artifact: Path
    tasks: tuple[str, ...]
    name: str
    data: Path | None = None
    replace: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        check_new_name(self.name)
        if len(self.tasks) < 2 or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(
                f"a vote is of two different tasks or more, not of {', '.join(self.tasks) or 'none'}"
            )


@dataclass(frozen=True, eq=False)
class VoteResult:
    """What a vote made.

    Attributes:
        assessment: of the new task; `recorded` are the scores of the first task.
        zeros: of its mask.
        members: tasks that voted -> zeros of theirs.
        file_bytes: of its file.
    """

    assessment: Assessment
    zeros: int
    members: dict[str, int]
    file_bytes: int


def vote_tasks(request: VoteRequest) -> VoteResult:
    """Add the task in which a weight goes where most of the masks remove it; heads are means.

    Meant for snapshots of one run: heads of runs from different seeds have no common start, and their mean says less.

    Raises:
        ArtifactError: no such task, or the name is taken.
        ConfigError: tasks that answer otherwise, or whose patches hold other things.
        DataError: the evaluation rows are not at hand.
    """
    artifact = open_artifact(request.artifact)
    check_vacant(artifact, request.name, replacing=request.replace)
    entries = [artifact.entry(name) for name in request.tasks]
    for other in entries[1:]:
        _check_alike(entries[0], other)
    patch = majority_patch([artifact.patch(name) for name in request.tasks])
    first = entries[0]
    entry = replace(
        first,
        name=request.name,
        file=patch_file(request.name),
        zeros=patch.count.zeros,
        training={MEMBERS: list(request.tasks)},
    )
    model, split = restore_patch(artifact, entry, patch), evaluation_rows(entry, request.data)
    entry = replace(entry, data=_measured_on(first, split))
    found = assessed(entry, predictions_of(artifact, entry, split, model, request.device))
    scores = {name: found.scores[name] for name in first.scores}
    written = add_task(
        request.artifact,
        replace(entry, scores=scores),
        patch,
        replacing=request.replace,
        backbone_sha256=artifact.manifest.backbone_sha256,
        describe=card_facts,
    )
    members = {name: artifact.entry(name).zeros for name in request.tasks}
    return VoteResult(found, entry.zeros, members, _bytes_of(written, request.name))


def _measured_on(first: TaskEntry, split: Split) -> dict[str, Any]:
    """What the entry says of data: the scores are of these rows, and the original model's only if those are of the same."""
    digest = split.sha256()
    kept = dict(first.data)
    if kept.get("eval_sha256") != digest:
        kept.pop("original", None)
    return {**kept, "eval_rows": len(split), "eval_sha256": digest}


def _bytes_of(artifact: Artifact, task: str) -> int:
    return artifact.size(artifact.entry(task).file)


def _check_alike(first: TaskEntry, other: TaskEntry) -> None:
    """Raise ConfigError unless two tasks read texts and answer alike."""
    for what in ("kind", "labels", "max_length", "requires", "config"):
        if getattr(first, what) != getattr(other, what):
            raise ConfigError(
                f"`{first.name}` and `{other.name}` differ in `{what}`",
                "a vote is of tasks that read texts and answer alike",
            )
