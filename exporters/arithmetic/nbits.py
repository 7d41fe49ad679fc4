"""Products that ONNX Runtime computes on 4- or 8-bit codes with a scale a block (MatMulNBits).

    folded     blocks (constant), scales -> MatMulNBits(x)
    shared     codes, masked in the graph -> Transpose -> Pad -> Cast -> Add(zero) -> MatMul(1, 16) -> blocks

A row of `i` codes is cut into blocks of one size that have a scale each. Codes are stored unsigned, two in
a byte (the first is the low half) or one; the padding of a row's last block is 0.

    row of -7, 0, 3   in blocks of 2, 4 bits each   ->   0x81 | 0x8b

Activations are quantised in blocks as well, with a scale a block of a row instead of one a tensor: a third to
nine tenths of int8's error, and a text does not depend on its batch. It is slower than int8 (`docs/RESULTS.md`).
The operator is ONNX Runtime's own, not the standard's; 4 bits from 1.17 on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.arithmetic.base import ROUNDED, Arithmetic, Read, stored_codes
from maskpack.exporters.graph.dequantize import DequantizeProducts, IntegerProduct
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import RewriteContext
from maskpack.exporters.graph.units import ALL, Kept, take
from maskpack.formats import ExportError, QuantTensor

_SMALLEST, _LARGEST = 16, 128  # sizes that ONNX Runtime has kernels for; powers of two between


@dataclass(frozen=True)
class Blocking:
    """Blocks of the rows of a matrix.

    Attributes:
        outputs, inputs: shape of the matrix.
        bits: a stored code takes: 4 or 8.
        size: codes in a block.
    """

    outputs: int
    inputs: int
    bits: int
    size: int

    def of(self, kept: Kept) -> Blocking:
        """Blocks of the part of the matrix that a graph holds."""
        outputs = self.outputs if kept.rows is None else len(kept.rows)
        inputs = self.inputs if kept.columns is None else len(kept.columns)
        return replace(self, outputs=outputs, inputs=inputs)

    @property
    def count(self) -> int:
        """Blocks of a row."""
        return -(-self.inputs // self.size)

    @property
    def padding(self) -> int:
        """Codes that fill the last block of a row."""
        return self.count * self.size - self.inputs

    @property
    def zero(self) -> int:
        """Stored value of a zero code."""
        return 1 << (self.bits - 1)

    @property
    def packing(self) -> NDArray[np.float32]:
        """Factors of the codes of one byte, float32 `(8 / bits,)`."""
        steps = np.arange(8 // self.bits, dtype=np.float32)
        return np.asarray(np.exp2(steps * self.bits).astype(np.float32))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the stored bytes: `(o, blocks, bytes of a block)`."""
        return self.outputs, self.count, self.size * self.bits // 8


def blocking_of(name: str, tensor: QuantTensor) -> Blocking:
    """The blocks of a tensor: 4 bits hold all codes of 4 bits and fewer, and the 0 of a mask.

    Args:
        name: of the parameter, for the error.
        tensor: its weights.

    Raises:
        ExportError: its groups cannot be cut into blocks.
    """
    outputs, inputs = tensor.shape
    size = _LARGEST
    whole = tensor.scales.shape[1] == 1
    limit = inputs if whole else tensor.group
    while size > _SMALLEST and (size > limit or (not whole and tensor.group % size)):
        size //= 2
    if not whole and tensor.group % size:
        raise ExportError(
            f"`{name}` has a scale for each {tensor.group} weights, blocks have {_SMALLEST} times a "
            "power of two",
            "export in `int8` or `fp32` arithmetic",
        )
    return Blocking(outputs, inputs, 4 if tensor.bits <= 4 else 8, size)


def block_columns(name: str, tensor: QuantTensor) -> int:
    """Columns that stay or go together: a block, or any single one where all blocks of a row have one scale."""
    return 1 if tensor.scales.shape[1] == 1 else blocking_of(name, tensor).size


def block_scales(tensor: QuantTensor, blocking: Blocking, kept: Kept = ALL) -> NDArray[np.float32]:
    """The scale of every block that a graph holds, float32 `(o * blocks,)`.

    Args:
        tensor: the whole matrix.
        blocking: of it.
        kept: what the graph holds, see `block_columns`.
    """
    columns = np.arange(tensor.shape[1]) if kept.columns is None else kept.columns
    groups = columns[:: blocking.size] // tensor.group
    scales = take(tensor.scales.astype(np.float32)[:, groups], kept.rows, 0)
    return np.ascontiguousarray(scales).reshape(-1)


