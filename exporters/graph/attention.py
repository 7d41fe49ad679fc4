"""Attention by one operator of ONNX Runtime where a batch holds no padding, by the plain nodes where it does.

    If(mask is 0 everywhere)   then MultiHeadAttention(q, k, v)   else   MatMul(softmax(MatMul(q, k) * scale + mask), v)

A mask of zeros changes nothing, so both branches are the same function up to rounding. Without a mask the operator
computes tile by tile and copies no heads; with one it is slower than the plain nodes (docs/RESULTS.md, "Graphs that fit the
kernels"). One text alone has no padding, and neither have texts of one length. Images have none at all: their graphs have
no mask, and the operator takes the place of the plain nodes.

The operator is ONNX Runtime's own, not the standard's; its CPU kernel is there from version 1.17 on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import only_user

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"
_HEADS_FIRST = (0, 2, 1, 3)  # (b, s, h, d) <-> (b, h, s, d)
_HEADS_FIRST_SWAPPED = (0, 2, 3, 1)  # (b, s, h, d) -> (b, h, d, s)
_NAME = "attention"


@dataclass(frozen=True, eq=False)
class Attention:
    """The plain nodes of one attention.

    Attributes:
        nodes: all of them, each after those that it reads; only the last one is read elsewhere.
        inputs: query, key and value, `(b, s, h * d)`.
        mask: what is added to the scores, or where they are replaced; None: nothing.
        heads: `h`.
        scale: of the scores.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    mask: ir.Value | None
    heads: int
    scale: float

    @property
    def output(self) -> ir.Value:
        """The context, `(b, s, h * d)`."""
        return self.nodes[-1].outputs[0]


class FuseAttention(InPlacePass):
    """Give every attention whose mask is added to its scores, or replaces them, a branch for batches without padding.

    An attention without a mask becomes the operator alone. Attentions of other forms, such as those with rotated or relative positions, stay as they are.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every such attention."""
        graph, empty = model.graph, dict[ir.Value, ir.Value]()
        found = [one for node in graph if (one := find_attention(node)) is not None]
        for number, each in enumerate(found):
            mask, name = each.mask, f"{_NAME}.{number}"
            if mask is None:
                _replace(graph, each, name)
                continue
            if mask not in empty:
                empty[mask] = _is_empty(graph, each, mask, f"{_NAME}.mask{len(empty)}")
            _branch(graph, each, empty[mask], name)
        if found:
            graph.opset_imports.setdefault(DOMAIN, 1)
            common.RemoveUnusedNodesPass()(model)  # constants of which the branches have copies
        return PassResult(model, modified=bool(found))


def find_attention(softmax: ir.Node) -> Attention | None:
    """The attention around a `Softmax`; None if its nodes are others or are read elsewhere."""
    if softmax.op_type != "Softmax":
        return None
    cast = _idle_cast(softmax)
    weights = softmax if cast is None else cast
    product = only_user(weights, "MatMul")
    masked = None if product is None else _producer(softmax.inputs[0])
    moved = only_user(product, "Transpose")
    joined = only_user(moved, "Reshape")
    if product is None or masked is None or moved is None or joined is None:
        return None
    for scored, mask in _masked(masked):
        if mask is not None and cast is not None:
            continue
        scores = _trail(scored)
        first = scores.maker
        if first is None or first.op_type != "MatMul":
            continue
        query, key = (_trail(value).to_view() for value in first.inputs)
        value = _trail(product.inputs[1]).to_view()
        own = (*query.nodes, *key.nodes, *value.nodes, first, *scores.nodes, *_filling(masked))
        masking = (masked,) if mask is not None else ()  # else it is the last node of the scores
        ending = (softmax,) if cast is None else (softmax, cast)
        nodes = (*own, *masking, *ending, product, moved, joined)
        right = (
            _order(moved) == _HEADS_FIRST == query.order == value.order
            and key.order == _HEADS_FIRST_SWAPPED
            and len({query.heads, key.heads, value.heads}) == 1
            and product.inputs[0] is weights.outputs[0]
            and value.factor == 1
            and _alone(nodes)
        )
        if right and query.heads is not None:
            inputs = tuple(one for each in (query, key, value) if (one := each.source) is not None)
            scale = scores.factor * query.factor * key.factor
            return Attention(nodes, inputs, mask, query.heads, scale)
    return None


def _idle_cast(softmax: ir.Node) -> ir.Node | None:
    """The cast of float32 to float32 that models of images put behind their softmax, if there is one."""
    cast, scores = only_user(softmax, "Cast"), softmax.inputs[0]
    to = None if cast is None else cast.attributes.get("to")
    if to is None or scores is None:
        return None
    return cast if to.as_int() == scores.dtype == ir.DataType.FLOAT else None


