"""Whether what a run will write has its place: tried before the first step, which may be hours before the last."""

from __future__ import annotations

from pathlib import Path

import torch

from maskpack.compressor.masking.model import extra_bytes, masked_names
from maskpack.compressor.masking.patterns import MaskPattern
from maskpack.compressor.quantization.quantize import backbone_bytes
from maskpack.compressor.teacher_config import PEER_TEACHER
from maskpack.compressor.types import FitRequest
from maskpack.formats import Artifact, ArtifactError, check_vacant, is_artifact, open_artifact
from maskpack.formats.writer import check_free, check_space, check_writable
from maskpack.models.build import ParameterShapes

_STATE = 12  # bytes of a trained value in a checkpoint: itself and two moments, in float32


def check_place(request: FitRequest) -> None:
    """Raise ArtifactError unless the task can be written into the artifact, or a new one be made."""
    names = request.snapshot_names  # refused now, if one cannot name a task
    if is_artifact(request.out):
        artifact = open_artifact(request.out)
        check_vacant(artifact, request.stored_name, replacing=request.replace)
        for name in names:
            _check_snapshot(request, artifact, name)
    else:
        check_free(request.out)
    check_writable(request.out)


def may_replace_snapshots(request: FitRequest) -> bool:
    """Whether tasks that a run leaves on its way may be there: a stopped run, whose checkpoint is kept, may have written them."""
    return request.replace or (request.resume and request.checkpoint_folder.is_dir())


def _check_snapshot(request: FitRequest, artifact: Artifact, name: str) -> None:
    """Raise ArtifactError if a task that the run will leave on its way is there already, and must stay."""
    replacing = may_replace_snapshots(request)
    stopped = request.checkpoint_folder.is_dir()
    if stopped and not replacing and name in artifact.manifest.tasks:
        raise ArtifactError(
            f"`{artifact.path}` already has a task `{name}`, which a stopped run left",
            "repeat the same request with `resume` to go on",
        )
    check_vacant(artifact, name, replacing=replacing)


def has_task(out: Path, name: str) -> bool:
    """Whether there is an artifact with a task of that name."""
    return is_artifact(out) and name in open_artifact(out).manifest.tasks


def check_room(
    request: FitRequest, shapes: ParameterShapes, pattern: MaskPattern, *, rows: int
) -> None:
    """Raise ArtifactError if the disk has less free than the run needs, see `needed_bytes`."""
    new = not is_artifact(request.out)
    check_space(request.out, needed_bytes(request, shapes, pattern, rows=rows, new=new))


def needed_bytes(
    request: FitRequest, shapes: ParameterShapes, pattern: MaskPattern, *, rows: int, new: bool
) -> int:
    """Bytes that a run has on the disk at once, at least: from shapes, before anything is computed.

    A checkpoint is written beside the one before it, and the last one goes when the artifact is written.

    Args:
        request: what is learned.
        shapes: of the classifier.
        pattern: what a score stands for.
        rows: of the training split.
        new: whether the backbone is written too.
    """
    config = request.config
    sizes = [torch.Size(shapes.linears[name]) for name in masked_names(shapes.linears, config)]
    others = shapes.head_bytes + extra_bytes(shapes, config)
    patch = sum(size.numel() for size in sizes) // 8 + others
    written = patch * (1 + len(config.stops))
    if new:
        written += backbone_bytes(shapes, config)
    scores = sum(torch.Size(pattern.score_shape(size)).numel() for size in sizes)
    learners = 2 if config.teacher == PEER_TEACHER else 1
    checkpoint = learners * _STATE * (scores + others // 2) + patch * len(config.stops)
    saved = config.total_steps(rows) // config.checkpoint_every if config.checkpoint_every else 0
    return max(min(saved, 2) * checkpoint, min(saved, 1) * checkpoint + written)
