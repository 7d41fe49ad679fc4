"""Graph rewrites by parameter name: float linears and embeddings to masked integer ones.

Each pass takes a model and returns it with word of whether anything changed, and checks afterwards
that it found every parameter it was given: a renamed weight is an error, not a float leftover.

    linear     x -> MatMul(Transpose(W)) -> Add(b)      or Gemm(x, W, b, transB=1)
    int8       x [-> Mul] -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x_scale * w_scale) -> Add(b)
    fp32       Cast(codes) -> Mul(scales) -> Reshape = W;  x -> MatMul(W) -> Add(b)
    embedding  ids -> Gather(codes) -> Cast -> Mul(Gather(scales))

The int8 form is the one ONNX Runtime fuses into its fast kernel from version 1.17 on; a zero point
for the weights would slow it down. The fp32 form folds to a float matrix when a session is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from maskpack.exporters.calibrate import Divisors
from maskpack.exporters.flips import emit_mask
from maskpack.exporters.trace import PREFIX
from maskpack.exporters.weights import channel_weights, group_weights
from maskpack.formats import ExportError, QuantTensor


class GraphEditor:
    """Adds nodes before a given node, and constants to the graph, with readable names.

    Args:
        graph: what is edited.
        before: where new nodes go.
        name: of the module whose nodes and constants are added.
        use: which use of it, from 0: a layer that is shared has one set of constants and many nodes.
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
        attributes: Mapping[str, int] | None = None,
    ) -> tuple[ir.Value, ...]:
        """Insert `kind(inputs)`; its values are called `<name>.<label>`, `<name>.use1.<label>`, ..."""
        node = ir.node(kind, list(inputs), attributes=attributes or {}, num_outputs=outputs)
        node.name = f"{self._nodes}.{label}"
        suffixes = [""] if outputs == 1 else [f".{place}" for place in range(outputs)]
        for value, suffix in zip(node.outputs, suffixes, strict=True):
            value.name = f"{node.name}{suffix}"
        self.graph.insert_before(self.before, node)
        return tuple(node.outputs)

    def constant(self, array: NDArray[Any], label: str) -> ir.Value:
        """Add an initialiser `<name>.<label>`; one of that name is used again."""
        return self._initializer(array, f"{self.name}.{label}")

    def shared_constant(self, array: NDArray[Any], label: str) -> ir.Value:
        """Add an initialiser `masks.<label>` that all modules use."""
        return self._initializer(array, f"masks.{label}")

    def _initializer(self, array: NDArray[Any], name: str) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(
            name=name,
            const_value=tensor,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
        )
        self.graph.register_initializer(value)
        return value


@dataclass
class Shared:
    """What the linears of one graph share.

    Attributes:
        divisors: parameter name -> what its input channels are divided by, see `calibrate.py`.
        removed: parameter name -> positions `(o, i)` to remove inside the graph, see `flips.py`.
        quantized: activations that are quantised already: value and bytes of its divisor -> (codes,
            scale, zero point). Linears with one input differ in divisors where one reads others too.
    """

    divisors: Divisors = field(default_factory=dict)
    removed: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    quantized: dict[tuple[ir.Value, bytes], tuple[ir.Value, ...]] = field(default_factory=dict)

    def mask(self, editor: GraphEditor, codes: ir.Value) -> ir.Value:
        """Transposed codes `(i, o)` or `(g, group, o)` with what is to be removed removed."""
        removed = self.removed.get(f"{editor.name}.weight")
        if removed is None:
            return codes
        assert codes.shape is not None
        return emit_mask(
            editor, codes, np.ascontiguousarray(removed.T).reshape(codes.shape.numpy())
        )


EmitLinear = Callable[[GraphEditor, ir.Value, QuantTensor, Shared], ir.Value]
"""Emits `x @ W.T` without bias before a node and returns its value."""


def emit_int8(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, shared: Shared
) -> ir.Value:
    """Integer arithmetic: activations are quantised on the fly, once for all that read them."""
    divisor = shared.divisors.get(f"{editor.name}.weight")
    weights = channel_weights(tensor, divisor)
    key = (inputs, b"" if divisor is None else divisor.tobytes())
    if key not in shared.quantized:
        even = inputs
        if divisor is not None:
            factor = editor.constant(np.float32(1) / divisor, "factor")
            (even,) = editor.op("Mul", inputs, factor, label="even")
        shared.quantized[key] = editor.op("DynamicQuantizeLinear", even, label="input", outputs=3)
    codes, scale, zero = shared.quantized[key]
    matrix = shared.mask(editor, editor.constant(weights.codes, "codes"))
    (product,) = editor.op("MatMulInteger", codes, matrix, zero, label="product")
    (wide,) = editor.op("Cast", product, label="wide", attributes={"to": ir.DataType.FLOAT})
    (scales,) = editor.op("Mul", scale, editor.constant(weights.scales, "scales"), label="scale")
    (result,) = editor.op("Mul", wide, scales, label="linear")
    return result


