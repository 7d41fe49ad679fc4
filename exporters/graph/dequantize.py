"""The rewrites of an export backwards: integers to floats, workarounds to ordinary forms.

    int8       DynamicQuantizeLinear(x [* factor]) -> MatMulInteger(codes) -> Cast -> Mul  =>  MatMul(x, W)
    nbits      MatMulNBits(x, blocks, scales)                                             =>  MatMul(x, W)
    fp32       MatMul(x, anything constant)                                               =>  MatMul(x, W)
    embedding  Gather(codes, ids) -> Cast -> Mul(Gather(scales, ids))                     =>  Gather(W, ids)
    residual   Sum of two -> LayerNormalization                                           =>  Add

What a graph computes from its initialisers alone, ONNX Runtime computes here. What a mask removes inside a
graph is constant and arrives as zeros of the codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from maskpack.exporters.arithmetic.nbits import NBITS_OP, blocking_in, float_weight
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.ort_workarounds import only_user
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


@dataclass(frozen=True, eq=False)
class _IntegerLinear:
    """One integer product and what belongs to it.

    Attributes:
        inputs: the activations before anything is done to them.
        factor: what their channels are multiplied by first, or None.
        codes, scales: constants.
        result: the float product.
    """

    inputs: ir.Value
    factor: ir.Value | None
    codes: ir.Value
    scales: ir.Value
    result: ir.Value


class DequantizeLinears(InPlacePass):
    """Replace every integer product of a known form by a float one."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every product; those of another form stay as they are."""
        found = [
            (node, linear)
            for node in model.graph
            if node.op_type == "MatMulInteger"
            and (linear := _integer_linear(node, self.constants)) is not None
        ]
        names = [
            value.name or ""
            for _, linear in found
            for value in (linear.codes, linear.scales, linear.factor)
            if value is not None
        ]
        arrays, uses = self.constants.read(names), Counter[str]()
        for node, linear in found:
            stem = (linear.scales.name or "").removesuffix(".scales")
            editor = GraphEditor(model.graph, node, stem, uses[stem])
            uses[stem] += 1
            weight = arrays[linear.codes.name or ""] * arrays[linear.scales.name or ""]
            if linear.factor is not None:
                weight = arrays[linear.factor.name or ""][:, None] * weight
            stored = editor.constant(weight.astype(np.float32), "weight")
            (product,) = editor.op("MatMul", linear.inputs, stored, label="product32")
            linear.result.replace_all_uses_with(product)
        return PassResult(model, modified=bool(found))


def _integer_linear(product: ir.Node, constants: Constants) -> _IntegerLinear | None:
    """What `exporters/graph/passes.py::emit_int8` wrote around a product, or None if it is another form."""
    activations, codes = product.inputs[:2]
    quantizer = None if activations is None else activations.producer()
    wide = only_user(product, "Cast")
    scaled = only_user(wide, "Mul")
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear" or scaled is None:
        return None
    by = scaled.inputs[1]
    scale = None if by is None else by.producer()
    even = quantizer.inputs[0]
    if codes is None or codes.name not in constants or scale is None or even is None:
        return None
    scales = scale.inputs[1]
    if scale.inputs[0] is not quantizer.outputs[1] or scales is None:
        return None
    inputs, factor = _undivided(even, constants)
    return _IntegerLinear(inputs, factor, codes, scales, scaled.outputs[0])


def _undivided(even: ir.Value, constants: Constants) -> tuple[ir.Value, ir.Value | None]:
    """Activations before their outlier channels were divided, and the factors, if they were."""
    source = even.producer()
    if source is None or source.op_type != "Mul":
        return even, None
    inputs, factor = source.inputs
    # A product of the model itself has a single number, or two activations.
    single = factor is None or factor.shape is None or len(factor.shape) != 1
    if inputs is None or factor is None or single or not constants.is_stored(factor.name):
        return even, None
    return inputs, factor


class DequantizeBlocks(InPlacePass):
    """Replace every product on blocks of codes by a float one."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every such product; those of other blocks stay as they are."""
        found = [node for node in model.graph if node.op_type == NBITS_OP and self._knows(node)]
        names = [value.name or "" for node in found for value in node.inputs[1:3] if value]
        arrays, uses = self.constants.read(names), Counter[str]()
        for node in found:
            inputs, blocks, scales = node.inputs[:3]
            assert inputs is not None
            assert blocks is not None
            assert scales is not None
            stem = (scales.name or "").removesuffix(".scales")
            editor = GraphEditor(model.graph, node, stem, uses[stem])
            uses[stem] += 1
            weight = float_weight(
                arrays[blocks.name or ""], arrays[scales.name or ""], blocking_in(node)
            )
            stored = editor.constant(weight, "weight")
            (product,) = editor.op("MatMul", inputs, stored, label="product32")
            node.outputs[0].replace_all_uses_with(product)
        return PassResult(model, modified=bool(found))

    def _knows(self, node: ir.Node) -> bool:
        """Whether weights are constant and have neither zero points nor an order of their own."""
        constant = all(
            value is not None and value.name in self.constants for value in node.inputs[1:]
        )
        return constant and len(node.inputs) == 3


class DequantizeLookUps(InPlacePass):
    """Replace look-ups in tables of 8-bit rows by look-ups in float tables."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every look-up of a known form."""
        found = [
            (node, row, scale)
            for node in model.graph
            if node.op_type == "Mul"
            and (row := self._gather(node.inputs[0], cast=True)) is not None
            and (scale := self._gather(node.inputs[1], cast=False)) is not None
            and row.inputs[1] is scale.inputs[1]
        ]
        for node, row, scale in found:
            codes, scales = (look.inputs[0] for look in (row, scale))
            ids = row.inputs[1]
            assert codes is not None
            assert scales is not None
            assert ids is not None
            names = [codes.name or "", scales.name or ""]
            arrays = self.constants.read(names)
            table = (arrays[names[0]] * arrays[names[1]]).astype(np.float32)
            editor = GraphEditor(model.graph, node, names[0].removesuffix(".codes"))
            stored = editor.constant(table, "weight")
            (result,) = editor.op("Gather", stored, ids, label="row32")
            node.outputs[0].replace_all_uses_with(result)
        return PassResult(model, modified=bool(found))

    def _gather(self, value: ir.Value | None, *, cast: bool) -> ir.Node | None:
        """The look-up in a constant table behind a value, through a `Cast` if there must be one."""
        node = None if value is None else value.producer()
        if cast and node is not None:
            inner = node.inputs[0] if node.op_type == "Cast" else None
            node = None if inner is None else inner.producer()
        if node is None or node.op_type != "Gather" or node.inputs[0] is None:
            return None
        return node if node.inputs[0].name in self.constants else None


class StoreProducts(InPlacePass):
    """Store the weight of every product that is computed from constants, such as a transposed one."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants

    def call(self, model: ir.Model) -> PassResult:
        """Store every such weight."""
        found = [
            (node, value)
            for node in model.graph
            if node.op_type == "MatMul"
            and (value := node.inputs[1]) is not None
            and value.name in self.constants
            and not self.constants.is_stored(value.name)
        ]
        arrays = self.constants.read([value.name or "" for _, value in found])
        for node, value in found:
            editor = GraphEditor(model.graph, node, value.name or "")
            node.replace_input_with(1, editor.constant(arrays[value.name or ""], "stored"))
        return PassResult(model, modified=bool(found))
