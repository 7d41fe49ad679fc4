"""Graph passes: float linears and embeddings to masked integers, and forms that ONNX Runtime runs fast.

A pass by parameter name checks that it found every parameter: a renamed
weight is an error, not a float leftover.

    linear     x -> MatMul(Transpose(W)) -> Add(b)      or Gemm(x, W, b, transB=1)
    int8       x [-> Mul] -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x_scale * w_scale) -> Add(b)
    fp32       Cast(codes) -> Mul(scales) -> Reshape = W;  x -> MatMul(W) -> Add(b)
    packed     fields -> Gather(table) [-> Cast -> Mul(ratio) -> Round -> Cast] = codes
    embedding  ids -> Gather(codes) -> Cast -> Mul(Gather(scales)), below 8 bits see `look_ups.py`

The int8 form is the one ONNX Runtime fuses into its fast kernel from version 1.17 on; a zero point
for the weights would slow it down. The fp32 form folds to a float matrix when a session is made.

`ResidualAsSum` and `GeluInFusedOrder` change no value and only help ONNX Runtime's CPU kernels. They
use standard operators only, so that other runtimes run them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.external_masks import FoldedMasks, Masks, Unpack, emit_table
from maskpack.exporters.graph.look_ups import row_look_up, stored_table, whole_table
from maskpack.exporters.graph.store import Scratch
from maskpack.exporters.graph.trace import PREFIX
from maskpack.exporters.graph.units import Shrunk
from maskpack.exporters.graph.weights import Fields, fields_of
from maskpack.formats import ExportError, QuantTensor
from maskpack.formats.channels import Divisors, Rescaling


@dataclass
class RewriteContext:
    """State that the passes over one graph share.

    Attributes:
        masks: how they are masked.
        divisors: parameter name -> divisors of its input channels, see `formats/channels.py`.
        narrow: whether the graph unpacks codes narrower than a byte, if the layout can.
        quantized: activations that are quantised already: value and bytes of its divisor -> (codes,
            scale, zero point). Linears with one input have different divisors if one of them has other inputs too.
        ready: weights in the arithmetic's form, by name of a module that is used several times.
        scratch: file for constants while the graph is made; None: they stay in memory.
        shrunk: what is left of the linears of a task that lost units; None: everything.
    """

    masks: Masks = field(default_factory=lambda: FoldedMasks({}))
    divisors: Divisors = field(default_factory=dict)
    narrow: bool = False
    quantized: dict[tuple[ir.Value, bytes], tuple[ir.Value, ...]] = field(default_factory=dict)
    ready: dict[str, ir.Value] = field(default_factory=dict)
    scratch: Scratch | None = None
    shrunk: Shrunk | None = None

    def unpack(self, tensor: QuantTensor, rescaling: Rescaling | None) -> Unpack | None:
        """Function that emits the codes of a tensor from their packed form; None if they are stored as bytes."""
        fields = fields_of(tensor) if self.narrow else None
        if fields is None:
            return None
        return partial(_emit_unpacked, tensor=tensor, fields=fields, rescaling=rescaling)


def _emit_unpacked(
    editor: GraphEditor, *, tensor: QuantTensor, fields: Fields, rescaling: Rescaling | None
) -> ir.Value:
    """Flat codes from packed fields, brought to one scale a row if needed."""
    label = "odd" if tensor.zero_free else "field"
    packed = editor.constant(fields.packed, "fields")
    flat = emit_table(editor, packed, fields.table, label, fields.count)
    if rescaling is None:
        return flat
    (rows,) = editor.op("Reshape", flat, editor.shape(*grouped(tensor)), label="grouped")
    wide = editor.cast(rows, ir.DataType.FLOAT, label="float")
    ratio = emit_spread(editor, rescaling.ratio, tensor, "ratio")
    (wide,) = editor.op("Mul", wide, ratio, label="even_scale")
    if rescaling.divisor is not None:
        column = rescaling.divisor.reshape(*grouped(tensor)[:-1], 1)
        (wide,) = editor.op("Mul", wide, editor.constant(column, "divisor"), label="divided")
    (whole,) = editor.op("Round", wide, label="rounded")
    codes = editor.cast(whole, ir.DataType.INT8, label="rescaled")
    (result,) = editor.op("Reshape", codes, editor.shape(-1), label="rescaled_flat")
    return result


def grouped(tensor: QuantTensor) -> tuple[int, ...]:
    """`(g, group, o)` if all groups of a row are of one size, else `(i, o)`."""
    outputs, inputs = tensor.shape
    return (inputs, outputs) if inputs % tensor.group else (-1, tensor.group, outputs)


def emit_spread(
    editor: GraphEditor, scales: NDArray[np.float32], tensor: QuantTensor, label: str
) -> ir.Value:
    """Scales `(g, 1, o)` in a shape that fits codes of the shape `grouped`."""
    if not tensor.shape[1] % tensor.group:
        return editor.constant(scales, label)
    places = np.arange(tensor.shape[1], dtype=np.int64) // tensor.group
    table = editor.constant(scales[:, 0, :], label)
    (rows,) = editor.op("Gather", table, editor.constant(places, "group"), label=f"{label}_rows")
    return rows


EmitLinear = Callable[[GraphEditor, ir.Value, QuantTensor, RewriteContext], ir.Value]
"""Emits `x @ W.T` without bias before a node and returns its value."""


class MaskLinears(InPlacePass):
    """Replace the product of every linear by one of masked integers; its bias stays an `Add`.

    Args:
        linears: parameter name -> weights, not masked.
        emit: the arithmetic.
        context: masks and shared state; of one graph only.
    """

    def __init__(
        self,
        linears: Mapping[str, QuantTensor],
        emit: EmitLinear,
        context: RewriteContext | None = None,
    ) -> None:
        super().__init__()
        self.context = context or RewriteContext()
        self.linears = linears
        self.emit = emit

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every linear.

        Raises:
            ExportError: a linear is not in the graph in one of the two known forms.
        """
        graph = model.graph
        for name, tensor in self.linears.items():
            weight = _parameter(graph, name)
            products = [product for use in weight.consumers() for product in _products_of(use)]
            if not products:
                raise ExportError(f"`{name}` is not used as a linear in the traced graph")
            for place, product in enumerate(products):
                editor = GraphEditor(graph, product, name.removesuffix(".weight"), place)
                inputs = product.inputs[0]
                assert inputs is not None
                result = self.emit(editor, inputs, tensor, self.context)
                if product.op_type == "Gemm" and len(product.inputs) == 3:
                    bias = product.inputs[2]
                    assert bias is not None
                    (result,) = editor.op("Add", result, bias, label="biased")
                _replace(graph, product, result)
            if list(weight.consumers()):
                raise ExportError(f"`{name}` is not used as a linear only in the traced graph")
            _drop_parameter(graph, weight)
        return PassResult(model, modified=bool(self.linears))


