"""Processes that train together, as threads of the test: one runs at a time, and they meet where processes would.

Global random state and the like are as in one process, because a thread gives way only where it waits for the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from maskpack.models.placement import PLACEMENTS, CpuPlacement
from maskpack.models.processes import Processes, ProcessLostError


class Meeting:
    """Where the threads meet."""

    def __init__(self, count: int) -> None:
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(count)
        self.told: list[Any] = [None] * count

    def all_of(self, rank: int, value: Any) -> list[Any]:
        self.told[rank] = value
        self._wait()
        told = list(self.told)
        self._wait()
        return told

    def _wait(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait(timeout=300)
        except threading.BrokenBarrierError:
            raise ProcessLostError("another process has ended") from None
        finally:
            self.turn.acquire()


@dataclass(frozen=True)
class Threads(Processes):
    """`Processes` that are threads."""

    meeting: Meeting | None = None

    def gather(self, value):
        return self.meeting.all_of(self.rank, value)

    def sum(self, tensors):
        parts = self.gather([each.detach().clone() for each in tensors])
        with torch.no_grad():
            for number, tensor in enumerate(tensors):
                tensor.copy_(sum(own[number] for own in parts))

    def of_main(self, work):
        outcome = self.gather(_tried(work) if self.is_main else None)[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]


def _tried(work):
    try:
        return [work()]
    except Exception as error:  # noqa: BLE001 - told to the test
        return error


def side_by_side(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` gives in each of `count` processes; the first error of any, those that follow from it last."""
    meeting, found = Meeting(count), [None] * count

    def run(rank: int) -> None:
        with meeting.turn:
            found[rank] = _tried(lambda: work(Threads(rank, count, meeting)))
        if isinstance(found[rank], Exception):
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [each for each in found if isinstance(each, Exception)]
    for error in sorted(errors, key=lambda each: isinstance(each, ProcessLostError)):
        raise error
    return [each[0] for each in found]


def placed_side_by_side(monkeypatch) -> Callable[[int, Callable[[Processes], Any]], list[Any]]:
    """`side_by_side`, where the device `together` is that of the process which asks for it."""
    ranks: dict[int, Processes] = {}
    monkeypatch.setitem(
        PLACEMENTS,
        "together",
        lambda *_: CpuPlacement("cpu", processes=ranks[threading.get_ident()]),
    )

    def run(count: int, work: Callable[[Processes], Any]) -> list[Any]:
        def placed(processes: Processes) -> Any:
            ranks[threading.get_ident()] = processes
            return work(processes)

        return side_by_side(count, placed)

    return run
