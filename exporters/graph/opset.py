"""A graph in another version of the standard operators than the one that it is traced in.

Newer versions are written by onnxscript's converter. An older one is written here: onnx's converter knows no older `Split`, and
refuses whole graphs for shapes that it infers otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnx_ir as ir
from onnxscript import version_converter

from maskpack.exporters.options import IR_VERSION, OPSET
from maskpack.formats import ExportError


def in_opset(model: ir.Model, opset: int) -> ir.Model:
    """The graph in `opset`, changed in place, with the oldest IR version that may hold it.

    Raises:
        ExportError: an operator of the graph has no form in that opset.
    """
    if opset == OPSET:
        return model
    try:
        if opset > OPSET:
            version_converter.convert_version(model, opset, fallback=False)
        else:
            _lower(model, opset)
    except Exception as error:  # the converter has no class of errors
        raise ExportError(
            f"the graph cannot be written in opset {opset}: {str(error).splitlines()[0]}",
            f"opset {OPSET} is the one that graphs are made in",
        ) from error
    found = model.graph.opset_imports.get("")
    if found != opset:
        raise ExportError(f"the graph stays in opset {found}, {opset} was asked for")
    imports = [onnx.helper.make_opsetid(*each) for each in model.graph.opset_imports.items()]
    oldest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    model.ir_version = max(IR_VERSION, oldest)
    return model


def _lower(model: ir.Model, opset: int) -> None:
    """Write a graph in an older opset.

    Raises:
        ValueError: an operator is younger, or used in a way that is younger.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain != "":
            continue
        since = onnx.defs.get_schema(node.op_type, OPSET).since_version
        if since > opset and not _OLDER.get(node.op_type, _never)(node):
            raise ValueError(f"`{node.op_type}` of `{node.name}` has no form there")
    model.graph.opset_imports[""] = opset


def _never(node: ir.Node) -> bool:
    """Of an operator that is not known to have an older form."""
    del node
    return False


def _split(node: ir.Node) -> bool:
    """Sizes are an input in both; a number of parts was not given before 18, which knew equal parts alone."""
    if "num_outputs" not in node.attributes:
        return True
    shape, axis = node.inputs[0].shape if node.inputs[0] else None, node.attributes.get("axis")
    size = None if shape is None else shape[0 if axis is None else axis.as_int()]
    if not isinstance(size, int) or size % len(node.outputs):
        return False
    del node.attributes["num_outputs"]
    return True


def _scatter(node: ir.Node) -> bool:
    """18 adds maximum and minimum."""
    how = node.attributes.get("reduction")
    return how is None or how.as_string() in {"none", "add", "mul"}


def _pad(node: ir.Node) -> bool:
    """18 adds axes."""
    return len(node.inputs) <= 3 or node.inputs[3] is None


def _reduce(node: ir.Node) -> bool:
    """Axes are an attribute before 18, an input from then on."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return "noop_with_empty_axes" not in node.attributes
    axes = ir.convenience.get_const_tensor(node.inputs[1])
    if axes is None or not axes.size:
        return False
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", axes.numpy().tolist())
    node.resize_inputs(1)
    return True


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
_OLDER: Mapping[str, Callable[[ir.Node], bool]] = {
    "Pad": _pad,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Split": _split,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
"""Operator that 18 changed -> writes a node as 17 has it; False: it has no such form. `Resize` is in no graph of a text."""