EmitTied = Callable[[GraphEditor, ir.Value, ir.Value, ir.Value], ir.Value]
"""Emits `x @ (codes * scales).T` of a table that is looked up too, before a node, and returns its value."""


class QuantizeEmbeddings(InPlacePass):
    """Look up rows in their own width and widen only those: `Gather -> Cast -> Mul`.

    A table that is read as a whole, as one of relative positions, is widened when a session is made. So is one that is the
    decoder of a head too, unless the arithmetic multiplies with its integers. The graph holds its codes once.

    Args:
        tables: parameter name -> table.
        tied: the arithmetic of such a decoder; None: floats.
    """

    def __init__(self, tables: Mapping[str, QuantTensor], tied: EmitTied | None = None) -> None:
        super().__init__()
        self.tables, self.tied = tables, tied

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every use of every table.

        A model may have a table that it never reads: BERT with relative positions keeps that of absolute ones.
        """
        graph = model.graph
        read = {name for name in self.tables if f"{PREFIX}{name}" in graph.initializers}
        for name, tensor in self.tables.items():
            if name not in read:
                continue
            table = _parameter(graph, name)
            uses = list(table.uses())
            look_up = row_look_up(tensor, alone=all(one.op_type == "Gather" for one, _ in uses))
            for use, (reader, slot) in enumerate(uses):
                editor = GraphEditor(graph, reader, name.removesuffix(".weight"), use)
                if reader.op_type == "Gather":
                    ids = reader.inputs[1]
                    assert ids is not None
                    _replace(graph, reader, look_up(editor, ids))
                elif self.tied is not None and (products := _products_of(reader)):
                    self._multiply(graph, name, tensor, products, use)
                else:
                    reader.replace_input_with(slot, whole_table(editor, tensor))
            _drop_parameter(graph, table)
        for name in self.tables.keys() - read:
            _check_unread(graph, name, self.tables[name].shape)
        return PassResult(model, modified=bool(read))

    def _multiply(
        self,
        graph: ir.Graph,
        name: str,
        tensor: QuantTensor,
        products: Sequence[ir.Node],
        use: int,
    ) -> None:
        """Replace the products with a table by those of an arithmetic."""
        assert self.tied is not None
        for product in products:
            editor = GraphEditor(graph, product, name.removesuffix(".weight"), use)
            inputs = product.inputs[0]
            assert inputs is not None
            result = self.tied(editor, inputs, *stored_table(editor, tensor))
            _replace(graph, product, result)


def _parameter(graph: ir.Graph, name: str) -> ir.Value:
    """The initialiser that the tracer made of a parameter."""
    try:
        return graph.initializers[f"{PREFIX}{name}"]
    except KeyError:
        raise ExportError(f"the traced graph does not hold the parameter `{name}`") from None


def _check_unread(graph: ir.Graph, name: str, shape: tuple[int, ...]) -> None:
    """Raise ExportError if a table that is not in the graph may stand there under another name, as floats."""
    for value in graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and tuple(value.shape or ()) == shape:
            _parameter(graph, name)


def _products_of(use: ir.Node) -> list[ir.Node]:
    """The matrix products behind one use of a weight: `Gemm`, or `MatMul`s after a `Transpose`."""
    if use.op_type == "Gemm":
        transposed = use.attributes.get("transB")
        return [use] if transposed is not None and transposed.as_int() == 1 else []
    if use.op_type != "Transpose":
        return []
    return [user for user in use.outputs[0].consumers() if user.op_type == "MatMul"]


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Replace `node` by `result` for all its readers; remove it and nodes that only it used."""
    sources = [value.producer() for value in node.inputs if value is not None]
    node.outputs[0].replace_all_uses_with(result)
    graph.remove(node, safe=True)
    for source in sources:
        if (
            source is not None
            and source.op_type == "Transpose"
            and not source.outputs[0].consumers()
        ):
            graph.remove(source, safe=True)


