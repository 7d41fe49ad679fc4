"""One way to make an ONNX Runtime session, so that every figure has the same settings behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from maskpack.exporters.timing import Feeds
from maskpack.formats import ExportError
from maskpack.runtime.graph import TaskRun, check_version, first_line, open_graph, task_run
from maskpack.runtime.task import ADAPTER_SUFFIX, BASE


class AdaptedSession:
    """A graph of all tasks whose every run is one task's; otherwise a session.

    Args:
        session: of the graph.
        task: options of its runs.
    """

    def __init__(self, session: Any, task: TaskRun) -> None:
        self._session, self._task = session, task

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> Any:
        """As `InferenceSession.run`."""
        return self._session.run(names, feeds, self._task.options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def make_session(model: Path | bytes, *, threads: int = 0) -> Any:
    """A CPU session with default optimisation.

    Args:
        model: a file or a serialised graph; or an adapter beside the graph that it belongs to.
        threads: of one operator; 0 leaves the choice to the runtime.

    Raises:
        ExportError: the runtime is too old, or refuses the graph.
    """
    check_version()
    try:
        if isinstance(model, Path) and model.suffix == ADAPTER_SUFFIX:
            graph = open_graph(model.with_name(BASE), threads=threads)
            return AdaptedSession(graph, task_run(model))
        return open_graph(model, threads=threads)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the graph: {first_line(error)}"
        ) from error


def session_facts(session: Any) -> dict[str, str]:
    """What a report must say about the session behind its figures."""
    options = session.get_session_options()
    return {
        "onnxruntime": onnxruntime.__version__,
        "providers": ", ".join(session.get_providers()),
        "graph_optimization_level": str(options.graph_optimization_level).rsplit(".", 1)[-1],
        "intra_op_num_threads": str(options.intra_op_num_threads),
    }


def ort_predict(session: Any) -> Callable[[Feeds], NDArray[np.float32]]:
    """A predictor on arrays around a session, fed with the inputs it names."""
    names = [value.name for value in session.get_inputs()]

    def predict(feeds: Feeds) -> NDArray[np.float32]:
        try:
            run = session.run(["logits"], {name: feeds[name] for name in names})
        except Exception as error:
            shape = feeds[names[0]].shape
            raise ExportError(
                f"the graph fails on an input of {shape}: {first_line(error)}"
            ) from error
        logits: NDArray[np.float32] = run[0]
        return logits

    return predict
