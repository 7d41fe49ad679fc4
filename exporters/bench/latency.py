"""A fine-tuned model's float32 graph against an exported one: what `compress demo` prints."""

from __future__ import annotations

from pathlib import Path

from maskpack.exporters.bench.twin import dense_graph
from maskpack.exporters.session import make_session
from maskpack.exporters.timing import interleaved


def compare_latency(dense: Path, graph: Path, *, length: int, runs: int) -> tuple[float, float]:
    """Milliseconds of a dense model's float32 graph and of an exported graph, batch 1, one thread."""
    sessions = {
        "dense": make_session(dense_graph(str(dense)), threads=1),
        "graph": make_session(graph, threads=1),
    }
    times = interleaved(sessions, batch=1, length=length, runs=runs)
    return times["dense"], times["graph"]
