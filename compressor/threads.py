"""Threads that torch trains with. Their number belongs to the process: a run sets it at its start and restores it at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.formats.processors import Threads, threads_asked, threads_now
from maskpack.models.placement import AUTO, best_device
from maskpack.models.processes import expected_processes

_LOG = logging.getLogger(__name__)


@contextmanager
def training_threads(threads: int | None, *, device: str | None = None) -> Iterator[int]:
    """Train with a number of threads, which is what it gives.

    Args:
        threads: how many; None: as many as torch has been given, or fewer where other programs keep cores busy. It stays as
            it is where `OMP_NUM_THREADS` is set, where a launcher has started this process with others, and on a GPU.
        device: of the run, as `placement_of` takes it.

    Raises:
        ConfigError: less than one thread.
    """
    check_threads(threads)
    before = torch.get_num_threads()
    chosen = threads or _suitable(before, device)
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(before)


def torch_threads() -> int:
    """Threads that torch computes with now."""
    return torch.get_num_threads()


def check_threads(threads: int | None) -> None:
    """Raise ConfigError for less than one thread."""
    if threads is not None and threads < 1:
        raise ConfigError(f"`threads` is {threads}", "give 1 or more")


def share_of_threads(processes: int) -> int:
    """Threads of each of several processes that are about to train together: the free cores are shared out."""
    found = threads_now()
    shared = replace(found, count=max(1, found.count // processes))
    if found.lowered:
        _LOG.info("%s in each process (%s)", words(shared), Hint("`threads` sets it"))
    return shared.count


def _suitable(given: int, device: str | None) -> int:
    """Threads for a run where nobody has said how many; one line of the log if they are fewer than torch has been given."""
    on_cpu = (best_device() if device in (None, AUTO) else device) == "cpu"
    if given == 1 or not on_cpu or threads_asked() is not None or expected_processes() > 1:
        return given
    found = threads_now()
    if found.lowered and found.count < given:
        _LOG.info("%s (%s)", words(found), Hint("`threads` sets it"))
    return min(given, found.count)


def words(found: Threads) -> str:
    """What other programs leave to a run.

    >>> words(Threads(count=1, allowed=2, cores=2, busy=1))
    'other programs keep 1 of 2 cores busy; training uses 1 thread'
    """
    plural = "" if found.count == 1 else "s"
    return f"other programs keep {found.busy} of {found.cores} cores busy; training uses {found.count} thread{plural}"
