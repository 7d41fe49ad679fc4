"""Bits and integer codes to bytes and back, always least significant bit first.

The first element of a row lies in the lowest bits of its first byte, as in
`numpy.packbits(bitorder="little")`. Every row starts on a byte boundary, so that one row can be
read without its neighbours; the padding bits at a row's end are zero.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError

CODE_BITS = (8, 4, 2, 1)
"""Widths of a linear's code in format version 1."""

EMBEDDING_BITS = (8, 4, 3, 2)
"""Widths of a code of a table that is looked up."""

ZERO_FREE_BITS = (3, 2, 1)
"""Widths that may spend all their fields on values other than 0, because a mask supplies the 0, or a table needs none."""

THREE_BITS = "embedding-3"
"""A table of 3 bits, as `requires` of a manifest names it."""

MIXED_ROWS = "embedding-rows"
"""A table with rows of two widths, as `requires` of a manifest names it."""

RARE_BITS = 2
"""Width of the zero-free codes of its rare rows."""

_WIDTHS = tuple(sorted({*CODE_BITS, *EMBEDDING_BITS}, reverse=True))
_ALWAYS_ZERO_FREE = (3, 1)


def code_limit(bits: int, *, zero_free: bool = False) -> int:
    """Largest magnitude of a symmetric code.

    >>> [code_limit(8), code_limit(4), code_limit(2)]
    [127, 7, 1]
    >>> [code_limit(2, zero_free=True), code_limit(1, zero_free=True)]
    [3, 1]
    """
    return (1 << bits) - 1 if zero_free else (1 << (bits - 1)) - 1


def pack_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack the last axis of `bits (o, i)` into bytes `(o, ceil(i / 8))`.

    >>> pack_bits(np.array([[1, 0, 1, 1, 0, 0, 0, 0, 1]], dtype=bool)).tobytes().hex()
    '0d01'
    """
    return np.packbits(bits, axis=-1, bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Inverse of `pack_bits`: bytes `(o, ceil(width / 8))` to `(o, width)`.

    Raises:
        ArtifactError: the row length does not fit `width`, or a padding bit is set.

    >>> unpack_bits(np.array([[0x0D, 0x01]], dtype=np.uint8), 9).astype(int).tolist()
    [[1, 0, 1, 1, 0, 0, 0, 0, 1]]
    """
    _check_row_bytes(packed, width, 1)
    bits = np.unpackbits(packed, axis=-1, bitorder="little")
    if bits[..., width:].any():
        raise ArtifactError("a padding bit of a packed mask is set")
    return bits[..., :width].astype(np.bool_)


