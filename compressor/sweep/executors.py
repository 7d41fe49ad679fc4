"""Executors of a sweep's runs: this process. Another executor is one class and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from maskpack.compressor.sweep.plan import Run
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import RunResult


class Do(Protocol):
    """Trains and measures one run, as `run.do_run` does: a module's function, so that other processes can import it."""

    def __call__(self, run: Run, *, on_progress: OnProgress) -> RunResult:
        """The run's result."""


class Attempt(Protocol):
    """Claims a run, does it if it is due, and records how it ended; always called in this process."""

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


class LocalExecutor:
    """This process, one run after another; runs that another process has claimed come last."""

    def execute(self, runs: Sequence[Run], attempt: Attempt) -> None:
        """Attempt every run; wait for other processes only when all other runs are done."""
        waiting = runs
        for wait in (False, True):
            busy: list[Run] = []
            for run in waiting:
                teacher_busy = run.teacher is not None and run.teacher in busy
                if teacher_busy or not attempt(run, wait=wait):
                    busy.append(run)
            waiting = busy


EXECUTORS: dict[str, Executor] = {"local": LocalExecutor()}
"""Name -> executor."""
