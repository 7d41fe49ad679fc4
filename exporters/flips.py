"""A task's mask inside a graph that shares its weights: removed positions, or bits, near the codes.

    flips   steps u8 -> positions -> ScatterElements(flat codes, positions, 0) -> Reshape
    bits    bytes u8 -> Gather(table 256 x 8) -> Reshape -> BitwiseAnd(codes)

All of it is constant and folds to one matrix of integers when a session is made; running costs nothing.
Flips are a byte for each removed weight, and one more wherever the next is far: a step of 1 to 255 goes on
so many positions and removes the weight there, a step of 0 goes on 255 and removes nothing (what it
finds there is written back). Bits are an eighth of a byte for each weight. The smaller one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    from maskpack.exporters.passes import GraphEditor

FLIPS, BITS = "flips", "bits"
_FAR = 255


def encode_flips(removed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Steps to the positions that are True, in order. Inverse of `decode_flips`.

    >>> encode_flips(np.array([False, True, True, False])).tolist()
    [2, 1]
    >>> far = np.zeros(600, dtype=bool); far[[254, 599]] = True
    >>> encode_flips(far).tolist()
    [255, 0, 90]
    """
    gaps = np.diff(np.flatnonzero(removed.ravel()), prepend=-1)
    jumps = (gaps - 1) // _FAR
    steps = np.zeros(len(gaps) + int(jumps.sum()), dtype=np.uint8)
    steps[np.cumsum(jumps + 1) - 1] = gaps - _FAR * jumps
    return steps


def decode_flips(steps: NDArray[np.uint8], length: int) -> NDArray[np.bool_]:
    """True where a weight is removed, `(length)`; inverse of `encode_flips`.

    >>> decode_flips(np.array([2, 1], dtype=np.uint8), 4).tolist()
    [False, True, True, False]
    """
    ends = np.cumsum(np.where(steps == 0, _FAR, steps.astype(np.int64))) - 1
    removed = np.zeros(length, dtype=np.bool_)
    removed[ends[steps != 0]] = True
    return removed


def emit_mask(editor: GraphEditor, codes: ir.Value, removed: NDArray[np.bool_]) -> ir.Value:
    """Codes with zeros where `removed`, which has their shape; `codes` themselves if nothing is."""
    if not removed.any():
        return codes
    steps, packed = encode_flips(removed), np.packbits(~removed.ravel(), bitorder="little")
    shape = editor.constant(np.array(removed.shape, dtype=np.int64), "mask_shape")
    if len(steps) <= len(packed):
        return _emit_flips(editor, codes, steps, shape)
    return _emit_bits(editor, codes, packed, shape, removed.size)


def _emit_flips(
    editor: GraphEditor, codes: ir.Value, steps: NDArray[np.uint8], shape: ir.Value
) -> ir.Value:
    whole = editor.shared_constant(np.array([-1], dtype=np.int64), "whole")
    zero = editor.shared_constant(np.array(0, dtype=np.int32), "zero")
    one = editor.shared_constant(np.array(1, dtype=np.int32), "one")
    far = editor.shared_constant(np.array(_FAR, dtype=np.int32), "far")
    told = editor.constant(steps, FLIPS)
    (wide,) = editor.op("Cast", told, label="steps", attributes={"to": ir.DataType.INT32})
    (passing,) = editor.op("Equal", wide, zero, label="passing")
    (lengths,) = editor.op("Where", passing, far, wide, label="lengths")
    (ends,) = editor.op("CumSum", lengths, zero, label="ends")
    (places,) = editor.op("Sub", ends, one, label="places")
    (flat,) = editor.op("Reshape", codes, whole, label="flat")
    (there,) = editor.op("Gather", flat, places, label="there")
    # ONNX Runtime has no `Where` of int8: 1.20 and older refuse the graph, newer ones fold it late.
    (kept,) = editor.op("Cast", there, label="found", attributes={"to": ir.DataType.INT32})
    (kept,) = editor.op("Where", passing, kept, zero, label="kept")
    (put,) = editor.op("Cast", kept, label="put", attributes={"to": ir.DataType.INT8})
    (masked,) = editor.op("ScatterElements", flat, places, put, label="scattered")
    (result,) = editor.op("Reshape", masked, shape, label="masked")
    return result


def _emit_bits(
    editor: GraphEditor, codes: ir.Value, packed: NDArray[np.uint8], shape: ir.Value, size: int
) -> ir.Value:
    spread = -((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.int8)
    table = editor.shared_constant(spread, "table")
    whole = editor.shared_constant(np.array([-1], dtype=np.int64), "whole")
    told = editor.constant(packed, BITS)
    (index,) = editor.op("Cast", told, label="bytes", attributes={"to": ir.DataType.INT32})
    (rows,) = editor.op("Gather", table, index, label="rows")
    (flat,) = editor.op("Reshape", rows, whole, label="keep")
    if size % 8:
        first = editor.shared_constant(np.array([0], dtype=np.int64), "first")
        last = editor.constant(np.array([size], dtype=np.int64), "last")
        (flat,) = editor.op("Slice", flat, first, last, label="cut")
    (keep,) = editor.op("Reshape", flat, shape, label="mask")
    (result,) = editor.op("BitwiseAnd", codes, keep, label="masked")
    return result