def pack_codes(codes: NDArray[np.int8], bits: int, *, zero_free: bool = False) -> NDArray[np.uint8]:
    """Pack signed `codes (o, i)` into fields of `bits` bits, low field first.

    A field holds the code in two's complement, or `(code + limit) / 2` of zero-free codes, which
    are the odd numbers from -limit to limit.

    >>> pack_codes(np.array([[1, -1, 7]], dtype=np.int8), 4).tobytes().hex()
    'f107'
    >>> pack_codes(np.array([[-3, -1, 1, 3]], dtype=np.int8), 2, zero_free=True).tobytes().hex()
    'e4'
    >>> pack_codes(np.array([[-7, -5, 7]], dtype=np.int8), 3, zero_free=True).tobytes().hex()
    'c801'

    Raises:
        ArtifactError: no such width, or an even code (a 0) among zero-free ones.
    """
    _check_width(bits, zero_free=zero_free)
    if zero_free:
        if not (codes & 1).all():
            raise ArtifactError("zero-free codes hold an even one: a mask is not part of them")
        codes = (codes + np.int8(code_limit(bits, zero_free=True))) >> 1
    if bits == 8:
        return np.ascontiguousarray(codes).view(np.uint8)
    if bits == 3:
        return _pack_threes(codes.view(np.uint8))
    per_byte = 8 // bits
    rows, width = codes.shape
    fields = np.zeros((rows, -(-width // per_byte) * per_byte), dtype=np.uint8)
    fields[:, :width] = codes.view(np.uint8) & ((1 << bits) - 1)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    shifted = fields.reshape(rows, -1, per_byte) << shifts
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=-1)
    return packed


def unpack_codes(
    packed: NDArray[np.uint8], bits: int, width: int, *, zero_free: bool = False
) -> NDArray[np.int8]:
    """Inverse of `pack_codes`: bytes `(o, ceil(width * bits / 8))` to int8 codes `(o, width)`.

    Raises:
        ArtifactError: the row length does not fit `width`, or a padding field is not zero.

    >>> unpack_codes(np.array([[0xF1, 0x07]], dtype=np.uint8), 4, 3).tolist()
    [[1, -1, 7]]
    >>> unpack_codes(np.array([[0xE4]], dtype=np.uint8), 2, 4, zero_free=True).tolist()
    [[-3, -1, 1, 3]]
    """
    _check_width(bits, zero_free=zero_free)
    _check_row_bytes(packed, width, bits)
    if bits == 8:
        return np.ascontiguousarray(packed).view(np.int8)
    if width * bits % 8 and (packed[:, -1] >> np.uint8(width * bits % 8)).any():
        raise ArtifactError("a padding field of packed codes is not zero")
    if bits == 3:
        fields = _unpack_threes(packed, width).view(np.int8)
        return fields * np.int8(2) - np.int8(code_limit(3, zero_free=True))
    codes = _every_byte(bits, zero_free=zero_free)[packed].view(np.int8)
    return codes if codes.shape[1] == width else np.ascontiguousarray(codes[:, :width])


def _pack_threes(fields: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fields of 3 bits `(o, i)` as bytes `(o, ceil(3 i / 8))`: eight fields are three bytes."""
    rows, width = fields.shape
    words = np.zeros((rows, -(-width // 8)), dtype="<u4")
    for place in range(min(8, width)):
        column = fields[:, place::8]
        words[:, : column.shape[1]] |= column.astype("<u4") << np.uint32(3 * place)
    three = words.view(np.uint8).reshape(rows, -1, 4)[:, :, :3]
    return np.ascontiguousarray(three.reshape(rows, -1)[:, : row_bytes(width, 3)])


def _unpack_threes(packed: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Inverse of `_pack_threes`."""
    rows = len(packed)
    four = np.zeros((rows, -(-width // 8), 4), dtype=np.uint8)
    whole = np.zeros((rows, four.shape[1] * 3), dtype=np.uint8)
    whole[:, : packed.shape[1]] = packed
    four[:, :, :3] = whole.reshape(rows, -1, 3)
    words = four.reshape(rows, -1).view("<u4")
    fields = np.empty((rows, width), dtype=np.uint8)
    for place in range(min(8, width)):
        column = fields[:, place::8]
        column[:] = (words[:, : column.shape[1]] >> np.uint32(3 * place)) & np.uint32(7)
    return fields


@cache
def _every_byte(bits: int, *, zero_free: bool) -> NDArray[np.unsignedinteger]:
    """The codes of each byte, one number of as many bytes as a byte has fields: `(256,)`."""
    per_byte = 8 // bits
    fields = np.arange(256)[:, None] >> (np.arange(per_byte) * bits) & ((1 << bits) - 1)
    if zero_free:
        codes = 2 * fields - code_limit(bits, zero_free=True)
    else:
        codes = fields - ((fields >> (bits - 1)) << bits)  # two's complement
    wide = np.ascontiguousarray(codes.astype(np.int8)).view(f"u{per_byte}")
    return np.asarray(wide[:, 0])


def _check_width(bits: int, *, zero_free: bool) -> None:
    if bits not in _WIDTHS:
        raise ArtifactError(f"codes of {bits} bits are not in this format: {_WIDTHS}")
    if zero_free and bits not in ZERO_FREE_BITS:
        raise ArtifactError(
            f"zero-free codes of {bits} bits are not in this format: {ZERO_FREE_BITS}"
        )
    if bits in _ALWAYS_ZERO_FREE and not zero_free:
        raise ArtifactError(f"codes of {bits} bits are not in this format unless zero-free")


def row_bytes(width: int, bits: int) -> int:
    """Bytes of a packed row of `width` codes.

    >>> row_bytes(3, 4)
    2
    """
    return -(-width * bits // 8)


def _check_row_bytes(packed: NDArray[np.uint8], width: int, bits: int) -> None:
    expected = row_bytes(width, bits)
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != expected:
        raise ArtifactError(
            f"packed rows are {packed.dtype} {packed.shape}, expected uint8 (*, {expected}) "
            f"for {width} fields of {bits} bits"
        )


def binary_entropy(share: float) -> float:
    """Zeroth-order entropy of a bit that is 1 with probability `share`, in bits.

    >>> round(binary_entropy(0.01), 4)
    0.0808
    """
    if not 0.0 < share < 1.0:
        return 0.0
    return float(-share * np.log2(share) - (1 - share) * np.log2(1 - share))