def emit_fp32(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, shared: Shared
) -> ir.Value:
    """Float arithmetic on weights that are stored as integers and widened when a session is made."""
    weights = group_weights(tensor)
    if weights is None:  # uneven groups: no shape to broadcast over
        gone = shared.removed.get(f"{editor.name}.weight", np.False_)
        matrix = editor.constant(np.where(gone, np.float32(0), tensor.dequantize()).T, "weight")
    else:
        codes = shared.mask(editor, editor.constant(weights.codes, "codes"))
        (wide,) = editor.op("Cast", codes, label="wide", attributes={"to": ir.DataType.FLOAT})
        (scaled,) = editor.op(
            "Mul", wide, editor.constant(weights.scales, "scales"), label="scaled"
        )
        shape = editor.constant(np.array(tensor.shape[::-1], dtype=np.int64), "shape")
        (matrix,) = editor.op("Reshape", scaled, shape, label="weight")
    (result,) = editor.op("MatMul", inputs, matrix, label="linear")
    return result


class MaskLinears(InPlacePass):
    """Replace the product of every masked linear; its bias stays an `Add`."""

    def __init__(
        self,
        linears: Mapping[str, QuantTensor],
        emit: EmitLinear,
        divisors: Divisors | None = None,
        removed: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        super().__init__()
        self.divisors, self.removed = divisors or {}, removed or {}
        self.linears = linears
        self.emit = emit

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every linear.

        Raises:
            ExportError: a linear is not in the graph in one of the two known forms.
        """
        graph, shared = model.graph, Shared(self.divisors, self.removed)
        for name, tensor in self.linears.items():
            weight = _parameter(graph, name)
            products = [product for use in weight.consumers() for product in _products_of(use)]
            if not products:
                raise ExportError(f"`{name}` is not used as a linear in the traced graph")
            for place, product in enumerate(products):
                editor = GraphEditor(graph, product, name.removesuffix(".weight"), place)
                inputs = product.inputs[0]
                assert inputs is not None
                result = self.emit(editor, inputs, tensor, shared)
                if product.op_type == "Gemm" and len(product.inputs) == 3:
                    bias = product.inputs[2]
                    assert bias is not None
                    (result,) = editor.op("Add", result, bias, label="biased")
                _replace(graph, product, result)
            if list(weight.consumers()):
                raise ExportError(f"`{name}` is not used as a linear only in the traced graph")
            _drop_parameter(graph, weight)
        return PassResult(model, modified=bool(self.linears))


class QuantizeEmbeddings(InPlacePass):
    """Look up 8-bit rows and widen only those: `Gather -> Cast -> Mul`.

    A table that is read as a whole, as one of relative positions, is widened when a session is made.
    """

    def __init__(self, tables: Mapping[str, QuantTensor]) -> None:
        super().__init__()
        self.tables = tables

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every use of every table."""
        graph = model.graph
        for name, tensor in self.tables.items():
            table = _parameter(graph, name)
            for use, (reader, place) in enumerate(list(table.uses())):
                editor = GraphEditor(graph, reader, name.removesuffix(".weight"), use)
                if reader.op_type == "Gather":
                    _replace(graph, reader, _embedding(editor, tensor, reader.inputs[1]))
                else:
                    reader.replace_input_with(place, _embedding(editor, tensor, None))
            _drop_parameter(graph, table)
        return PassResult(model, modified=bool(self.tables))


def _embedding(editor: GraphEditor, tensor: QuantTensor, ids: ir.Value | None) -> ir.Value:
    """Rows of a table in float32: those of `ids`, or all."""
    codes = editor.constant(tensor.codes, "codes")
    scales = editor.constant(tensor.scales.astype(np.float32), "scales")
    if ids is not None:
        (codes,) = editor.op("Gather", codes, ids, label="row")
        (scales,) = editor.op("Gather", scales, ids, label="scale")
    (wide,) = editor.op("Cast", codes, label="wide", attributes={"to": ir.DataType.FLOAT})
    (result,) = editor.op("Mul", wide, scales, label="embedding")
    return result


def _parameter(graph: ir.Graph, name: str) -> ir.Value:
    """The initialiser that the tracer made of a parameter."""
    try:
        return graph.initializers[f"{PREFIX}{name}"]
    except KeyError:
        raise ExportError(f"the traced graph does not hold the parameter `{name}`") from None


def _products_of(use: ir.Node) -> list[ir.Node]:
    """The matrix products behind one use of a weight: `Gemm`, or `MatMul`s after a `Transpose`."""
    if use.op_type == "Gemm":
        transposed = use.attributes.get("transB")
        return [use] if transposed is not None and transposed.as_int() == 1 else []
    if use.op_type != "Transpose":
        return []
    return [user for user in use.outputs[0].consumers() if user.op_type == "MatMul"]


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Let everything that read `node` read `result`, and remove it with what only it used."""
    sources = [value.producer() for value in node.inputs if value is not None]
    node.outputs[0].replace_all_uses_with(result)
    graph.remove(node, safe=True)
    for source in sources:
        if source is None or source.op_type != "Transpose":
            continue
        if not any(value.consumers() for value in source.outputs):
            graph.remove(source, safe=True)


def _drop_parameter(graph: ir.Graph, value: ir.Value) -> None:
    assert not list(value.consumers()), value.name
    assert value.name is not None
    del graph.initializers[value.name]