def _masked(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """What may be scores, and their mask, of a node that masks scores; the node's own result, if it masks none."""
    if node.op_type == "Add":
        first, second = node.inputs
        return [(first, second), (second, first)]
    if node.op_type == "Where":
        where, _, scores = node.inputs
        wide = _producer(where)
        narrow = wide.inputs[0] if wide is not None and wide.op_type == "Expand" else where
        return [(scores, narrow)]
    return [(node.outputs[0], None)]


def _filling(masked: ir.Node) -> tuple[ir.Node, ...]:
    """The node that gives the number in place of masked scores their type."""
    made = _producer(masked.inputs[1]) if masked.op_type == "Where" else None
    return (made,) if made is not None and made.op_type == "CastLike" else ()


@dataclass(frozen=True, eq=False)
class _Trail:
    """Transposes and products with a number that lead from one value to another.

    Attributes:
        source: the first value.
        nodes: in the order in which they compute.
        order: axes of `source` in the order in which the last value has them.
        factor: product of the numbers.
        heads: `h` if the first node splits `(b, s, h * d)` into `(b, s, h, d)`.
    """

    source: ir.Value | None
    nodes: tuple[ir.Node, ...] = ()
    order: tuple[int, ...] = (0, 1, 2, 3)
    factor: float = 1.0
    heads: int | None = None

    @property
    def maker(self) -> ir.Node | None:
        """The node that computes the first value."""
        return _producer(self.source)

    def to_view(self) -> _Trail:
        """The trail with the `Reshape` before it, if that splits heads."""
        view, maker = self.source, self.maker
        if maker is None or maker.op_type != "Reshape" or view is None or view.shape is None:
            return self
        heads = view.shape[2] if len(view.shape) == 4 else None
        if not isinstance(heads, int):
            return self
        return replace(self, source=maker.inputs[0], nodes=(maker, *self.nodes), heads=heads)


def _trail(value: ir.Value | None) -> _Trail:
    """The longest trail to a value."""
    order: tuple[int, ...] = (0, 1, 2, 3)
    nodes, factor = list[ir.Node](), 1.0
    while (node := _producer(value)) is not None:
        if (axes := _order(node)) is not None and len(axes) == len(order):
            order = tuple(axes[axis] for axis in order)
        elif (number := _number(node)) is not None:
            factor *= number
        else:
            break
        nodes.insert(0, node)
        value = node.inputs[0]
    return _Trail(value, tuple(nodes), order, factor)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _order(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a `Transpose`."""
    axes = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return None if axes is None else tuple(axes.as_ints())


def _number(node: ir.Node) -> float | None:
    """By what a node multiplies its first input, if that is one number."""
    if node.op_type not in ("Mul", "Div") or node.inputs[1] is None:
        return None
    constant = ir.convenience.get_const_tensor(node.inputs[1])
    if constant is None or constant.size != 1:
        return None
    number = float(constant.numpy().item())
    return number if node.op_type == "Mul" else 1.0 / number


def _alone(nodes: tuple[ir.Node, ...]) -> bool:
    """Whether only the last of some nodes is read by others, and none of them is a result of the graph."""
    own = set(nodes)
    values = [value for node in nodes[:-1] for value in node.outputs]
    return not any(
        value.is_graph_output() or any(reader not in own for reader in value.consumers())
        for value in values
    )


def _is_empty(graph: ir.Graph, attention: Attention, mask: ir.Value, name: str) -> ir.Value:
    """Whether the mask of an attention is 0 everywhere, or false, computed before its last node."""
    editor = GraphEditor(graph, attention.nodes[-1], name)
    if mask.dtype == ir.DataType.BOOL:
        mask = editor.cast(mask, ir.DataType.FLOAT, label="float")
    (size,) = editor.op("Abs", mask, label="size")
    (most,) = editor.op("ReduceMax", size, label="most", attributes={"keepdims": 0})
    zero = editor.constant(np.array(0, dtype=np.float32), "zero")
    (empty,) = editor.op("Equal", most, zero, label="is_empty")
    return empty


def _branch(graph: ir.Graph, attention: Attention, empty: ir.Value, name: str) -> None:
    """Put an `If` in place of an attention, whose nodes become the branch that adds the mask."""
    output, last, fused = attention.output, attention.nodes[-1], _fused(attention, name)
    choice = ir.node("If", [empty], name=f"{name}.context")
    _describe(choice.outputs[0], output, f"{name}.context")
    graph.insert_before(last, choice)
    output.replace_all_uses_with(choice.outputs[0])
    graph.remove(attention.nodes)
    plain = [*_numbers_of(attention.nodes), *attention.nodes]
    branches = {
        "then_branch": ir.Graph([], [fused.outputs[0]], nodes=[fused], name=f"{name}.no_padding"),
        "else_branch": ir.Graph([], [output], nodes=plain, name=f"{name}.padding"),
    }
    for key, branch in branches.items():
        choice.attributes.add(ir.AttrGraph(key, branch))


def _replace(graph: ir.Graph, attention: Attention, name: str) -> None:
    """Put the operator in place of an attention without a mask."""
    fused = _fused(attention, name)
    graph.insert_before(attention.nodes[-1], fused)
    attention.output.replace_all_uses_with(fused.outputs[0])
    graph.remove(attention.nodes, safe=True)


def _fused(attention: Attention, name: str) -> ir.Node:
    """The operator, in no graph yet."""
    fused = ir.node(
        OPERATOR,
        attention.inputs,
        {"num_heads": attention.heads, "scale": attention.scale},
        domain=DOMAIN,
        name=f"{name}.fused",
    )
    _describe(fused.outputs[0], attention.output, f"{name}.fused")
    return fused


def _describe(value: ir.Value, like: ir.Value, name: str) -> None:
    value.name, value.shape, value.type = name, like.shape, like.type


def _numbers_of(nodes: tuple[ir.Node, ...]) -> list[ir.Node]:
    """Copies of the constants that scale values: fusions look for them beside the product."""
    made = []
    for node in nodes:
        if _number(node) is None:
            continue
        old = node.inputs[1]
        assert old is not None
        tensor = ir.convenience.get_const_tensor(old)
        copy = ir.node("Constant", [], {"value": tensor})
        _describe(copy.outputs[0], old, f"{node.outputs[0].name}.by")
        node.replace_input_with(1, copy.outputs[0])
        made.append(copy)
    return made
