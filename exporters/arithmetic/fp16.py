"""Float arithmetic in half precision, for GPUs and WebGPU: weights and activations are float16.

    W = codes * scales, masked, rounded once to float16;  x -> MatMul(W) -> Add(b)

Squares and their means (RMS norms), angles of positions, and the last product stay float32: a square passes float16's 65504
from 256 on, whole numbers end at 2048, and the last matrix may hold the scale of a target. Constants that only mask (-3.4e38) become -10000: two of them added are still no
infinity, which would make NaN of a row that is masked whole. Inputs stay int64, or float32 of pixels, the output stays float32.

ONNX Runtime computes such a graph on a CPU too, most of it through casts to float32: verified, but slower there.

ONNX Runtime's own converter (`onnxruntime.transformers.float16`, 1.31) is not used: two float32 nodes with one float16
input make it declare a value twice, and between two float32 nodes it rounds to float16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult, Sequential, common

from maskpack.exporters.arithmetic.base import Arithmetic, Read, Tolerance, own_codes, stored_codes
from maskpack.exporters.graph.dequantize import Constants, ConstantsPass, DequantizeLookUps
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import PlainResiduals, RewriteContext
from maskpack.exporters.graph.store import kept, reread, scratch_of
from maskpack.formats import ExportError, QuantTensor
from maskpack.formats.errors import Hint, first_line

_MOST = 65504.0  # the largest float16
_LARGEST = 1e4  # what stands for a constant beyond it, such as that of a mask
_FLOAT_ONLY = {"Range", "CumSum", "TopK", "NonZero", "OneHot"}
_SQUARES = {"Pow", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"}
_OF_SQUARES = {"Sqrt", "Reciprocal", "Add", "Div", "Pow"}  # what stands behind them in a norm
_LAST = {
    "Add",
    "Mul",
    "Identity",
    "Reshape",
    "Squeeze",
    "Gather",
    "Slice",
}  # may stand behind the last product


def emit_fp16(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """A product with the masked weights, which are constants in float16."""
    codes = np.ascontiguousarray(tensor.codes.T)
    known = context.masks.known(editor.name, codes)
    assert known is not None  # `SharedRequest` refuses masks beside the codes
    weight = known * context.masks.kept(editor.name).of(tensor.expanded_scales().T)
    stored = editor.constant(weight.astype(np.float16), "weight")
    (result,) = editor.op("MatMul", inputs, stored, label="linear")
    return result


def weights_as_codes(read: Read, module: str, tensor: QuantTensor) -> NDArray[np.int8] | None:
    """1 for a weight that is not zero, flat; in them the zeros of a mask are counted."""
    weight = read(f"{module}.weight")
    if weight is None:
        return stored_codes(read, module, tensor)
    return np.asarray(weight.reshape(-1) != 0, dtype=np.int8)


def same_halves(
    read: Read, module: str, stored: NDArray[np.int8], tensor: QuantTensor
) -> NDArray[np.bool_]:
    """Where the weights of a module are the tensor's, rounded once."""
    weight = read(f"{module}.weight")
    if weight is None:
        return own_codes(read, module, stored, tensor)
    return np.asarray(weight == tensor.dequantize().T.astype(np.float16))


def to_half(model: ir.Model) -> ir.Model:
    """A float32 graph with float16 weights of its linears as a float16 graph.

    Raises:
        ExportError: the graph passes protobuf's 2 GB.
    """
    scratch = scratch_of(model.graph)
    folder = "" if scratch is None else str(scratch.folder)
    try:
        constants = Constants(ir.serde.serialize_model(model), folder)
        plain = Sequential(DequantizeLookUps(constants), PlainResiduals(), _unused())(model).model
        typed = onnx.shape_inference.infer_shapes(ir.serde.serialize_model(plain))
    except ValueError as error:
        raise ExportError(
            f"the graph cannot be made float16 in one piece: {first_line(error)}",
            Hint("export it in the `shared` layout, whose weights lie in a file of their own"),
        ) from error
    return Sequential(_Halve(), _unused())(reread(typed, scratch)).model


def _unused() -> InPlacePass:
    return common.RemoveUnusedNodesPass()


