"""A graph of all tasks for browsers, which feed a task's tensors as inputs.

ONNX Runtime in JavaScript has no adapters, and refuses values for inputs that have a default. So the graph of a web package has no
defaults: what an adapter replaces is an input like the tokens, and `TASK.safetensors` beside it holds its values.
"""

from __future__ import annotations

from pathlib import Path

from maskpack.exporters.session import FedSession
from maskpack.formats.tensorfile import read_tensors
from maskpack.runtime.graph import open_graph


def without_defaults(graph: bytes) -> bytes:
    """A graph whose inputs have no default values."""
    import onnx  # noqa: PLC0415 - other packages are written without it

    model = onnx.load_from_string(graph)
    inputs = {value.name for value in model.graph.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))


def open_fed(graph: Path, feeds: Path) -> FedSession:
    """A session of such a graph that answers as one task."""
    return FedSession(open_graph(graph, threads=1), dict(read_tensors(feeds.read_bytes())[0]))
