"""A self-contained graph for each task: the mask is applied to the codes when the graph is written.

OUT/model.onnx            the graph, without the rows and columns of removed units
OUT/model.onnx_data       its weights, if they take more than 512 MiB
OUT/config.json, ...      what transformers and Optimum read
OUT/task.json             configuration for `maskpack.runtime`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from maskpack.exporters.graph.builder import GraphBuilder, write_model
from maskpack.exporters.layouts.base import GraphLayout, TaskGraph
from maskpack.formats import TaskEntry
from maskpack.runtime.task import GRAPH, TASK_CONFIG


def write_folded(
    builder: GraphBuilder, entries: Sequence[TaskEntry], folder: Path
) -> Iterator[TaskGraph]:
    """Write the graph of the only task."""
    (entry,) = entries
    weights = write_model(builder.folded(entry), folder / GRAPH)
    yield TaskGraph(entry, folder / GRAPH, folder / TASK_CONFIG, weights)


FOLDED = GraphLayout("folded", write_folded, several=False)
