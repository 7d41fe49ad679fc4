"""What a worker of a cluster does: it looks whether it sees the sweep's files, and does one run. Knows no Ray."""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maskpack.compressor.sweep.plan import PATHS, Run
from maskpack.compressor.sweep.run import do_run
from maskpack.compressor.training.progress import OnProgress, Progress
from maskpack.compressor.types import RunResult
from maskpack.formats import ConfigError, MaskpackError
from maskpack.tasks.data.hub import is_hub

_REPORT_EVERY = 0.5  # seconds
_LOOK_EVERY = 1.0


class UnfitError(ConfigError):
    """A worker that can do no run of the sweep; it ends the sweep, where other errors end a run."""


@dataclass(frozen=True)
class Order:
    """A run for a worker.

    Attributes:
        run: the run.
        folder: in which relative paths of the run begin.
        mark: a file that the driver made in the sweep's folder.
        content: of this file; another worker's disk may have a folder of the same name.
        threads: of torch.
        patience: seconds until a file that is not there is missing: a shared disk shows new ones late.
    """

    run: Run
    folder: Path
    mark: Path
    content: str
    threads: int
    patience: float = 30.0


def do_order(
    packed: bytes, report: Callable[[str, bytes, bool], None]
) -> RunResult | MaskpackError:
    """The result of the order's run, or the error of ours that ended it: raised, it would reach the driver wrapped.

    Args:
        packed: the pickled order.
        report: takes the run's key, pickled progress, and whether a stage ends with it.
    """
    order: Order = pickle.loads(packed)  # noqa: S301 - from the driver, which sends code anyway
    try:
        if order.folder.is_dir():
            os.chdir(order.folder)
        check_visible(order)
        reporter = _reporter(order.run.key, report)
        return do_run(order.run, on_progress=reporter, threads=order.threads)
    except MaskpackError as error:
        return error


def check_visible(order: Order) -> None:
    """Raise UnfitError if a file or folder that the run needs is not there on this machine."""
    run = order.run
    shared = order.folder / order.mark
    if not _appears(lambda: _text(shared) == order.content, order.patience):
        raise _unseen(order.folder / run.home, "the folder of the sweep's models and backbones")
    needed = {"the data": run.task.data, "the evaluation data": run.task.eval_data}
    if run.model.source != run.model.digest:  # no name of the Hub
        needed["the model"] = Path(run.model.source)
    needed |= {f"`{key}`": Path(str(value)) for key, value in _files(run).items()}
    if run.teacher is not None:
        needed[f"the teacher `{run.teacher.arm.label}`"] = run.teacher.folder
    for what, path in needed.items():
        if path is None or is_hub(path):
            continue
        whole = order.folder / path
        if not _appears(whole.exists, order.patience):
            raise _unseen(whole, what)


def _files(run: Run) -> dict[str, object]:
    """Options of the run that name files."""
    return {key: run.arm.options[key] for key in PATHS if key in run.arm.digests}


def _appears(seen: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not seen():
        if time.monotonic() >= end:
            return False
        time.sleep(min(_LOOK_EVERY, patience))
    return True


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text(encoding="utf-8")
    return None


def _unseen(path: Path, what: str) -> UnfitError:
    return UnfitError(
        f"the worker on `{platform.node()}` does not see `{path}`, {what}",
        "put it on a disk that all machines of the cluster have, under the same path",
    )


def _reporter(key: str, report: Callable[[str, bytes, bool], None]) -> OnProgress:
    """Reports a few times a second, and the end of each stage."""
    last = -_REPORT_EVERY

    def tell(now: Progress) -> None:
        nonlocal last
        ends, time_now = now.step == now.steps, time.monotonic()
        if ends or time_now - last >= _REPORT_EVERY:
            last = time_now
            report(key, pickle.dumps(now), ends)

    return tell
