"""Be in a Ray cluster for a while: one that is joined, or one that is started on this machine, without its noise."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

import ray

from maskpack.compressor.sweep.plan import Resources
from maskpack.formats import ConfigError
from maskpack.formats.waiting import announced

_LOG = logging.getLogger(__name__)

_FOLDER = "/tmp" if os.name == "posix" else tempfile.gettempdir()  # noqa: S108 - Ray's own
_CONNECT = 10.0  # seconds; Ray itself tries for minutes
_STORE = 100 << 20  # bytes; no object of a sweep goes through the store


def check_fits(resources: Resources, *, own: bool) -> None:
    """Refuse runs that this machine can never hold; a cluster may grow, there it is a warning."""
    machines = [
        (float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    if any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in machines):
        return
    have = "; ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sorted(set(machines)))
    fact = f"a run asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, no machine has them: {have}"
    if own:
        raise ConfigError(fact, "ask for less with `resources` in the sweep's file")
    _LOG.warning("%s; the sweep waits for one that has", fact)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be in a cluster for a while; in the caller's own, if Ray runs in this process already."""
    if ray.is_initialized():
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGTERM) if in_main else None
    with _quiet():
        try:
            _join(address)
            yield
        finally:
            ray.shutdown()
            if usual is not None:
                signal.signal(signal.SIGTERM, usual)


def _join(address: str | None) -> None:
    """Start Ray in this process.

    Raises:
        ConfigError: there is no such cluster, or it refuses us.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        what = "start Ray on this machine"
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        options |= {"address": "local", "include_dashboard": False, "num_cpus": count}
        options |= {"object_store_memory": _STORE}
    else:
        _check_answers(address)
        what = f"join the Ray cluster at `{address}`"
        options |= {"address": "auto" if _is_here(address) else address}
    try:
        with announced(_LOG, "starting Ray" if address is None else "joining the cluster"):
            ray.init(**options)
    except Exception as error:  # Ray raises bare ones, such as for a machine too slow to start it
        raise _refusal(what, str(error.__cause__ or error), joined=address is not None) from error


def _refusal(what: str, why: str, *, joined: bool) -> ConfigError:
    """The error for what Ray says, which may be pages with a traceback; its last paragraph names the cause."""
    if "InvalidAuthToken" in why or "authentication token" in why:
        return ConfigError(
            f"cannot {what}: it asks for its token",
            "set RAY_AUTH_MODE=token, and put the token of the head's `~/.ray/auth_token` there, or give `auto` on the head",
        )
    *_, last = why.split("\n  File ")
    said = " ".join(last.partition("\n")[2].split() if "\n  File " in why else why.split())
    hint = "run this on a machine of the cluster, after `ray start`" if joined else None
    return ConfigError(f"cannot {what}: {said}", hint)


def _check_answers(address: str) -> None:
    """Raise ConfigError if nobody listens there: Ray itself would try for minutes."""
    hint = "start a cluster with Ray, or give no address for this machine alone"
    if "://" in address:
        raise ConfigError(
            f"`{address}` is no address of a cluster's head",
            "give `host:port` of the head, or `auto`, on a machine of the cluster",
        )
    found = _found() if address == "auto" else address
    if found is None:
        raise ConfigError("no Ray cluster is running on this machine", hint)
    host, _, port = found.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"`{found}` is no address of a cluster", "give it as `host:port`")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at `{found}`: {error.strerror or error}", hint
        ) from error


def _is_here(address: str) -> bool:
    """Whether `auto` stands for it: only then Ray looks for the cluster's token by itself."""
    host, _, port = address.rpartition(":")
    found, _, at = (_found() or "").rpartition(":")
    return port == at and host in {found, "localhost", "127.0.0.1"}


def _found() -> str | None:
    """The address that `auto` stands for, as Ray looks for it."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    folder = Path(os.environ.get("RAY_TMPDIR", _FOLDER))
    with suppress(OSError):
        return (folder / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is reported to Ray's makers; its words go to the log, not to stdout."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(cast("TextIO", _WithoutRay(sys.stdout))):
            yield
    finally:
        logger.setLevel(level)


class _WithoutRay:
    """A stream but for what Ray's threads write: they print to stdout what happens to workers."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not threading.current_thread().name.startswith("ray_"):
            return self._stream.write(text)
        if text.strip():
            _LOG.debug("Ray: %s", text.strip())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
