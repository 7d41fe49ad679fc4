"""Several tasks over one file of weights: `backbone.bin` and a small graph a task.

    OUT/backbone.bin          everything of the encoder that tasks share, page-aligned
    OUT/<task>.onnx           masks as flips or bits, the head, and what else is the task's own
    OUT/<task>.json           configuration for `maskpack.runtime`, with the digest of backbone.bin
    OUT/tokenizer.json, ...   of all tasks

A graph of a task with removed units lists the rows and columns that are left; they are looked up in
`backbone.bin` when a session is made, so that its weights in memory are as small as those of a folded graph.

Shared tensors are found by comparison with a graph whose task changes nothing:
constants of a task's graph with the same name and bytes are stored in `backbone.bin` only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.graph.builder import GraphBuilder, write_graph
from maskpack.exporters.graph.external_masks import smaller_form
from maskpack.exporters.graph.trace import PREFIX
from maskpack.exporters.layouts.base import GraphLayout, TaskGraph
from maskpack.formats import TaskEntry
from maskpack.formats.tensorfile import Buffer
from maskpack.formats.writer import write_pieces
from maskpack.runtime.task import WEIGHTS

_PAGE = 4096
_WORTH_IT = 1024  # bytes from which a tensor goes into the shared file

Arrays = dict[str, NDArray[Any]]


class SharedBackbone:
    """The weights that all graphs of an export share.

    Args:
        builder: makes the graphs.
        bare: constants of the graph without a task, by name; None: they are made.

    Attributes:
        bare: these constants.
        weights: name and SHA-256 of `backbone.bin`.
    """

    def __init__(self, builder: GraphBuilder, bare: Arrays | None = None) -> None:
        prefixes = (f"{builder.base}.", f"{PREFIX}{builder.base}.")
        self.bare = arrays_of(builder.bare()) if bare is None else bare
        self._arrays = {
            name: array
            for name, array in sorted(self.bare.items())
            if name.startswith(prefixes) and name not in builder.heads and array.nbytes >= _WORTH_IT
        }
        self._places: dict[str, int] = {}
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        self.weights = WEIGHTS, digest.hexdigest()

    def _pieces(self) -> Iterator[Buffer]:
        """Each tensor on a page of its own, one after the other."""
        end = 0
        for name, array in self._arrays.items():
            yield bytes(-end % _PAGE)
            self._places[name] = start = end + -end % _PAGE
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            end = start + array.nbytes

    def write(self, folder: Path) -> None:
        """Write `backbone.bin`."""
        write_pieces(folder / WEIGHTS, self._pieces())

    def point(self, model: ir.Model) -> ir.Model:
        """Replace the shared constants of a graph by references into `backbone.bin`."""
        for name, value in model.graph.initializers.items():
            assert value.const_value is not None
            array = value.const_value.numpy()
            shared = self._arrays.get(name)
            if shared is not None and same_array(shared, array):
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    self._places[name],
                    array.nbytes,
                    value.const_value.dtype,
                    shape=ir.Shape(array.shape),
                    name=name,
                )
        _shorten(model.graph)
        return model


def write_shared(
    builder: GraphBuilder, entries: Sequence[TaskEntry], folder: Path
) -> Iterator[TaskGraph]:
    """Write backbone.bin, and a graph for each task beside it."""
    backbone = SharedBackbone(builder)
    backbone.write(folder)
    for entry in entries:
        shrunk = builder.shrunk(entry)
        removed = builder.removed(entry, shrunk)
        form = smaller_form(removed, opset=builder.opset)
        model = builder.with_external_masks(entry, removed, form, shrunk)
        path = folder / f"{entry.name}.onnx"
        write_graph(backbone.point(model), path)
        yield TaskGraph(entry, path, path.with_suffix(".json"), backbone.weights)


SHARED = GraphLayout("shared", write_shared)


def _shorten(graph: ir.Graph) -> None:
    """Give values between nodes short names and no shapes, which would be most of a small graph."""
    outputs = set(graph.outputs)
    for index, node in enumerate(graph):
        node.name = None
        for number, value in enumerate(node.outputs):
            if value not in outputs and value.name:
                value.name = f"{index:x}.{number}" if number else f"{index:x}"
                value.shape = value.type = None  # a runtime infers them


def arrays_of(model: ir.Model) -> Arrays:
    """Initialisers of a graph by name."""
    constants = {}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        constants[name] = value.const_value.numpy()
    return constants


def same_array(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether type, shape and bytes agree."""
    kinds = (first.dtype, first.shape) == (second.dtype, second.shape)
    return kinds and first.tobytes() == second.tobytes()
