"""Several attempts at once, each in a thread that waits for a worker elsewhere. Knows no cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread

from maskpack.compressor.sweep.executors import Attempt, Do
from maskpack.compressor.sweep.plan import Run

_POLL = 0.2  # seconds between looks at what may start; Ctrl-C is noticed by then
_AGAIN = 2.0  # seconds before a run that another process has claimed is tried again


def attempt_all(
    runs: Sequence[Run], attempt: Attempt, do: Do, *, most: int, halt: Callable[[], None]
) -> None:
    """Attempt every run, teachers first, no student before its teacher has ended.

    Args:
        runs: in an order that has teachers before students.
        attempt: called in a thread for each run.
        do: handed to it; returns when a worker has done the run.
        most: runs at once.
        halt: called when anything is raised here, Ctrl-C too; makes `do` raise soon, which is waited for.

    Raises:
        BaseException: the first that an attempt raised, or that came while waiting.
    """
    teachers = {run.teacher.key for run in runs if run.teacher is not None}
    waiting = sorted(runs, key=lambda run: run.key not in teachers)
    unfinished = {run.key for run in runs}
    not_before: dict[str, float] = {}  # runs that another process has claimed
    flight = _Flight(attempt, do)

    def may_start(run: Run) -> bool:
        taught = run.teacher is None or run.teacher.key not in unfinished
        return taught and not_before.get(run.key, 0.0) <= time.monotonic()

    try:
        while unfinished:
            for run in [run for run in waiting if may_start(run)][: most - len(flight)]:
                waiting.remove(run)
                flight.start(run)
            for run, ended in flight.landed(_POLL):
                if ended:
                    unfinished.discard(run.key)
                else:
                    not_before[run.key] = time.monotonic() + _AGAIN
                    waiting.append(run)
    except BaseException:
        halt()
        flight.join()
        raise


class _Flight:
    """Attempts that are under way, each in its thread."""

    def __init__(self, attempt: Attempt, do: Do) -> None:
        self._attempt, self._do = attempt, do
        self._threads: dict[str, Thread] = {}
        self._ends: SimpleQueue[tuple[Run, bool | BaseException]] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._threads)

    def start(self, run: Run) -> None:
        """Attempt the run; the thread keeps no process alive."""
        thread = Thread(target=self._go, args=(run,), daemon=True, name=run.title)
        self._threads[run.key] = thread
        thread.start()

    def landed(self, timeout: float) -> list[tuple[Run, bool]]:
        """The next run whose attempt has ended, and what it returned; none if none ends in time.

        Raises:
            BaseException: what the attempt raised.
        """
        try:
            run, how = self._ends.get(timeout=timeout)
        except Empty:
            return []
        del self._threads[run.key]
        if isinstance(how, BaseException):
            raise how
        return [(run, how)]

    def join(self) -> None:
        """Wait for all attempts."""
        for thread in self._threads.values():
            thread.join()

    def _go(self, run: Run) -> None:
        try:
            self._ends.put((run, self._attempt(run, do=self._do)))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self._ends.put((run, error))
