"""Where a run keeps its state, and what is said of one that is stopped."""

from __future__ import annotations

from maskpack.compressor.prepare import PreparedRun
from maskpack.compressor.run_key import run_key
from maskpack.compressor.training.checkpoint import FolderCheckpoints
from maskpack.formats import Interrupted


def checkpoints_of(run: PreparedRun, *, of_teacher: bool = False) -> FolderCheckpoints:
    """Where the run keeps its state, or a teacher that it trains first: that is kept when it is done."""
    request, key = run.request, run_key(run)
    folder, every = request.checkpoint_folder, request.config.checkpoint_every
    if of_teacher:
        last = run.plan.steps
        return FolderCheckpoints(folder / "teacher", every, key, request.resume, last)
    return FolderCheckpoints(folder, every, key, request.resume)


def interrupted(run: PreparedRun) -> Interrupted:
    """What is said of a run that was stopped in its training."""
    if not (checkpoints_of(run).found() or checkpoints_of(run, of_teacher=True).found()):
        return Interrupted("stopped before the first checkpoint; nothing was written")
    return Interrupted(
        f"stopped; the checkpoint is kept in `{run.request.checkpoint_folder}`",
        "repeat the same request with `resume` to go on",
    )


def interrupted_at_the_end(run: PreparedRun) -> Interrupted:
    """The same after the last step, when some tasks of the run may be written."""
    if checkpoints_of(run).found():
        return interrupted(run)
    return Interrupted(
        "stopped after the last step, of which no checkpoint is kept",
        "repeat the same request, with `replace` if it left a task",
    )
