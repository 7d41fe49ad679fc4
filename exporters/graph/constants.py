"""What a graph computes from its initialisers alone, as arrays: ONNX Runtime does the computing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from maskpack.exporters.session import make_session


class Constants:
    """The constant values of a graph.

    Args:
        model: with its weights inside; initialisers count as constants even where an input may
            replace them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers: dict[str, onnx.NodeProto] = {}
        known = set(self._stored)
        for node in model.graph.node:  # in topological order, as the standard demands
            plain = not any(item.HasField("g") or item.graphs for item in node.attribute)
            if plain and known.issuperset(name for name in node.input if name):
                known.update(node.output)
                self._makers.update(dict.fromkeys(node.output, node))

    def __contains__(self, name: str | None) -> bool:
        return name in self._stored or name in self._makers

    def is_stored(self, name: str | None) -> bool:
        """Whether the value is an initialiser, nothing to compute."""
        return name in self._stored

    def read(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Values by name, computed together.

        Raises:
            KeyError: one of them is not constant.
            ExportError: ONNX Runtime refuses to compute.
        """
        wanted = list(dict.fromkeys(names))
        found = {
            name: onnx.numpy_helper.to_array(self._stored[name])
            for name in wanted
            if name in self._stored
        }
        computed = [name for name in wanted if name not in found]
        if computed:
            session = make_session(self._part(computed).SerializeToString(), threads=1)
            found.update(zip(computed, session.run(None, {}), strict=True))
        return {name: np.asarray(found[name]) for name in wanted}

    def _part(self, names: list[str]) -> onnx.ModelProto:
        """The graph without inputs that makes these values."""
        needed, open_names = set(), list(names)
        while open_names:
            name = open_names.pop()
            if name and name not in needed:
                needed.add(name)
                if name not in self._stored:
                    open_names.extend(self._makers[name].input)
        nodes = [node for node in self._model.graph.node if needed.intersection(node.output)]
        part = onnx.helper.make_graph(
            nodes,
            "constants",
            inputs=[],
            outputs=[onnx.helper.make_empty_tensor_value_info(name) for name in names],
            initializer=[tensor for name, tensor in self._stored.items() if name in needed],
        )
        return onnx.helper.make_model(
            part, ir_version=self._model.ir_version, opset_imports=self._model.opset_import
        )
