"""Learn a task in several processes of this machine, which share the rows of every step.

`torchrun` and `accelerate launch` start processes on any number of machines and need nothing of this file. Here
torch starts them, rank 0 sends its progress and its messages back, and whatever ends one of them ends all.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from logging.handlers import QueueHandler
from multiprocessing.connection import Pipe, wait
from types import SimpleNamespace
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from maskpack.compressor.fit import fit_task
from maskpack.compressor.threads import check_threads, share_of_threads
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import FitRequest, RunResult
from maskpack.formats import ConfigError, MaskpackError
from maskpack.formats.processors import threads_asked
from maskpack.models.processes import ProcessLostError, expected_processes, leave_processes

_PROGRESS, _RECORD, _RESULT, _ERROR, _STOPPED = "progress", "record", "result", "error", "stopped"
_POLL_S = 0.2
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


def fit_in_processes(
    request: FitRequest, processes: int, *, on_progress: OnProgress = lambda _: None
) -> RunResult:
    """Learn a task as `fit_task` does, in several processes; the result is that of one, but for rounding.

    A script that calls this needs `if __name__ == "__main__":`, because each process imports it.

    Args:
        request: what to learn. Its `batch_size` is shared out.
        processes: how many.
        on_progress: called after every step, in this process.

    Raises:
        MaskpackError: as of `fit_task`.
        ProcessLostError: a process ended early; the last checkpoint is kept.
    """
    check_processes(processes)
    check_threads(request.threads)
    if processes == 1:
        return fit_task(request, on_progress=on_progress)
    if request.threads is None and threads_asked() is None:
        request = replace(request, threads=share_of_threads(processes))
    pipes: list[tuple[Any, Any]] = [Pipe(duplex=False) for _ in range(processes)]
    children: Any = start_processes(  # type: ignore[no-untyped-call]
        _child,
        args=(request, processes, _free_port(), [writer for _, writer in pipes]),
        nprocs=processes,
        join=False,
        start_method="spawn",
    )
    for _, writer in pipes:
        writer.close()  # else the end of a process would not be the end of its pipe
    told = _Told(on_progress)
    _listen(children, [reader for reader, _ in pipes], told)
    return told.result(request)


def check_processes(processes: int) -> None:
    """Raise ConfigError unless so many processes can be started from here."""
    if processes < 1:
        raise ConfigError(f"`processes` is {processes}", "give 1 or more")
    if processes > 1 and expected_processes() > 1:
        raise ConfigError(
            f"this is one of {expected_processes()} processes that a launcher started",
            "leave `processes` out",
        )


class _Told:
    """What the processes have told: at most one result, errors by rank, how each ended.

    Args:
        on_progress: gets the progress of rank 0.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._results: list[RunResult] = []
        self._errors: dict[int, MaskpackError] = {}
        self._stopped = False
        self.lost: tuple[int, str] | None = None

    def take(self, rank: int, kind: str, value: Any) -> None:
        """Take one message."""
        if kind == _PROGRESS:
            self._on_progress(value)
        elif kind == _RECORD:
            logging.getLogger(value.name).handle(value)
        elif kind == _RESULT:
            self._results.append(value)
        elif kind == _STOPPED:
            self._stopped = True
        else:
            self._errors[rank] = value

    def result(self, request: FitRequest) -> RunResult:
        """The result, or the error that ended the run: its cause rather than what followed from it."""
        if self._results:
            return self._results[0]
        own = [e for e in self._errors.values() if not isinstance(e, ProcessLostError)]
        if own:
            raise own[0]
        if self._stopped:
            raise KeyboardInterrupt
        rank, how = self.lost or (min(self._errors, default=0), "ended early")
        raise ProcessLostError(f"process {rank} {how}; all others were stopped", _kept(request))


def _kept(request: FitRequest) -> str:
    """What is left of a run that was cut off."""
    if not any(request.checkpoint_folder.rglob("*.safetensors")):
        return "nothing was written; there was no checkpoint yet"
    return f"the checkpoint is kept in `{request.checkpoint_folder}`: repeat the request with `resume` to go on"


def _listen(children: Any, readers: Sequence[Any], told: _Told) -> None:
    """Take messages until all processes have ended. Ctrl-C is passed on to them, once for each time."""
    ranks = {reader: rank for rank, reader in enumerate(readers)}
    while True:
        try:
            ready: Sequence[Any] = wait(list(ranks), timeout=_POLL_S)
            for reader in ready:
                try:
                    told.take(ranks[reader], *reader.recv())
                except EOFError:
                    del ranks[reader]
            if _ended(children, told) and not ranks:
                return
        except KeyboardInterrupt:
            for process in children.processes:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGINT)


def _ended(children: Any, told: _Told) -> bool:
    """Whether all processes have ended; if one failed, torch ends the others."""
    try:
        return bool(children.join(timeout=_POLL_S if not children.processes else 0.01))
    except ProcessExitedException as error:
        told.lost = told.lost or (
            error.error_index,
            _how(error),
        )  # the first one; torch ended the others
        return True


def _how(error: ProcessExitedException) -> str:
    """How a process ended.

    >>> _how(SimpleNamespace(exit_code=-9, signal_name="SIGKILL"))
    'was ended by SIGKILL (as by a system that is out of memory)'
    >>> _how(SimpleNamespace(exit_code=3, signal_name=None))
    'ended with exit code 3'
    """
    if error.signal_name is None:
        return f"ended with exit code {error.exit_code}"
    memory = " (as by a system that is out of memory)" if error.signal_name == "SIGKILL" else ""
    return f"was ended by {error.signal_name}{memory}"


def _child(rank: int, request: FitRequest, count: int, port: int, writers: Sequence[Any]) -> None:
    """One of the processes."""
    for other, writer in enumerate(writers):
        if other != rank:
            writer.close()
    _set_place(rank, count, port)
    writer, main = writers[rank], rank == 0
    if main:
        _forward_records(writer)
    else:
        logging.disable()
    send: Callable[[Any], None] = (
        (lambda now: writer.send((_PROGRESS, now))) if main else (lambda _: None)
    )
    try:
        result = fit_task(request, on_progress=send)
        if main:
            writer.send((_RESULT, result))
    except KeyboardInterrupt:
        writer.send((_STOPPED, None))
    except MaskpackError as problem:
        if main or not problem.known_to_all:
            writer.send((_ERROR, problem))
    finally:
        writer.close()
        leave_processes()


def _set_place(rank: int, count: int, port: int) -> None:
    """Say to torch and accelerate who this process is, as a launcher does; keep Ctrl-C to the parent."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if (
        sys.platform in _LOOPBACK
    ):  # gloo asks for the address of the host's name, which may have none
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK[sys.platform])
    if hasattr(os, "setsid"):
        os.setsid()  # a terminal sends Ctrl-C to all of a group; here the parent passes it on


def _forward_records(writer: Any) -> None:
    """Send what is logged to the parent, which knows how to show it."""

    class Sent(QueueHandler):
        def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
            return record  # its arguments may be hints, which the parent words

        def enqueue(self, record: logging.LogRecord) -> None:
            writer.send((_RECORD, record))

    root = logging.getLogger()
    root.addHandler(Sent(SimpleNamespace()))
    root.setLevel(logging.INFO)


def _free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
