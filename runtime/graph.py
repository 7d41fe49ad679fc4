"""A graph in ONNX Runtime: one way to open it, and what is looked at before ONNX Runtime sees it.

ONNX Runtime would follow a graph to any file that it names. Here the protobuf messages are read first: weights
in a file that the task's configuration does not name, and a link out of the folder, are our errors.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from maskpack.formats.errors import ExportError
from maskpack.formats.processors import Usage, threads_allowed, threads_asked, threads_now
from maskpack.runtime.messages import read_fields
from maskpack.runtime.providers import Provider, find_providers, report_start
from maskpack.runtime.task import AGAIN, TaskConfig, TaskFiles

OLDEST = (1, 17)
"""The first ONNX Runtime that runs every exported graph."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""On x86 without VNNI, sums of two products of int8 overflow 16 bits and are cut off; with this entry they do not, at the price of a quarter of
a product's time. Other processors do not look at it."""

_ERRORS = 3  # ONNX Runtime's severity `error`: its warnings are about graph style


def open_graph(
    model: Path | bytes,
    *,
    threads: int,
    providers: Sequence[Provider] = (),
    exact: bool = True,
) -> Any:
    """A session with default optimisation; ONNX Runtime's own errors.

    Args:
        model: a file or a serialised graph.
        threads: of one operator; 0: as many as `OMP_NUM_THREADS` says or this process may use, which the runtime chooses where
            it may use all.
        providers: where it runs, as `find_providers` takes them.
        exact: whether products of int8 may not overflow, see `EXACT_PRODUCTS`; an `.ort` file has the kernels that it was made with.
    """
    source = str(model) if isinstance(model, Path) else model
    options, wanted = session_options(threads=threads), find_providers(providers)
    if exact:
        options.add_session_config_entry(*EXACT_PRODUCTS)
    try:
        session = onnxruntime.InferenceSession(
            source,
            options,
            providers=wanted,
            enable_fallback=False,  # it would print to stdout and hide why a provider failed
        )
    except Exception:
        if not exact:
            raise
        # ONNX Runtime 1.31 cannot convert weights that several nodes read, as those of ALBERT and some of DeBERTa
        return open_graph(model, threads=threads, providers=providers, exact=False)
    report_start(wanted, session.get_providers())
    return session


def session_options(*, threads: int) -> Any:
    """What all sessions have in common."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or threads_asked() or threads_allowed()
    options.log_severity_level = _ERRORS
    return options


def suitable_threads(asked: int, before: Usage) -> int:
    """Threads of an operator where the machine may be busy; 0: as many as this process may use, for `session_options`.

    Args:
        asked: by the caller, which counts; 0: not at all.
        before: of `usage_now`, a moment ago.
    """
    said = asked or threads_asked()
    if said:
        return said
    found = threads_now(before)
    return found.count if found.lowered else 0


@dataclass(frozen=True, eq=False)
class TaskRun:
    """What makes the runs of a graph of all tasks one task's; nothing where the graph is its own.

    Attributes:
        options: for `run`.
        adapter: must live as long as they are used; the options point to it and do not keep it.
        feeds: the same as plain inputs, where the runtime knows no adapters.
    """

    options: Any = None
    adapter: Any = None
    feeds: Mapping[str, Any] = field(default_factory=dict)


def task_run(adapter: Path) -> TaskRun:
    """Runs with an adapter; ONNX Runtime's own errors, from 1.20 on."""
    loaded, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    loaded.Load(str(adapter))
    options.add_active_adapter(loaded)
    return TaskRun(options, loaded)


def knows_adapters() -> bool:
    """Whether the runtime is young enough for adapters: 1.20 and later."""
    return hasattr(onnxruntime, "LoraAdapter")


def check_version() -> None:
    """Raise ExportError if this ONNX Runtime is too old for exported graphs."""
    found = onnxruntime.__version__  # such as `1.31.1` or `1.32.0.dev2026`
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST:
        raise ExportError(
            f"ONNX Runtime {found} is too old, exported graphs run from {shown(OLDEST)} on",
            "install a newer one: `pip install -U onnxruntime`",
        )


def shown(version: tuple[int, ...]) -> str:
    """A version as people write it.

    >>> shown((1, 17))
    '1.17'
    """
    return ".".join(map(str, version))


def give_back() -> None:
    """Return freed memory to the system: making a session frees as much as the graph is large."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)  # of glibc


_WITHIN = {  # message -> number of a field -> message in it; numbers from onnx.proto
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64  # messages in one another; our graphs need 5


def check_external(place: TaskFiles, config: TaskConfig) -> None:
    """Raise ExportError if a graph wants other files than the weights that its configuration names.

    Nor may these be a link out of the folder, unless the graph is one to the same place, as in the hub's
    cache: ONNX Runtime 1.31 refuses such links, older releases follow them.
    """
    for graph in (place.graph, *(() if place.trunk is None else (place.trunk,))):
        _check_weights(graph, place.weights, config)


def _check_weights(graph: Path, weights: Path, config: TaskConfig) -> None:
    try:
        named = external_files(graph)
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot load `{graph}`: {error}", AGAIN) from error
    allowed = set() if config.weights is None else {config.weights[0]}
    if named - allowed:
        known = f"only `{min(allowed)}`" if allowed else "no such file"
        raise ExportError(
            f"`{graph}` has weights in `{min(named - allowed)}`, its configuration names {known}",
            AGAIN,
        )
    homes = (graph.parent.resolve(), graph.resolve().parent)
    if named and not any(weights.resolve().is_relative_to(home) for home in homes):
        raise ExportError(
            f"`{weights}` is a link out of its folder, to `{weights.resolve()}`",
            "put the file itself there, or a hard link",
        )


def external_files(graph: Path) -> set[str]:
    """Names of the files that hold tensors of an ONNX graph, as the graph spells them.

    Raises:
        ValueError: the file is not a protobuf message.
        OSError: it cannot be read.
    """
    with graph.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return set(_locations(data, "model", 0))


def _locations(data: memoryview, kind: str, depth: int) -> Iterator[str]:
    """Values of `location` in the external data of every tensor inside a message."""
    if depth > _DEEPEST:
        raise ValueError(f"messages are nested more than {_DEEPEST} deep")
    for one in read_fields(data):
        within, inner = _WITHIN[kind].get(one.number), one.value
        if within is None or not isinstance(inner, memoryview):
            continue
        if within == "entry":
            pair = {entry.number: entry.value for entry in read_fields(inner)}
            if bytes(_bytes(pair.get(1))) == b"location":
                yield bytes(_bytes(pair.get(2))).decode()
        else:
            yield from _locations(inner, within, depth + 1)


def _bytes(value: memoryview | int | None) -> memoryview:
    return value if isinstance(value, memoryview) else memoryview(b"")
