"""The straight line between two masks of one backbone: how a task fares on the way from one to the other.

At a share `a` the weights are `(1 - a) W1 + a W2`, where `W1` and `W2` are the backbone under either mask, so that a weight which one mask removes
fades in or out. Two solutions that such a line joins without a hill lie in one valley (linear mode connectivity: Frankle et al.
2020, arXiv 1912.05671); of masks of one pretrained model this was found by Zhao et al. 2020 (arXiv 2004.12406, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskpack.formats import Artifact, ConfigError, Patch, TaskEntry, open_artifact
from maskpack.tasks.context import restore_patch
from maskpack.tasks.evaluation.evaluate import evaluation_rows, predictions_of, task_of
from maskpack.tasks.evaluation.metrics import compute_metrics

_LEAST = 3
# facts of tasks between whose heads a line has a meaning
_OF_HEADS = ("kind", "labels", "requires", "config")


@dataclass(frozen=True)
class PathRequest:
    """Two tasks, and where the way between them is measured.

    Attributes:
        artifact: that holds them.
        first, second: their names. With the same labels heads fade too; else the first one's head stays.
        data: evaluation rows of the first, if they do not ship with the package.
        points: on the line, both ends included.
        device: where it is measured, see `assess`.
    """

    artifact: Path
    first: str
    second: str
    data: Path | None = None
    points: int = 11
    device: str | None = None

    def __post_init__(self) -> None:
        if self.points < _LEAST:
            raise ConfigError(f"`points` is {self.points}, a path needs {_LEAST} or more")
        if self.first == self.second:
            raise ConfigError(f"a path leads from one task to another, not to `{self.first}` again")


@dataclass(frozen=True)
class PathPoint:
    """A place on the line.

    Attributes:
        share: of the second mask's weights, 0 to 1.
        value: the first task's main metric.
        loss: mean over the first task's evaluation rows.
    """

    share: float
    value: float
    loss: float


@dataclass(frozen=True)
class MaskPath:
    """A task's quality on the way to another mask.

    Attributes:
        first, second: the tasks.
        metric: name of the first one's main metric.
        rows: that it was measured on.
        points: from the first to the second.
    """

    first: str
    second: str
    metric: str
    rows: int
    points: tuple[PathPoint, ...]

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between its ends, at most; 0: nowhere.

        >>> ends = PathPoint(0, 0.9, 0.25), PathPoint(1, 0.9, 0.75)
        >>> MaskPath("a", "b", "accuracy", 9, (ends[0], PathPoint(0.5, 0.8, 1.0), ends[1])).barrier
        0.5
        """
        start, end = self.points[0].loss, self.points[-1].loss
        return max(one.loss - (start + one.share * (end - start)) for one in self.points)


def mask_path(request: PathRequest) -> MaskPath:
    """Measure a task on the line from its mask to another's.

    Raises:
        ArtifactError: no such task.
        ConfigError: the masks are not over the same matrices.
        DataError: the evaluation rows are not at hand.
    """
    artifact = open_artifact(request.artifact)
    entry, other = artifact.entry(request.first), artifact.entry(request.second)
    start, end = artifact.patch(request.first), artifact.patch(request.second)
    if not _same_shapes(start, end):
        raise ConfigError(
            f"`{request.first}` and `{request.second}` have masks over different matrices"
        )
    alike = all(getattr(entry, fact) == getattr(other, fact) for fact in _OF_HEADS)
    if not alike or not _same_heads(start, end):
        end = replace(end, head=start.head)
    split, task = evaluation_rows(entry, request.data), task_of(entry)
    decoder = task.type.decoder
    if decoder.per_token or decoder.vectors or decoder.fills:
        raise ConfigError(
            f"`{request.first}` is a {task.type.name}, whose loss is not one of a row",
            "evaluate its ends instead",
        )
    model = restore_patch(artifact, entry, start)
    ends = [_weights(artifact, entry, patch) for patch in (start, end)]
    points = []
    for number in range(request.points):
        share = number / (request.points - 1)
        _put_between(model, ends, share)
        found = predictions_of(artifact, entry, split, model, request.device)
        value = compute_metrics(task.type, found.logits, found.labels, [task.metric])[task.metric]
        targets = torch.from_numpy(np.asarray(task.type.targets(found.labels)))
        loss = task.type.loss(torch.from_numpy(found.logits), _of_loss(targets))
        points.append(PathPoint(share, value, float(loss)))
    return MaskPath(request.first, request.second, task.metric, len(split), tuple(points))


def _of_loss(targets: torch.Tensor) -> torch.Tensor:
    """Numbers of classes as torch's losses read them."""
    return targets if targets.is_floating_point() else targets.long()


Weights = dict[str, torch.Tensor]


def _weights(artifact: Artifact, entry: TaskEntry, patch: Patch) -> Weights:
    model = restore_patch(artifact, entry, patch)
    return {name: value.detach().cpu() for name, value in model.named_parameters()}


@torch.no_grad()
def _put_between(model: Any, ends: list[Weights], share: float) -> None:
    for name, value in model.named_parameters():
        value.copy_(torch.lerp(ends[0][name], ends[1][name], share))


def _same_shapes(left: Patch, right: Patch) -> bool:
    shapes = [{name: mask.shape for name, mask in each.masks.items()} for each in (left, right)]
    return shapes[0] == shapes[1]


def _same_heads(left: Patch, right: Patch) -> bool:
    shapes = [{name: value.shape for name, value in each.head.items()} for each in (left, right)]
    return shapes[0] == shapes[1]
