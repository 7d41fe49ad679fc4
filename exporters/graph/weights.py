"""Codes narrower than a byte as the arrays a graph holds. No ONNX here.

The graph's matrices are transposed, `(i, o)`, and so is the order of everything flat.
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
