"""Rice codes: few positions among many, as the gaps between them. For masks too small to model.

Golomb 1966, with a power of two as in Rice 1979: of each gap the low `k` bits as they are, all gaps
after one another, then the rest of each in unary, that many 0s and a 1. Both parts are one row of
bits, least significant first (SPEC.md section 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError

LARGEST_RICE = 30


def encode_gaps(positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], int]:
    """Code rising positions from 0; the smallest for any `k`. Inverse of `decode_gaps`.

    >>> coded, rice = encode_gaps(np.array([2, 3, 9]))  # gaps 2, 0, 5; low bits 0 0 1; 1, 0, 2 0s
    >>> coded.tobytes().hex(), rice
    ('3401', 1)
    """
    gaps = np.diff(positions, prepend=-1) - 1
    sizes = [len(gaps) * (rice + 1) + int((gaps >> rice).sum()) for rice in range(LARGEST_RICE + 1)]
    rice = int(np.argmin(sizes))
    low = (gaps[:, None] >> np.arange(rice)) & 1
    ends = np.cumsum((gaps >> rice) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    unary[ends - 1] = 1
    bits = np.concatenate([low.astype(np.uint8).ravel(), unary])
    return np.packbits(bits, bitorder="little"), rice


def decode_gaps(coded: NDArray[np.uint8], rice: int, count: int, length: int) -> NDArray[np.int64]:
    """Positions `(count)` below `length`; inverse of `encode_gaps`.

    Raises:
        ArtifactError: too few bits or too many, or a position beyond the length.

    >>> decode_gaps(np.array([0x34, 0x01], dtype=np.uint8), 1, 3, 10).tolist()
    [2, 3, 9]
    """
    if not 0 <= rice <= LARGEST_RICE or not 0 <= count <= length:
        raise ArtifactError(f"{count} gaps with Rice parameter {rice} in {length} positions")
    if not 0 <= 8 * len(coded) - count * (rice + 1) <= length + 7:
        raise ArtifactError(f"{len(coded)} bytes are not the gaps of {count} positions")
    bits = np.unpackbits(coded, bitorder="little")
    low = bits[: count * rice].reshape(count, rice).astype(np.int64) << np.arange(rice)
    ends = np.flatnonzero(bits[count * rice :])
    if len(ends) != count:
        raise ArtifactError(f"coded gaps hold {len(ends)} positions, expected {count}")
    used = count * rice + (int(ends[-1]) + 1 if count else 0)
    if len(coded) != -(-used // 8):
        raise ArtifactError("coded gaps are followed by something else")
    gaps = ((np.diff(ends, prepend=-1) - 1) << rice) + low.sum(axis=1)
    positions: NDArray[np.int64] = np.cumsum(gaps + 1) - 1
    if count and int(positions[-1]) >= length:
        raise ArtifactError(f"a coded position lies beyond {length}")
    return positions
