"""A graph in ONNX Runtime: one way to open it, for answers, verdicts and timings alike."""

from __future__ import annotations

from dataclasses import dataclass
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


def first_line(error: Exception) -> str:
    """First line of a runtime error; the runtime's errors share no public base class."""
    return (str(error).splitlines() or [type(error).__name__])[0]