def to_blocks(codes: NDArray[np.int8], blocking: Blocking) -> NDArray[np.uint8]:
    """Codes `(i, o)`, in a graph's order, to stored bytes `(o, blocks, bytes)`.

    >>> blocking = Blocking(outputs=1, inputs=3, bits=4, size=2)
    >>> [hex(byte) for byte in to_blocks(np.array([[-7], [0], [3]], np.int8), blocking).flatten()]
    ['0x81', '0x8b']
    """
    padded = np.pad(codes.T.astype(np.int16), ((0, 0), (0, blocking.padding)))
    fields = (padded + blocking.zero).reshape(-1, 8 // blocking.bits)
    return np.asarray((fields @ blocking.packing).astype(np.uint8).reshape(blocking.shape))


def from_blocks(stored: NDArray[np.uint8], blocking: Blocking) -> NDArray[np.int8]:
    """Inverse of `to_blocks`: codes `(i, o)`.

    >>> blocking = Blocking(outputs=1, inputs=3, bits=4, size=2)
    >>> from_blocks(np.array([[[0x81], [0x8B]]], np.uint8), blocking).tolist()
    [[-7], [0], [3]]
    """
    shifts = np.arange(8 // blocking.bits) * blocking.bits
    fields = (stored[..., None] >> shifts) & (2**blocking.bits - 1)
    rows = fields.astype(np.int16).reshape(blocking.outputs, -1)[:, : blocking.inputs]
    return np.ascontiguousarray((rows - blocking.zero).astype(np.int8).T)


def float_weight(
    stored: NDArray[np.uint8], scales: NDArray[np.float32], blocking: Blocking
) -> NDArray[np.float32]:
    """The weights of stored bytes and the scales of their blocks, float32 `(i, o)`."""
    rows = np.repeat(scales.reshape(blocking.outputs, -1), blocking.size, axis=1)
    return np.ascontiguousarray(from_blocks(stored, blocking) * rows[:, : blocking.inputs].T)


NBITS_OP = "MatMulNBits"
_DOMAIN = "com.microsoft"
_INT8_ACTIVATIONS = 4  # the operator's `accuracy_level`


def emit_nbits(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """Arithmetic of the operator; a module that is used several times has one set of blocks."""
    kept = context.masks.kept(editor.name)
    whole = blocking_of(f"{editor.name}.weight", tensor)
    blocking = whole.of(kept)
    codes = np.ascontiguousarray(tensor.codes.T)
    known = context.masks.known(editor.name, codes)
    if known is not None:
        blocks = editor.constant(to_blocks(known, blocking), "blocks")
    else:
        if editor.name not in context.ready:
            matrix = context.masks.matrix(editor, codes, codes.shape, context.unpack(tensor, None))
            context.ready[editor.name] = _emit_blocks(editor, matrix, blocking)
        blocks = context.ready[editor.name]
    # the task's own if units are gone: what would pick them from shared ones is as large as they are
    scales = editor.constant(block_scales(tensor, whole, kept), "scales")
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
    """`to_blocks` as nodes, which all fold, because codes and mask are constants."""
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


class DequantizeBlocks(DequantizeProducts):
    """Replace every product on blocks of codes by a float one."""

    def find(self, node: ir.Node) -> IntegerProduct | None:
        """A product whose weights are constant, without zero points and without an order of groups."""
        if node.op_type != NBITS_OP or len(node.inputs) != 3:
            return None
        inputs, blocks, scales = node.inputs
        if inputs is None or blocks is None or scales is None:
            return None
        if blocks.name not in self.constants or scales.name not in self.constants:
            return None
        read = (node.attributes[name].as_int() for name in ("N", "K", "bits", "block_size"))
        weight = partial(float_weight, blocking=Blocking(*read))
        return IntegerProduct(inputs, scales, (blocks, scales), weight, node.outputs[0])


def block_codes(read: Read, module: str, tensor: QuantTensor) -> NDArray[np.int8] | None:
    """The codes of a module from its blocks, or from the constant of which the graph makes blocks."""
    blocks = read(f"{module}.blocks")
    if blocks is None:
        return stored_codes(read, module, tensor)
    outputs, _, width = blocks.shape
    bits = 4 if tensor.bits <= 4 else 8
    inputs = min(tensor.shape[1], blocks.shape[1] * width * 8 // bits)
    return from_blocks(blocks, Blocking(outputs, inputs, bits, width * 8 // bits)).reshape(-1)


NBITS = Arithmetic(
    name="nbits",
    emit=emit_nbits,
    tolerance=ROUNDED,
    operator=NBITS_OP,
    codes=block_codes,
    dequantize=DequantizeBlocks,
    block=block_columns,
    fuses_attention=True,
)
