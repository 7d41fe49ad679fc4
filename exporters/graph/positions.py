"""Rows of tables that no text of a task reaches: those of positions behind its longest one.

    input_ids -> Shape -> ... = positions -> Gather(table)

A graph says itself which rows it looks up for a text of so many tokens: the part that leads to the look-up is run in ONNX Runtime. So it does not
matter how an architecture counts positions (RoBERTa begins at 2), and tables of distances between tokens are found too, and kinds of tokens that
a graph without an input for them never reads. Rows that stay keep their places. A longer input is refused by ONNX Runtime, as an index out of bounds.

A table whose index follows from the numbers of the tokens, as that of a table with rows of two widths, is no table of positions: which rows texts
reach cannot be seen from some inputs. What only compares such a number, as with that of padding, may be before an index.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from maskpack.exporters.session import make_session
from maskpack.models.inputs import ATTENTION

_LOG = logging.getLogger(__name__)

LONGEST, LEFT_OUT = "maskpack.longest_input", "maskpack.left_out_bytes"
"""Metadata of a graph whose tables were cut: tokens that it reads at most, and the bytes that it has less."""

_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_SHAPES = frozenset({"Shape", "Size"})

_IDS = (0, 5)  # one of them is no padding, of which RoBERTa counts no positions


class CutPositions(InPlacePass):
    """Leave out rows that no input of up to so many tokens looks up.

    Args:
        longest: tokens.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def call(self, model: ir.Model) -> PassResult:
        """Cut every table whose rows are looked up by what follows from the inputs' shape and padding."""
        indices = _looked_up(model.graph)
        names = [index.name for index in indices if index.name]
        reached = _reached(model, names, self.longest) if names else {}
        saved = 0
        for index in indices:
            rows = reached.get(index.name or "", 0)
            for table in indices[index] if rows else ():
                saved += _cut(table, rows)
        if saved:
            model.metadata_props[LONGEST] = str(self.longest)
            model.metadata_props[LEFT_OUT] = str(saved)
            _LOG.info("rows behind %s tokens are left out: %s bytes", self.longest, f"{saved:,}")
        return PassResult(model, modified=bool(saved))


def _looked_up(graph: ir.Graph) -> dict[ir.Value, list[ir.Value]]:
    """Computed index -> stored tables whose rows it looks up, and that nothing else reads in another way."""
    given, found = set(graph.inputs), dict[ir.Value, list[ir.Value]]()
    for table in graph.initializers.values():
        uses = [(node, slot) for node, slot in table.uses()]
        indices = {node.inputs[1] for node, slot in uses if _is_look_up(node) and slot == 0}
        if len(indices) != 1 or not all(_is_look_up(node) and slot == 0 for node, slot in uses):
            continue
        (index,) = indices
        whole = table.shape is None or len(table.shape) < 2
        if index is None or index in given or whole or not _depends_on_inputs(index, given):
            continue
        found.setdefault(index, []).append(table)
    return found


def _is_look_up(node: ir.Node) -> bool:
    axis = node.attributes.get("axis")
    return node.op_type == "Gather" and (axis is None or axis.as_int() == 0)


def _depends_on_inputs(index: ir.Value, given: set[ir.Value]) -> bool:
    """Whether an index follows from the inputs, and from the numbers of tokens by comparisons alone."""
    nodes = list(_nodes_before([index]))
    kinds = {one.type for node in nodes for one in node.attributes.values()}
    plain = not kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
    told = _nodes_before([index], behind=_COMPARISONS | _SHAPES)
    numbered = any(
        value in given and value.name == "input_ids" for node in told for value in _values_of(node)
    )
    return plain and not numbered and any(value in given for node in nodes for value in node.inputs)


def _values_of(node: ir.Node) -> Sequence[ir.Value | None]:
    """Inputs of a node whose numbers come out of it."""
    return () if node.op_type in _COMPARISONS | _SHAPES else node.inputs


def _nodes_before(values: Sequence[ir.Value], behind: Collection[str] = ()) -> Iterator[ir.Node]:
    """Nodes from which values follow, each once; none before an operator of these kinds."""
    opened, seen = list(values), set[ir.Node]()
    while opened:
        node = opened.pop().producer()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            if node.op_type not in behind:
                opened += [value for value in node.inputs if value is not None]


def _reached(model: ir.Model, names: Sequence[str], longest: int) -> dict[str, int]:
    """Index -> rows that inputs of up to `longest` tokens look up; 0 where an index may count from the end."""
    data = _part(model, names)
    session = make_session(data, threads=1)
    lowest, highest = dict.fromkeys(names, 0), dict.fromkeys(names, -1)
    for feeds in _inputs([one.name for one in session.get_inputs()], longest):
        for name, index in zip(names, session.run(list(names), feeds), strict=True):
            lowest[name] = min(lowest[name], int(index.min()))
            highest[name] = max(highest[name], int(index.max()))
    return {name: highest[name] + 1 if lowest[name] >= 0 else 0 for name in names}


def _inputs(names: Sequence[str], longest: int) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Texts of several lengths, without padding and with it on either side."""
    for length in sorted({1, (longest + 1) // 2, longest}):
        for token in _IDS:
            for kept in (slice(None), slice(0, (length + 1) // 2), slice(length // 2, None)):
                attention = np.zeros((1, length), dtype=np.int64)
                attention[:, kept] = 1
                ids = np.full((1, length), token, dtype=np.int64)
                rest = np.zeros((1, length), dtype=np.int64)
                known = {"input_ids": ids, ATTENTION: attention}
                yield {name: known.get(name, rest) for name in names}


def _part(model: ir.Model, names: Sequence[str]) -> bytes:
    """The graph that computes these values from the inputs."""
    graph = model.graph
    values = [value for node in graph for value in node.outputs if value.name in names]
    needed = set(_nodes_before(values))
    read = {value for node in needed for value in node.inputs if value is not None}
    stored = [value for value in graph.initializers.values() if value in read]
    made = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in graph if node in needed],
        "positions",
        [ir.serde.serialize_value(value) for value in graph.inputs if value in read],
        [onnx.helper.make_empty_tensor_value_info(name) for name in names],
        [ir.serde.serialize_tensor(value.const_value) for value in stored if value.const_value],
    )
    opsets = [onnx.helper.make_opsetid(*pair) for pair in model.opset_imports.items()]
    whole = onnx.helper.make_model(made, opset_imports=opsets, ir_version=model.ir_version)
    return bytes(whole.SerializeToString())


def _cut(table: ir.Value, rows: int) -> int:
    """Leave the first rows of a table; the bytes that are gone."""
    assert table.const_value is not None
    array = table.const_value.numpy()
    if rows >= len(array):
        return 0
    less = ir.Tensor(np.ascontiguousarray(array[:rows]), name=table.name)
    table.const_value, table.shape = less, less.shape
    return int(array.nbytes - less.nbytes)
