"""Sub-layers that lost all of their units, in a traced graph: their bias is all that is left of them.

    residual -> Add(MatMul(units) -> Add(bias))                becomes     residual -> Add(bias)
    residual -> Add(MatMul(units) -> Add(bias) -> Mul(scale))  becomes     residual -> Add(bias -> Mul(scale))

The linear that reads the units of an attention or a feed-forward layer has no column left, so that its product is 0 in
every place. A sum of the bias and the residual has the residual's shape. With the product everything goes that only
fed it: projections, softmax, activation.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import common

from maskpack.exporters.graph.trace import PREFIX
from maskpack.formats import ExportError
from maskpack.formats.errors import Hint


def drop_emptied(model: ir.Model, readers: Collection[str], gone: Collection[str]) -> None:
    """Replace the products of linears that read nothing, and drop what only fed them, in place.

    Args:
        model: as traced.
        readers: parameter names of the linears whose units are all gone.
        gone: of all linears that the graph must not hold then, the readers among them.

    Raises:
        ExportError: something else than a sum needs a product, or a linear is used elsewhere.
    """
    if not readers:
        return
    for name in readers:
        for product in _products(model.graph, name):
            _drop_product(product, name)
    common.RemoveUnusedNodesPass()(model)
    if left := sorted(name for name in gone if f"{PREFIX}{name}" in model.graph.initializers):
        raise _unknown(left[0])


def _products(graph: ir.Graph, name: str) -> list[ir.Node]:
    """Every product with the weights of a linear; none where the graph does not hold them, such as of a branch not taken."""
    weight = graph.initializers.get(f"{PREFIX}{name}")
    turned = [] if weight is None else list(weight.consumers())
    if any(node.op_type != "Transpose" for node in turned):
        raise _unknown(name)  # a `Gemm` stands between two `Reshape`s, which need its shape
    return [product for node in turned for product in node.outputs[0].consumers()]


def _drop_product(product: ir.Node, name: str) -> None:
    """Let the readers of `product + bias` read the bias, or the other summand where there is no bias; DINOv2 scales both."""
    bias: ir.Value | None = None
    value = product.outputs[0]
    while (summed := _with_constant(value, "Add")) is not None:
        if bias is not None:
            raise _unknown(name)
        bias, value = summed
    if (scaled := _with_constant(value, "Mul")) is not None:
        node = scaled[1].producer()
        assert node is not None
        if bias is not None:
            node.replace_input_with(0 if node.inputs[0] is value else 1, bias)
            bias, scaled[1].shape = scaled[1], bias.shape
        value = scaled[1]
    for node in list(value.consumers()):
        if product.op_type != "MatMul" or node.op_type != "Add" or value.is_graph_output():
            raise _unknown(name)
        slot = 0 if node.inputs[0] is value else 1
        if bias is not None:
            node.replace_input_with(slot, bias)
            continue
        other = node.inputs[1 - slot]
        assert other is not None
        node.outputs[0].replace_all_uses_with(other)


def _with_constant(value: ir.Value, operator: str) -> tuple[ir.Value, ir.Value] | None:
    """The constant that is added to a value, or that it is multiplied by, and the result, if that is the one thing done with it."""
    users = list(value.consumers())
    if len(users) != 1 or users[0].op_type != operator:
        return None
    (other,) = (one for one in users[0].inputs if one is not value)
    return (other, users[0].outputs[0]) if other is not None and other.is_initializer() else None


def _unknown(name: str) -> ExportError:
    return ExportError(
        f"all units that `{name}` has to do with are removed, and the graph needs more of it than a sum",
        Hint("export it in the `swap` layout, which keeps zeros in their places"),
    )
