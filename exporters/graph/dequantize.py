"""Inverses of an export's passes: integers to floats, workarounds to ordinary forms.

    int8       DynamicQuantizeLinear(x [* factor]) -> MatMulInteger(codes) -> Cast -> Mul  =>  MatMul(x, W)
    nbits      MatMulNBits(x, blocks, scales)                                             =>  MatMul(x, W)
    fp32       MatMul(x, anything constant)                                               =>  MatMul(x, W)
    embedding  Gather(codes, ids) -> anything constant -> Mul(Gather(scales, ids))        =>  Gather(W, ids)
    residual   Sum of two -> LayerNormalization                                           =>  Add

ONNX Runtime computes the parts of a graph that depend on initialisers alone. Weights that a mask removes inside a
graph are zeros of these codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.session import make_session


class Constants:
    """The constant values of a graph.

    Args:
        model: with its weights inside; initialisers count as constants even where an input may
            replace them.
        folder: of the file that holds large ones, if there is one.
    """

    def __init__(self, model: onnx.ModelProto, folder: str = "") -> None:
        self._model, self._folder = model, folder
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        known = set(self._stored)
        for node in model.graph.node:  # in topological order, as the standard demands
            plain = not any(item.HasField("g") or item.graphs for item in node.attribute)
            if plain and known.issuperset(name for name in node.input if name):
                known.update(node.output)
        self._known = known

    def __contains__(self, name: str | None) -> bool:
        return name in self._known

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
        known = {
            name: onnx.numpy_helper.to_array(self._stored[name], self._folder)
            for name in wanted
            if name in self._stored
        }
        computed = [name for name in wanted if name not in known]
        for name in computed:
            if name not in self:
                raise KeyError(name)
        if computed:
            session = make_session(self._part(computed, {}).SerializeToString(), threads=1)
            known.update(zip(computed, session.run(None, {}), strict=True))
        return {name: np.asarray(known[name]) for name in wanted}

    def given(self, name: str, value: str, array: NDArray[Any]) -> NDArray[Any]:
        """The value `name` where `value`, the only one it depends on, is `array`.

        Raises:
            KeyError: it depends on another one.
            ExportError: ONNX Runtime refuses to compute.
        """
        session = make_session(self._part([name], {value: array}).SerializeToString(), threads=1)
        return np.asarray(session.run(None, {value: array})[0])

    def _part(self, names: list[str], given: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
        """The graph that computes these values from others; without others, from constants alone."""
        needed, open_names = set(), list(names)
        while open_names:
            name = open_names.pop()
            if name and name not in needed and name not in given:
                needed.add(name)
                if name not in self._stored:
                    open_names.extend(self._makers[name].input)
        nodes = [node for node in self._model.graph.node if needed.intersection(node.output)]
        part = onnx.helper.make_graph(
            nodes,
            "constants",
            inputs=[
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in given.items()
            ],
            outputs=[onnx.helper.make_empty_tensor_value_info(name) for name in names],
            initializer=[
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor, self._folder), name)
                for name, tensor in self._stored.items()
                if name in needed
            ],
        )
        return onnx.helper.make_model(
            part, ir_version=self._model.ir_version, opset_imports=self._model.opset_import
        )


class ConstantsPass(InPlacePass):
    """A pass that reads constants of the graph."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants


@dataclass(frozen=True, eq=False)
class IntegerProduct:
    """A product on constant codes, and the parts of its float form.

    Attributes:
        inputs: the activations before they are quantised.
        scales: the constant whose name contains the module.
        constants: the values from which the weight is computed.
        weight: values of `constants` to the float32 weight `(i, o)`.
        result: the value that the float product replaces.
    """

    inputs: ir.Value
    scales: ir.Value
    constants: tuple[ir.Value, ...]
    weight: Callable[..., NDArray[np.float32]]
    result: ir.Value


class DequantizeProducts(ConstantsPass):
    """Replace every integer product of a known form by a float one."""

    def find(self, node: ir.Node) -> IntegerProduct | None:
        """The product of a node, or None if the node is no product of the known form."""
        raise NotImplementedError

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every product; those of another form stay as they are."""
        products = [(node, one) for node in model.graph if (one := self.find(node)) is not None]
        arrays = self.constants.read(_name(value) for _, one in products for value in one.constants)
        uses = Counter[str]()
        for node, one in products:
            stem = _name(one.scales).removesuffix(".scales")
            editor = GraphEditor(model.graph, node, stem, uses[stem])
            uses[stem] += 1
            weight = one.weight(*(arrays[_name(value)] for value in one.constants))
            stored = editor.constant(weight, "weight")
            (product,) = editor.op("MatMul", one.inputs, stored, label="product32")
            one.result.replace_all_uses_with(product)
        return PassResult(model, modified=bool(products))


class DequantizeLookUps(ConstantsPass):
    """Replace look-ups in tables of codes by look-ups in float tables."""

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every look-up of a known form."""
        found = [(node, scales) for node in model.graph if (scales := self._scales(node))]
        for node, scales in found:
            ids, name = scales.inputs[1], _name(scales.inputs[0])
            assert ids is not None
            kind = np.dtype(np.int64) if ids.dtype is None else ids.dtype.numpy()  # a value within
            rows = np.arange(len(self.constants.read([name])[name]), dtype=kind)
            table = self.constants.given(_name(node.outputs[0]), _name(ids), rows)
            editor = GraphEditor(model.graph, node, name.removesuffix(".scales"))
            stored = editor.constant(table, "weight")
            (result,) = editor.op("Gather", stored, ids, label="row32")
            node.outputs[0].replace_all_uses_with(result)
        return PassResult(model, modified=bool(found))

    def _scales(self, node: ir.Node) -> ir.Node | None:
        """The look-up of the scales behind a product with rows of codes; None if the node is no such product."""
        if node.op_type != "Mul" or len(node.inputs) != 2 or node.inputs[1] is None:
            return None
        scales = node.inputs[1].producer()
        if scales is None or not self._looks_up(scales) or scales.inputs[1] is None:
            return None
        return scales if self._depends(node.inputs[0], scales.inputs[1]) else None

    def _looks_up(self, node: ir.Node) -> bool:
        return node.op_type == "Gather" and _name(node.inputs[0]) in self.constants

    def _depends(self, value: ir.Value | None, ids: ir.Value) -> bool:
        """Whether a value comes from rows of constant tables, looked up by `ids` or by what comes from such rows, and constants alone."""
        looked_up, open_values = False, [value]
        while open_values:
            one = open_values.pop()
            if one is None or one.name in self.constants:
                continue
            node = one.producer()
            if node is None:
                return False
            if one is ids:
                return False
            if self._looks_up(node):
                looked_up = looked_up or node.inputs[1] is ids
                open_values.extend(() if node.inputs[1] is ids else node.inputs[1:])
            else:
                open_values.extend(node.inputs)
        return looked_up


class StoreProducts(ConstantsPass):
    """Store the weight of every product that is computed from constants, such as a transposed one."""

    def call(self, model: ir.Model) -> PassResult:
        """Store every such weight."""
        weights = [
            (node, value)
            for node in model.graph
            if node.op_type == "MatMul"
            and (value := node.inputs[1]) is not None
            and value.name in self.constants
            and not self.constants.is_stored(value.name)
        ]
        arrays = self.constants.read(_name(value) for _, value in weights)
        for node, value in weights:
            editor = GraphEditor(model.graph, node, _name(value))
            node.replace_input_with(1, editor.constant(arrays[_name(value)], "stored"))
        return PassResult(model, modified=bool(weights))


def _name(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name is not None
    return value.name
