"""A graph in ONNX Runtime: one way to open it, for answers, verdicts and timings alike."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from maskpack.formats.errors import ExportError

OLDEST = (1, 17)
"""The first ONNX Runtime that runs every exported graph."""

_ERRORS = 3  # ONNX Runtime's severity `error`: its warnings are about graph style


def open_graph(model: Path | bytes, *, threads: int) -> Any:
    """A CPU session with default optimisation; ONNX Runtime's own errors.

    Args:
        model: a file or a serialised graph.
        threads: of one operator; 0 leaves the choice to the runtime.
    """
    source = str(model) if isinstance(model, Path) else model
    options = session_options(threads=threads)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def session_options(*, threads: int) -> Any:
    """What all sessions have in common."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    return options


@dataclass(frozen=True, eq=False)
class TaskRun:
    """Options of runs as one task.

    Attributes:
        options: for `run`.
        adapter: must live as long as they are used; the options point to it and do not keep it.
    """

    options: Any = None
    adapter: Any = None


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


def first_line(error: Exception) -> str:
    """First line of a runtime error; the runtime's errors share no public base class."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def give_back() -> None:
    """Return freed memory to the system: making a session frees as much as the graph is large."""
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:
        trim(0)