class _Halve(InPlacePass):
    """Turn every float32 value of a graph with known types to float16, but for those of some nodes."""

    def call(self, model: ir.Model) -> PassResult:
        """Convert constants and nodes in their order; casts stand where the two types meet."""
        graph = model.graph
        wide = {*_squares(graph), *_last(graph), *_positions(graph), *_float_only(graph)}
        floats = {value for value in _values(graph) if value.dtype == ir.DataType.FLOAT}
        for stored in graph.initializers.values():
            if stored in floats and not wide.issuperset(stored.consumers()):
                assert stored.const_value is not None
                half = _halved(stored.const_value)
                stored.const_value = kept(graph, half, str(stored.name))
                stored.type = ir.TensorType(ir.DataType.FLOAT16)
        casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in list(graph):
            kind = ir.DataType.FLOAT if node in wide else ir.DataType.FLOAT16
            for slot, value in enumerate(node.inputs):
                if value in floats and value is not None and value.dtype != kind:
                    if (value, kind) not in casts:
                        casts[value, kind] = _cast(graph, node, value, kind)
                    node.replace_input_with(slot, casts[value, kind])
            if node not in wide:
                _halve_attributes(node)
                for made in floats.intersection(node.outputs):
                    listed = isinstance(made.type, ir.SequenceType)
                    one = ir.TensorType(kind)
                    made.type = ir.SequenceType(one) if listed else one
        return PassResult(model, modified=bool(floats))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, kind: ir.DataType) -> ir.Value:
    """A value in the other type, for all its readers from this node on."""
    editor = GraphEditor(graph, before, str(value.name))
    made = editor.cast(value, kind, label=f"as_{kind.name.lower()}")
    made.type, made.shape = ir.TensorType(kind), value.shape
    return made


def _halved(tensor: ir.TensorProtocol) -> NDArray[np.float16]:
    """A constant in float16; finite values stay finite."""
    array = tensor.numpy()
    beyond = np.isfinite(array) & (np.abs(array) > _MOST)
    fitting = np.where(beyond, np.sign(array) * _LARGEST, array)
    return np.asarray(fitting.astype(np.float16))


def _halve_attributes(node: ir.Node) -> None:
    """Let a node that makes float32 make float16: a cast, and a constant in an attribute."""
    if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        zero = ir.tensor(np.zeros(1, dtype=np.float32))
        node.attributes["value"] = ir.AttrTensor("value", zero)
    for name in {"value_float", "value_floats"}.intersection(node.attributes):
        numbers = np.array(node.attributes.pop(name).value, dtype=np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrTensor(
                    name, ir.tensor(_halved(tensor), name=tensor.name)
                )


def _float_only(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes of operators that have no float16 form in ONNX Runtime."""
    return (node for node in graph if node.op_type in _FLOAT_ONLY)


def _squares(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes that compute squares and their means, and the roots of these."""
    found: set[ir.Node] = set()
    for node in graph:
        sources = [value.producer() for value in node.inputs if value is not None]
        behind = any(source in found for source in sources)
        if node.op_type in _SQUARES or (behind and node.op_type in _OF_SQUARES):
            found.add(node)
            yield node


def _positions(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes that compute angles of positions, and their sine and cosine: float16 has no whole number above 2048."""
    found: set[ir.Node] = set()
    left = [node for node in graph if node.op_type in {"Cos", "Sin"}]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            yield node
            left += [maker for value in node.inputs if value and (maker := value.producer())]


def _last(graph: ir.Graph) -> Iterator[ir.Node]:
    """The last product, and what stands behind it."""
    node = graph.outputs[0].producer()
    while node is not None:
        yield node
        if node.op_type not in _LAST:
            return
        makers = [value.producer() for value in node.inputs if value is not None]
        node = next((maker for maker in makers if maker is not None), None)


class WidenHalves(ConstantsPass):
    """A float16 graph as a float32 one of the same weights: what a benchmark compares it with."""

    def call(self, model: ir.Model) -> PassResult:
        """Widen every constant, and let every cast to float16 be one to float32."""
        graph, changed = model.graph, False
        for value in graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT16:
                assert value.const_value is not None
                wide = value.const_value.numpy().astype(np.float32)
                value.const_value = ir.tensor(wide, name=value.name)
                value.type, changed = ir.TensorType(ir.DataType.FLOAT), True
        for node in graph if changed else ():
            for value in node.outputs:
                if value.dtype == ir.DataType.FLOAT16:
                    value.type = ir.TensorType(ir.DataType.FLOAT)
            for name, attribute in list(node.attributes.items()):
                if node.op_type == "Cast" and attribute.as_int() == ir.DataType.FLOAT16:
                    node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
                if attribute.type == ir.AttributeType.TENSOR:
                    tensor = attribute.as_tensor()
                    if tensor.dtype == ir.DataType.FLOAT16:
                        wide = tensor.numpy().astype(np.float32)
                        node.attributes[name] = ir.AttrTensor(name, ir.tensor(wide))
        return PassResult(model, modified=changed)


FP16 = Arithmetic(
    name="fp16",
    emit=emit_fp16,
    tolerance=Tolerance(atol=None, max_drop=0.5, rtol=0.02, rows=1),
    stored=onnx.TensorProto.FLOAT16,
    folded_only=True,
    codes=weights_as_codes,
    dequantize=WidenHalves,
    finish=to_half,
    fits=same_halves,
)
