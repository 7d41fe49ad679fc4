"""Executors of a sweep's runs: this process, or workers of a Ray cluster. Another executor is one class and one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from maskpack.compressor.sweep.plan import Resources, Run
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import RunResult
from maskpack.formats.lazy import LazyTable


class Do(Protocol):
    """Trains and measures one run, as `run.do_run` does: a module's function, so that other processes can import it."""

    def __call__(self, run: Run, *, on_progress: OnProgress) -> RunResult:
        """The run's result."""


class Attempt(Protocol):
    """Claims a run, does it if it is due, and records how it ended.

    It is always called in this process, by several threads at once if the executor likes.
    """

    def __call__(self, run: Run, *, wait: bool = False, do: Do | None = None) -> bool:
        """False if another process has claimed the run.

        Args:
            run: the run.
            wait: whether to wait until that process has finished it.
            do: function that trains and measures it; None: `run.do_run`, in this process.
        """


class Executor(Protocol):
    """Does the runs of a sweep."""

    def execute(self, runs: Sequence[Run], attempt: Attempt) -> None:
        """Attempt every run, no student before its teacher.

        Args:
            runs: in an order that has teachers before students.
            attempt: to be called once for each run, and again with `wait` if another process had claimed it.
        """


@dataclass(frozen=True)
class ExecutorOptions:
    """What an executor is made from.

    Attributes:
        address: of the cluster to join, `host:port` or `auto`; None: one is started on this machine.
        resources: what each run gets.
        device: where runs in this process are trained; None: on a GPU if there is one. Workers of a cluster take
            what they are given.
        threads: of torch, for runs in this process; None: see `training_threads`. Workers of a cluster have as many as cores.
    """

    address: str | None = None
    resources: Resources = field(default_factory=Resources)
    device: str | None = None
    threads: int | None = None


class LocalExecutor:
    """This process, one run after another; runs that another process has claimed come last.

    Args:
        options: only device and threads are looked at: this process has what the machine has.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self._device, self._threads = options.device, options.threads

    def execute(self, runs: Sequence[Run], attempt: Attempt) -> None:
        """Attempt every run; wait for other processes only when all other runs are done."""
        from maskpack.compressor.sweep.run import do_run  # noqa: PLC0415 - which imports this module

        do = None
        if (self._device, self._threads) != (None, None):
            do = partial(do_run, device=self._device, threads=self._threads)
        waiting = runs
        for wait in (False, True):
            busy: list[Run] = []
            for run in waiting:
                teacher_busy = run.teacher is not None and run.teacher in busy
                if teacher_busy or not attempt(run, wait=wait, do=do):
                    busy.append(run)
            waiting = busy


EXECUTORS: LazyTable[Callable[[ExecutorOptions], Executor]] = LazyTable(
    local="maskpack.compressor.sweep.executors:LocalExecutor",
    ray="maskpack.compressor.sweep.ray_executor:RayExecutor",
)
"""Name -> what makes the executor from its options; an entry is loaded when it is asked for."""
