"""Products that ONNX Runtime computes on 4- or 8-bit codes with a scale a block (MatMulNBits).

    folded     blocks (constant), scales -> MatMulNBits(x)
    shared     codes, masked in the graph -> Transpose -> Pad -> Cast -> Add(zero) -> MatMul(1, 16) -> blocks

Activations are quantised in blocks as well, with a scale a block of a row instead of one a tensor: a third to
nine tenths of int8's error, and no text depends on its batch-mates. It is slower than int8 (`docs/RESULTS.md`).
The operator is ONNX Runtime's own, not the standard's; 4 bits from 1.17 on.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from maskpack.exporters.graph.blocks import Blocking, block_scales, blocking_of, to_blocks
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import Shared
from maskpack.formats import QuantTensor

NBITS_OP = "MatMulNBits"
_DOMAIN = "com.microsoft"
_INT8_ACTIVATIONS = 4  # the operator's `accuracy_level`


def emit_nbits(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, shared: Shared
) -> ir.Value:
    """Arithmetic of the operator; a module that is used several times has one set of blocks."""
    blocking = blocking_of(f"{editor.name}.weight", tensor)
    codes = np.ascontiguousarray(tensor.codes.T)
    known = shared.masks.known(editor.name, codes)
    if known is not None:
        blocks = editor.constant(to_blocks(known, blocking), "blocks")
    else:
        if editor.name not in shared.ready:
            matrix = shared.masks.matrix(editor, codes, codes.shape, shared.unpack(tensor, None))
            shared.ready[editor.name] = _emit_blocks(editor, matrix, blocking)
        blocks = shared.ready[editor.name]
    scales = editor.constant(block_scales(tensor, blocking), "scales")
    editor.graph.opset_imports[_DOMAIN] = 1
    (result,) = editor.op(
        NBITS_OP,
        inputs,
        blocks,
        scales,
        label="linear",
        domain=_DOMAIN,
        attributes={
            "K": blocking.inputs,
            "N": blocking.outputs,
            "bits": blocking.bits,
            "block_size": blocking.size,
            "accuracy_level": _INT8_ACTIVATIONS,
        },
    )
    return result


def _emit_blocks(editor: GraphEditor, matrix: ir.Value, blocking: Blocking) -> ir.Value:
    """`to_blocks` as nodes, all of which fold: the codes are constants behind their mask."""
    (rows,) = editor.op("Transpose", matrix, label="rows")
    wide = editor.cast(rows, ir.DataType.FLOAT, label="wide")
    if blocking.padding:
        ends = np.array([0, 0, 0, blocking.padding], dtype=np.int64)
        (wide,) = editor.op("Pad", wide, editor.constant(ends, "ends"), label="padded")
    zero = editor.constant(np.array(blocking.zero, dtype=np.float32), "zero")
    (fields,) = editor.op("Add", wide, zero, label="fields")
    per_byte = len(blocking.packing)
    (pairs,) = editor.op("Reshape", fields, editor.shape(-1, per_byte), label="pairs")
    factors = editor.constant(blocking.packing[:, None], "packing")
    (stored,) = editor.op("MatMul", pairs, factors, label="bytes")
    narrow = editor.cast(stored, ir.DataType.UINT8, label="narrow")
    (blocks,) = editor.op("Reshape", narrow, editor.shape(*blocking.shape), label="blocks")
    return blocks


def blocking_in(node: ir.Node) -> Blocking:
    """The blocks that a product of the operator reads."""
    outputs, inputs, bits, size = (
        node.attributes[name].as_int() for name in ("N", "K", "bits", "block_size")
    )
    return Blocking(outputs, inputs, bits, size)
