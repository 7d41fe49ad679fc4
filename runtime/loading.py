"""Graphs of exported tasks: their files are checked before ONNX Runtime opens them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import ExportError, first_line
from maskpack.formats.tensorfile import read_tensors
from maskpack.runtime.graph import (
    TaskRun,
    check_external,
    check_version,
    give_back,
    knows_adapters,
    open_graph,
    task_run,
)
from maskpack.runtime.providers import Provider
from maskpack.runtime.task import AGAIN, FEEDS_SUFFIX, TaskConfig, TaskFiles
from maskpack.runtime.trunk import OnTrunk


def load_graph(
    place: TaskFiles,
    config: TaskConfig,
    *,
    threads: int,
    providers: Sequence[Provider] = (),
    trunk: Any = None,
    exact: bool = True,
) -> Any:
    """A task's graph in ONNX Runtime, with the trunk that it stands on; arguments as of `open_graph`.

    Args:
        place: its files.
        config: its configuration.
        threads: of one operator.
        providers: where it runs.
        trunk: a session of its trunk; None: one is made, if it has one.
        exact: as of `open_graph`.

    Raises:
        ExportError: it is damaged, it names other weights than its configuration or those beside it are not
            those it was made for, or ONNX Runtime is too old.
    """
    check_task(place, config)
    graph = _opened(place.graph, threads, providers, exact=exact)
    if place.trunk is not None:
        below = trunk or _opened(place.trunk, threads, providers, exact=exact)
        graph = OnTrunk(below, graph)
    give_back()
    return graph


def _opened(path: Path, threads: int, providers: Sequence[Provider], *, exact: bool) -> Any:
    try:
        return open_graph(path, threads=threads, providers=providers, exact=exact)
    except Exception as error:
        raise ExportError(f"cannot load `{path}`: {first_line(error)}", AGAIN) from error


def check_task(place: TaskFiles, config: TaskConfig) -> None:
    """Raise ExportError if a task's files do not belong together, or the runtime is too old for them."""
    check_version()
    if (place.adapter is None) != (config.swap is None) or (place.trunk is None) != (
        config.trunk is None
    ):
        raise ExportError(f"`{place.config}` is not the configuration of `{place.graph}`", AGAIN)
    if config.weights is not None:
        _check(place.weights, config.weights[1], place.graph.name)
    if config.swap is not None:
        _check(place.graph, config.swap.graph, config.name)
    if place.trunk is not None and config.trunk is not None:
        _check(place.trunk, config.trunk, config.name)
    check_external(place, config)


def load_inputs(place: TaskFiles, config: TaskConfig) -> TaskRun:
    """What a task feeds a graph that it shares: an adapter where the runtime knows them.

    Raises:
        ExportError: it is damaged, or not the one that was made for this graph.
    """
    if place.adapter is None or config.swap is None:
        return TaskRun()
    if not knows_adapters():
        feeds = place.adapter.with_suffix(FEEDS_SUFFIX)
        _check(feeds, config.swap.feeds, config.name)
        return TaskRun(feeds=dict(read_tensors(feeds.read_bytes())[0]))
    _check(place.adapter, config.swap.adapter, config.name)
    try:
        return task_run(place.adapter)
    except Exception as error:
        raise ExportError(f"cannot load `{place.adapter}`: {first_line(error)}", AGAIN) from error


def _check(path: Path, digest: str, owner: str) -> None:
    """Raise ExportError unless a file has the digest that is told of it."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ExportError(f"cannot read `{path}`: {error.strerror}", AGAIN) from error
    if found != digest:
        raise ExportError(
            f"`{path}` is not what `{owner}` was made for: its SHA-256 is "
            f"{found[:12]}, expected {digest[:12]}",
            AGAIN,
        )
