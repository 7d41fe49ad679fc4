"""Codes narrower than a byte as the arrays a graph holds. No ONNX here.

A linear's matrices are transposed in a graph, `(i, o)`, and so is the order of everything flat. A table's rows stay rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import QuantTensor
from maskpack.formats.bits import pack_codes, unpack_codes


@dataclass(frozen=True, eq=False)
class Fields:
    """Codes narrower than a byte, and a table from which a graph unpacks each byte.

    Attributes:
        packed: uint8, the flat codes in the byte order of the artifact's own, low field first.
        table: int8 `(256, 8 / bits)`: the codes of every byte.
        count: codes in all; the last byte may hold padding.
    """

    packed: NDArray[np.uint8]
    table: NDArray[np.int8]
    count: int


def fields_of(tensor: QuantTensor) -> Fields | None:
    """The codes of a tensor in its own width, flat in a graph's order; None at 8 bits.

    Args:
        tensor: the weights, without a mask, because zero-free codes cannot store a 0.
    """
    if tensor.bits == 8:
        return None
    flat = np.ascontiguousarray(tensor.codes.T).reshape(1, -1)
    packed = pack_codes(flat, tensor.bits, zero_free=tensor.zero_free)[0]
    every = np.arange(256, dtype=np.uint8)[:, None]
    table = unpack_codes(every, tensor.bits, 8 // tensor.bits, zero_free=tensor.zero_free)
    return Fields(packed, table, flat.size)


@dataclass(frozen=True, eq=False)
class Plane:
    """Some bits of each field of a table, packed so that a graph unpacks a row with two shifts of whole bytes.

    Attributes:
        packed: uint8 `(rows, each)`, `each = ceil(width * bits / 8)`: byte `k` of a row holds the columns `k`, `k + each`, `k + 2 each`
            and so on, the first of them in its lowest bits. Columns that stand side by side would have to be woven together again.
        bits: how many of a field's bits: 4, 2 or 1.
        shift: how many of a field's bits lie below them.
        width: columns of a row.
    """

    packed: NDArray[np.uint8]
    bits: int
    shift: int
    width: int

    @property
    def parts(self) -> int:
        """Fields of a byte."""
        return 8 // self.bits

    @property
    def is_padded(self) -> bool:
        """Whether a row's bytes hold more fields than there are columns."""
        return bool(self.packed.shape[1] * self.parts != self.width)


@dataclass(frozen=True, eq=False)
class NarrowTable:
    """A table as planes of bits: `weight[r, c] = (field[r, c] - middle) * scales[r]`, the same float32 as code times scale.

    Attributes:
        planes: of its fields; their sum, each times `2**shift`, is the field.
        middle: what a field of 0 stands below 0; a half is exact.
        scales: float32 `(rows, 1)`: the tensor's, or twice them where codes are the odd numbers.
    """

    planes: tuple[Plane, ...]
    middle: float
    scales: NDArray[np.float32]


_PLANES = {4: (4,), 3: (2, 1), 2: (2,), 1: (1,)}


def narrow_table(tensor: QuantTensor) -> NarrowTable | None:
    """A table of rows in its own width; None at 8 bits.

    Args:
        tensor: the table, one scale a row.

    >>> table = QuantTensor(np.array([[3, -1, 1, -3, 3]], dtype="i1"), np.ones((1, 1), dtype="f2"), 2, 5, True)
    >>> narrow = narrow_table(table)  # fields 3 1 2 0 3: columns 0, 2, 4 in the first byte, 1 and 3 in the second
    >>> narrow.planes[0].packed.tolist(), narrow.middle, narrow.scales.tolist()
    ([[59, 1]], 1.5, [[2.0]])
    """
    if tensor.bits == 8:
        return None
    half = 1 if tensor.zero_free else 0
    lowest = tensor.limit if tensor.zero_free else tensor.limit + 1
    fields = ((tensor.codes + np.int8(lowest)) >> half).view(np.uint8)
    planes, shift = [], 0
    for bits in _PLANES[tensor.bits]:
        part = (fields >> np.uint8(shift)) & np.uint8((1 << bits) - 1)
        planes.append(Plane(_strided(part, bits), bits, shift, tensor.shape[1]))
        shift += bits
    scales = tensor.scales.astype(np.float32) * np.float32(1 << half)
    return NarrowTable(tuple(planes), lowest / (1 << half), scales)


def _strided(fields: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Fields `(rows, width)` as the bytes of a `Plane`."""
    rows, width = fields.shape
    each = -(-width * bits // 8)
    packed = np.zeros((rows, each), dtype=np.uint8)
    for part in range(8 // bits):
        columns = fields[:, part * each : (part + 1) * each]
        packed[:, : columns.shape[1]] |= columns << np.uint8(part * bits)
    return packed
