"""Processes that train one model together: what they share, and how they agree.

`torchrun`, `accelerate launch` and `fit_in_processes` start them; `accelerate` connects them. Every process runs the whole
recipe on the same data. A step's rows are shared out, and gradients are summed once a step: frozen weights are
neither sent nor compared. Only the main process, the first, writes and speaks.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from maskpack.formats import ConfigError, MaskpackError

Found = TypeVar("Found")

_BUCKET = 2 << 20  # values
_LOST = (
    "its own message says why; repeat the command with `resume` to go on from the last checkpoint"
)


class ProcessLostError(MaskpackError):
    """Another process of the run has ended, so that this one cannot go on."""

    known_to_all = True  # by all that are left


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        count: how many they are.
    """

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is only this process."""
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their sums over all processes.

        Raises:
            ProcessLostError: another process has ended.
        """
        if not self.alone:
            self._together(lambda: _sum_all([tensor.detach() for tensor in tensors]))

    def gather(self, value: Found) -> list[Found]:
        """The values of all processes, by rank; anything that can be pickled.

        Raises:
            ProcessLostError: another process has ended.
        """
        if self.alone:
            return [value]
        from accelerate.utils import gather_object  # noqa: PLC0415 - one process needs none of it

        gathered: list[Found] = self._together(lambda: gather_object([value]))
        return gathered

    def of_main(self, work: Callable[[], Found]) -> Found:
        """Let the main process do some work; all get its result, or its error.

        Raises:
            ProcessLostError: another process has ended.
        """
        if self.alone:
            return work()
        from accelerate.utils import broadcast_object_list  # noqa: PLC0415 - one process needs none

        said = [_outcome(work) if self.is_main else None]
        outcome: Any = self._together(lambda: broadcast_object_list(said))[0]
        return _taken(outcome)  # type: ignore[no-any-return]

    def agreed(self, work: Callable[[], Found]) -> Found:
        """Do some work in every process; an error of one is raised in all, the same one.

        Raises:
            ProcessLostError: another process has ended.
        """
        if self.alone:
            return work()
        own = _outcome(work)
        for rank, problem in enumerate(self.gather(own if _is_error(own) else None)):
            if problem is not None:
                _taken(problem if rank == 0 else _of_process(rank, problem))
        return _taken(own)  # type: ignore[no-any-return]

    def check_same(self, facts: Sequence[tuple[str, object]]) -> None:
        """Raise ConfigError unless all processes have the same facts.

        Args:
            facts: what must agree, and its value.
        """
        if self.alone:
            return
        told = self.gather(list(facts))
        for rank, other in enumerate(told):
            for (what, own), (_, theirs) in zip(told[0], other, strict=True):
                if own != theirs:
                    raise ConfigError(
                        f"process {rank} has another {what} than process 0: {theirs} and {own}",
                        "all processes need the same versions, files and options",
                    )

    def _together(self, work: Callable[[], Any]) -> Any:
        """What all processes do at once; torch's error for a lost one becomes ours."""
        try:
            return work()
        except RuntimeError as error:  # gloo's and NCCL's, of a closed connection or a timeout
            raise ProcessLostError(
                f"another of the {self.count} processes has ended, so that process {self.rank} cannot go on",
                _LOST,
            ) from error


def _sum_all(tensors: Sequence[Tensor]) -> None:
    """Sum tensors over all processes, in place, several buckets at a time.

    On two cores 42 MB of gradients took 38 ms in buckets of 8 MiB, 55 ms as one tensor and 72 ms one by one.
    """
    sent = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        sent.append((bucket, flat, torch.distributed.all_reduce(flat, async_op=True)))
    for bucket, flat, work in sent:
        work.wait()
        end = 0
        for tensor in bucket:
            start, end = end, end + tensor.numel()
            tensor.copy_(flat[start:end].view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of `_BUCKET` values together; a larger tensor stands alone.

    >>> a, b, c = torch.zeros(3), torch.zeros(_BUCKET), torch.zeros(2)
    >>> [len(bucket) for bucket in _buckets([a, c, b, a])]
    [2, 1, 1]
    """
    bucket, held = list[Tensor](), 0
    for tensor in tensors:
        if bucket and held + tensor.numel() > _BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket


def _outcome(work: Callable[[], Any]) -> Any:
    """The result of some work in a list, or its error."""
    try:
        return [work()]
    except MaskpackError as problem:
        return problem


def _is_error(outcome: Any) -> bool:
    return isinstance(outcome, MaskpackError)


def _of_process(rank: int, problem: MaskpackError) -> MaskpackError:
    """The error of another process than the main one, which says where it happened."""
    return type(problem)(f"in process {rank}: {problem}", problem.advice)


def _taken(outcome: Any) -> Any:
    """The result of some work; an error of it is marked as known to all processes."""
    if isinstance(outcome, MaskpackError):
        outcome.known_to_all = True
        raise outcome
    (result,) = outcome
    return result


ALONE = Processes()


def expected_processes() -> int:
    """How many processes the environment says train together, as `torchrun` and `accelerate launch` set it."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def join_processes(*, cpu: bool) -> Processes:
    """Connect with the other processes, once; `ALONE` if the environment names none.

    Args:
        cpu: whether they compute on processors and speak by gloo; else the device's own way.

    Raises:
        ConfigError: they do not find each other.
    """
    if expected_processes() == 1:
        return ALONE
    from accelerate import PartialState  # noqa: PLC0415 - one process needs none of it

    try:
        state = PartialState(cpu=cpu)
    except (RuntimeError, ValueError, OSError) as error:
        rank = os.environ.get("RANK", "?")
        raise ConfigError(
            f"process {rank} of {expected_processes()} cannot connect with the others: {error}",
            "look for another run on the same port, a firewall, or a process that ended early",
        ) from error
    atexit.register(leave_processes)
    return Processes(state.process_index, state.num_processes)


def leave_processes() -> None:
    """Close the connections, if there are any: the others see it, and threads end before the process. Inverse of `join_processes`."""
    if torch.distributed.is_initialized():
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()
