"""A graph in ONNX Runtime: one way to open it, for answers, verdicts and timings alike."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path
from typing import Any

import onnxruntime

_ERRORS = 3  # ONNX Runtime's severity `error`: its warnings are about graph style


def open_graph(model: Path | bytes, *, threads: int) -> Any:
    """A CPU session with default optimisation; ONNX Runtime's own errors.

    Args:
        model: a file or a serialised graph.
        threads: of one operator; 0 leaves the choice to the runtime.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def first_line(error: Exception) -> str:
    """First line of a runtime error; the runtime's errors share no public base class."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def give_back() -> None:
    """Return freed memory to the system: making a session frees as much as the graph is large."""
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:
        trim(0)
