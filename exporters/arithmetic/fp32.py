"""Exact float arithmetic on weights that are stored as integers.

    Cast(codes) -> Mul(scales) -> Reshape = W;  x -> MatMul(W) -> Add(b)

All but the product folds to a float matrix when a session is made.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from maskpack.exporters.arithmetic.base import Arithmetic, Tolerance
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import RewriteContext, emit_spread, grouped
from maskpack.formats import QuantTensor
from maskpack.formats.channels import group_scales


def emit_fp32(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """Float arithmetic on weights that are stored as integers and widened when a session is made."""
    if editor.name not in context.ready:
        context.ready[editor.name] = _emit_floats(editor, tensor, context)
    (result,) = editor.op("MatMul", inputs, context.ready[editor.name], label="linear")
    return result


def _emit_floats(editor: GraphEditor, tensor: QuantTensor, context: RewriteContext) -> ir.Value:
    """The masked weights as floats, `(i, o)`."""
    if not context.masks.kept(editor.name).is_all:
        return _emit_kept_floats(editor, tensor, context)
    shape = grouped(tensor)
    codes = np.ascontiguousarray(tensor.codes.T)
    matrix = context.masks.matrix(editor, codes, shape, context.unpack(tensor, None))
    wide = editor.cast(matrix, ir.DataType.FLOAT, label="wide")
    scales = emit_spread(editor, group_scales(tensor), tensor, "scales")
    (scaled,) = editor.op("Mul", wide, scales, label="scaled")
    if len(shape) == 2:
        return scaled
    (matrix,) = editor.op("Reshape", scaled, editor.shape(*tensor.shape[::-1]), label="weight")
    return matrix


def _emit_kept_floats(
    editor: GraphEditor, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """The same for the rows and columns that a graph holds; columns of one group may be any number."""
    kept, groups = context.masks.kept(editor.name), tensor.scales.shape[1]
    codes = np.ascontiguousarray(tensor.codes.T)
    matrix = context.masks.matrix(editor, codes, codes.shape, context.unpack(tensor, None))
    wide = editor.cast(matrix, ir.DataType.FLOAT, label="wide")
    scales = group_scales(tensor)  # in the shape in which other tasks store them, see `emit_spread`
    scales = scales[:, 0, :] if tensor.shape[1] % tensor.group else scales
    own = context.masks.taken(editor, scales, "scales", kept.rows, scales.ndim - 1)
    outputs = tensor.shape[0] if kept.rows is None else len(kept.rows)
    (table,) = editor.op("Reshape", own, editor.shape(groups, outputs), label="table")
    if groups > 1:
        columns = np.arange(tensor.shape[1]) if kept.columns is None else kept.columns
        places = editor.constant((columns // tensor.group).astype(np.int64), "group")
        (table,) = editor.op("Gather", table, places, label="scales_rows")
    (scaled,) = editor.op("Mul", wide, table, label="scaled")
    return scaled


FP32 = Arithmetic(
    name="fp32",
    emit=emit_fp32,
    tolerance=Tolerance(atol=1e-4, max_drop=0.5),
    masks_as_inputs=True,
)
