"""Adding nodes and constants to a graph, with readable names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.graph.store import kept

MASKS = "masks"
"""Prefix of the names of constants that all modules of a graph share."""


class GraphEditor:
    """Adds nodes before a given node, and constants to the graph.

    Args:
        graph: the graph.
        before: node before which new nodes are inserted.
        name: of the module whose nodes and constants are added.
        use: number of the use, from 0: a layer that is used several times has one set of constants and many nodes.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str, use: int = 0) -> None:
        self.graph = graph
        self.before = before
        self.name = name
        self._nodes = name if use == 0 else f"{name}.use{use}"

    def op(
        self,
        kind: str,
        *inputs: ir.Value,
        label: str,
        outputs: int = 1,
        domain: str = "",
        attributes: Mapping[str, int | str] | None = None,
    ) -> tuple[ir.Value, ...]:
        """Insert `kind(inputs)`; its values are called `<name>.<label>`, `<name>.use1.<label>`, ..."""
        node = ir.node(
            kind, list(inputs), domain=domain, attributes=attributes or {}, num_outputs=outputs
        )
        node.name = f"{self._nodes}.{label}"
        suffixes = [""] if outputs == 1 else [f".{index}" for index in range(outputs)]
        for value, suffix in zip(node.outputs, suffixes, strict=True):
            value.name = f"{node.name}{suffix}"
        self.graph.insert_before(self.before, node)
        return tuple(node.outputs)

    def cast(self, value: ir.Value, to: ir.DataType, *, label: str) -> ir.Value:
        """Insert a `Cast`."""
        (result,) = self.op("Cast", value, label=label, attributes={"to": to})
        return result

    def constant(self, array: NDArray[Any], label: str) -> ir.Value:
        """Add an initialiser `<name>.<label>`, or return the existing one."""
        return self._initializer(array, f"{self.name}.{label}")

    def shared_constant(self, array: NDArray[Any], label: str) -> ir.Value:
        """Add an initialiser `masks.<label>` that all modules use."""
        return self._initializer(array, f"{MASKS}.{label}")

    def shape(self, *dims: int) -> ir.Value:
        """The constant of a shape, shared by all its users."""
        name = "_".join(str(dim) if dim >= 0 else "any" for dim in dims)
        return self.shared_constant(np.array(dims, dtype=np.int64), f"shape_{name}")

    def _initializer(self, array: NDArray[Any], name: str) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = kept(self.graph, array, name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
        )
        self.graph.register_initializer(value)
        return value
