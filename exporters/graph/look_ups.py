"""Look-ups in a table of codes: only the rows that are asked for are widened.

    8 bits         ids -> Gather(codes) -> Cast -> Mul(Gather(scales))
    4, 2, 1 bits   ids -> Gather(fields) -> BitShift ... -> Concat -> Cast -> Sub(middle) -> Mul(Gather(scales))
    3 bits         the same for the low two bits and the high one, added before `Sub`

`BitShift` of bytes is a standard operator since opset 11, so that every runtime runs it. It is as fast as the
other ways to read narrow rows, or nearly: docs/RESULTS.md, "Narrow embeddings".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.weights import NarrowTable, Plane, narrow_table
from maskpack.formats import QuantTensor

LookUp = Callable[[GraphEditor, ir.Value], ir.Value]
"""Emits the float32 rows of ids `(...)`, `(..., width)`, before a node."""

_BYTE = 8


def row_look_up(tensor: QuantTensor, *, alone: bool) -> LookUp:
    """How rows of a table are looked up.

    Args:
        tensor: the table, one scale a row.
        alone: whether the graph only looks rows up. A table that is multiplied too is held once, a byte a code.
    """
    narrow = narrow_table(tensor) if alone else None
    return partial(_bytes, tensor) if narrow is None else partial(_narrow, narrow)


def stored_table(editor: GraphEditor, tensor: QuantTensor) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of a table, a byte a code."""
    codes = editor.constant(tensor.codes, "codes")
    return codes, editor.constant(tensor.scales.astype(np.float32), "scales")


def whole_table(editor: GraphEditor, tensor: QuantTensor) -> ir.Value:
    """All rows of a table in float32."""
    codes, scales = stored_table(editor, tensor)
    wide = editor.cast(codes, ir.DataType.FLOAT, label="wide")
    return editor.op("Mul", wide, scales, label="embedding")[0]


def _bytes(tensor: QuantTensor, editor: GraphEditor, ids: ir.Value) -> ir.Value:
    codes, scales = stored_table(editor, tensor)
    (row,) = editor.op("Gather", codes, ids, label="row")
    (scale,) = editor.op("Gather", scales, ids, label="scale")
    wide = editor.cast(row, ir.DataType.FLOAT, label="wide")
    return editor.op("Mul", wide, scale, label="embedding")[0]


def _narrow(table: NarrowTable, editor: GraphEditor, ids: ir.Value) -> ir.Value:
    total: ir.Value | None = None
    for plane in table.planes:
        value = _plane(editor, plane, ids, "" if len(table.planes) == 1 else f".{plane.shift}")
        total = value if total is None else editor.op("Add", total, value, label="field")[0]
    assert total is not None
    middle = np.array(table.middle, dtype=np.float32)
    stored = editor.shared_constant(middle, f"middle_{table.middle:g}")
    (centred,) = editor.op("Sub", total, stored, label="centred")
    scales = editor.constant(table.scales, "scales")
    (scale,) = editor.op("Gather", scales, ids, label="scale")
    return editor.op("Mul", centred, scale, label="embedding")[0]


def _plane(editor: GraphEditor, plane: Plane, ids: ir.Value, tag: str) -> ir.Value:
    """A plane's part of the fields of the rows, in float32."""
    stored = editor.constant(plane.packed, f"fields{tag}")
    (row,) = editor.op("Gather", stored, ids, label=f"row{tag}")
    parts = [_part(editor, row, plane, part, tag) for part in range(plane.parts)]
    (fields,) = editor.op("Concat", *parts, label=f"parts{tag}", attributes={"axis": -1})
    if plane.is_padded:
        ends = [editor.shape(0), editor.shape(plane.width), editor.shape(-1)]
        (fields,) = editor.op("Slice", fields, *ends, label=f"cut{tag}")
    value = editor.cast(fields, ir.DataType.FLOAT, label=f"wide{tag}")
    if plane.shift == 0:
        return value
    factor = np.array(2.0**plane.shift, dtype=np.float32)
    place = editor.shared_constant(factor, f"place_{factor:g}")
    return editor.op("Mul", value, place, label=f"place{tag}")[0]


def _part(editor: GraphEditor, row: ir.Value, plane: Plane, part: int, tag: str) -> ir.Value:
    """One field of each byte: what is above it goes out to the left, what is below it to the right."""
    above = _BYTE - (part + 1) * plane.bits
    for direction, count in (("LEFT", above), ("RIGHT", _BYTE - plane.bits)):
        if count:
            by = editor.shared_constant(np.array(count, dtype=np.uint8), f"by{count}")
            label = f"{direction.lower()}{part}{tag}"
            (row,) = editor.op(
                "BitShift", row, by, label=label, attributes={"direction": direction}
            )
    return row