def _drop_parameter(graph: ir.Graph, value: ir.Value) -> None:
    assert not list(value.consumers()), value.name
    assert value.name is not None
    del graph.initializers[value.name]


class ResidualAsSum(InPlacePass):
    """Write the residual `Add` before a LayerNormalization as a `Sum` of two.

    ONNX Runtime fuses `Add -> LayerNormalization` to SkipLayerNormalization, whose float32 CPU
    kernel is slow: 276 us a layer against 22 us for the plain one at 128 tokens of width 384 (1.31,
    one thread), a third of an int8 graph's time. `Sum` adds the same numbers and is not fused.
    """

    old, new = "Add", "Sum"

    def call(self, model: ir.Model) -> PassResult:
        """Rename the sum of two before every LayerNormalization."""
        residuals = [
            source
            for node in model.graph
            if node.op_type == "LayerNormalization"
            and (value := node.inputs[0]) is not None
            and (source := value.producer()) is not None
            and source.op_type == self.old
            and len(source.inputs) == 2
        ]
        for node in residuals:
            node.op_type = self.new
        return PassResult(model, modified=bool(residuals))


class PlainResiduals(ResidualAsSum):
    """`Add` before a LayerNormalization again: inverse of `ResidualAsSum`."""

    old, new = "Sum", "Add"


class GeluInFusedOrder(InPlacePass):
    """Order the products of an exact GELU as ONNX Runtime's fusion expects them.

    The tracer writes `x * (0.5 * (1 + erf(x / sqrt 2)))`; the fusion knows
    `(x * (1 + erf(x / sqrt 2))) * 0.5`. Halving is exact, so both give the same bits.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Reorder every such product."""
        halves = [halved for halved in map(_halved_erf, model.graph) if halved is not None]
        for half, halved, outer in halves:
            slot = 1 if halved.inputs[0] is half else 0
            inner = halved.inputs[slot]
            x = outer.inputs[1] if outer.inputs[0] is halved.outputs[0] else outer.inputs[0]
            halved.replace_input_with(0, x)
            halved.replace_input_with(1, inner)
            outer.replace_input_with(0, halved.outputs[0])
            outer.replace_input_with(1, half)
        return PassResult(model, modified=bool(halves))


def _halved_erf(erf: ir.Node) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """From an `Erf`: the constant half, the product with it, and the product with x; or None."""
    if erf.op_type != "Erf":
        return None
    plus_one = only_user(erf, "Add")
    halved = only_user(plus_one, "Mul")
    outer = only_user(halved, "Mul")
    if plus_one is None or halved is None or outer is None:
        return None
    other = [value for value in halved.inputs if value is not plus_one.outputs[0]]
    if len(other) != 1 or other[0] is None or not _is_half(other[0]):
        return None
    return other[0], halved, outer


def only_user(node: ir.Node | None, kind: str) -> ir.Node | None:
    """The one reader of a node's first output, if it is one and of this kind."""
    users = [] if node is None else list(node.outputs[0].consumers())
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _is_half(value: ir.Value) -> bool:
    constant = ir.convenience.get_const_tensor(value)
    return constant is not None and constant.size == 1 and float(constant.numpy().item()) == 0.5
