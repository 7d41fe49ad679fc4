"""Look-ups in a table of codes: only the rows that are asked for are widened.

    8 bits         ids -> Gather(codes) -> Cast -> Mul(Gather(scales))
    4, 2, 1 bits   ids -> Gather(fields) -> BitShift ... -> Concat -> Cast -> Sub(middle) -> Mul(Gather(scales))
    3 bits         the same for the low two bits and the high one, added before `Sub`
    two widths     ids -> Gather(places): wide rows come first. Both kinds are looked up, each at the nearest row
                   that it has, and `Where` takes the one that a token has -> Mul(Gather(scales))

`BitShift` of bytes is a standard operator since opset 11, so that every runtime runs it. It is as fast as the
other ways to read narrow rows, or nearly: docs/RESULTS.md, "Narrow embeddings".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.weights import NarrowTable, Plane, narrow_table
from maskpack.formats import QuantTensor
from maskpack.formats.mixed_rows import MixedRows

LookUp = Callable[[GraphEditor, ir.Value], ir.Value]
"""Emits the float32 rows of ids `(...)`, `(..., width)`, before a node."""

_BYTE = 8


def row_look_up(tensor: QuantTensor, *, alone: bool) -> LookUp:
    """How rows of a table are looked up.

    Args:
        tensor: the table, one scale a row.
        alone: whether the graph only looks rows up. A table that is multiplied too is held once, a byte a code.
    """
    if alone and isinstance(tensor, MixedRows):
        return partial(_mixed, tensor)
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
    return _scaled(editor, _centred(editor, table, ids), table.scales, ids)


def _mixed(table: MixedRows, editor: GraphEditor, ids: ir.Value) -> ir.Value:
    """Rows of two widths: each token is looked up in both tables, and one of the two rows is taken."""
    count = int(table.is_wide.sum())
    places = np.empty(len(table.is_wide), dtype=np.int32)
    places[table.is_wide] = np.arange(count)
    places[~table.is_wide] = np.arange(count, len(places))
    small = places.astype(np.int16 if len(places) <= np.iinfo(np.int16).max else np.int32)
    (place,) = editor.op("Gather", editor.constant(small, "places"), ids, label="place")
    place = editor.cast(place, ir.DataType.INT32, label="place32")
    last, first = (
        editor.constant(np.array(number, dtype=np.int32), label)
        for number, label in ((count - 1, "last_wide"), (count, "first_rare"))
    )
    zero = editor.shared_constant(np.array(0, dtype=np.int32), "int32_0")
    (wide_place,) = editor.op("Min", place, last, label="wide_place")
    (behind,) = editor.op("Sub", place, first, label="behind")
    (rare_place,) = editor.op("Max", behind, zero, label="rare_place")
    wide, wide_scales = _part_of(editor, table.wide, wide_place, ".wide")
    rare, rare_scales = _part_of(editor, table.rare, rare_place, ".rare")
    (is_wide,) = editor.op("Less", place, first, label="is_wide")
    (of_row,) = editor.op("Unsqueeze", is_wide, editor.shape(-1), label="of_row")
    (row,) = editor.op("Where", of_row, wide, rare, label="row")
    scales = np.empty((len(places), 1), dtype=np.float32)
    scales[table.is_wide], scales[~table.is_wide] = wide_scales, rare_scales
    return _scaled(editor, row, scales, ids)


def _part_of(
    editor: GraphEditor, tensor: QuantTensor, ids: ir.Value, tag: str
) -> tuple[ir.Value, NDArray[np.float32]]:
    """Rows of one width without their scales, and the scales that belong to them."""
    narrow = narrow_table(tensor)
    if narrow is not None:
        return _centred(editor, narrow, ids, tag), narrow.scales
    (row,) = editor.op(
        "Gather", editor.constant(tensor.codes, f"codes{tag}"), ids, label=f"row{tag}"
    )
    return editor.cast(row, ir.DataType.FLOAT, label=f"wide{tag}"), tensor.scales.astype(np.float32)


def _scaled(
    editor: GraphEditor, row: ir.Value, scales: NDArray[np.float32], ids: ir.Value
) -> ir.Value:
    (scale,) = editor.op("Gather", editor.constant(scales, "scales"), ids, label="scale")
    return editor.op("Mul", row, scale, label="embedding")[0]


def _centred(editor: GraphEditor, table: NarrowTable, ids: ir.Value, tag: str = "") -> ir.Value:
    """Rows `field - middle`, without their scales."""
    total: ir.Value | None = None
    for plane in table.planes:
        own = tag if len(table.planes) == 1 else f"{tag}.{plane.shift}"
        value = _plane(editor, plane, ids, own)
        total = value if total is None else editor.op("Add", total, value, label=f"field{tag}")[0]
    assert total is not None
    middle = np.array(table.middle, dtype=np.float32)
    stored = editor.shared_constant(middle, f"middle_{table.middle:g}")
    return editor.op("Sub", total, stored, label=f"centred{tag}")[0]


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
