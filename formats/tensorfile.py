"""Read a safetensors file as views of its bytes: nothing is copied, so a mapped file stays on disk.

The library's own reader copies every tensor (`benchmarks/by_hand.py`). The rules checked here are the format's: a header of JSON
that fits, no key twice, tensors that lie side by side without holes and have the bytes that dtype and shape ask for.
`tests/formats/test_tensorfile.py` compares every verdict with the library's.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError
from maskpack.formats.schema import no_key_twice

Buffer = Any  # bytes or a memory map: what `memoryview` takes
Arrays = dict[str, NDArray[Any]]

LARGEST_HEADER = 100_000_000
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""Names of types in a file -> numpy's, lowest byte first."""


def read_tensors(data: Buffer) -> tuple[Arrays, dict[str, Any]]:
    """Tensors by name, as read-only views of `data`, and the metadata.

    Raises:
        ArtifactError: not a safetensors file, or one with a dtype that numpy lacks.
    """
    view = memoryview(data).toreadonly()
    if len(view) < 8:
        raise ArtifactError(f"{len(view)} bytes are no safetensors file")
    length = int.from_bytes(view[:8], "little")
    if length > LARGEST_HEADER or length > len(view) - 8:
        raise ArtifactError(f"a header of {length:,} bytes in a file of {len(view):,}")
    header = _parse(bytes(view[8 : 8 + length]))
    meta = header.pop("__metadata__", {})
    body, arrays, end = view[8 + length :], {}, 0
    try:
        for name, info in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
            arrays[name], end = _tensor(name, info, body, end)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"a header that describes no tensors: {error!r}") from error
    if end != len(body):
        raise ArtifactError(f"{len(body) - end} bytes of the file belong to no tensor")
    return arrays, meta


def _parse(text: bytes) -> dict[str, Any]:
    """The header as a mapping with string metadata."""
    if text[:1] != b"{":
        raise ArtifactError("a header that is no JSON object")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_key_twice)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"a header that is no JSON: {error}") from error
    meta = header.get("__metadata__", {})
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise ArtifactError("metadata that is not text by name")
    return dict(header)


def _tensor(
    name: str, info: dict[str, Any], body: memoryview, start: int
) -> tuple[NDArray[Any], int]:
    """One tensor, which must begin at `start`, and the offset of its end."""
    dtype, shape, offsets = np.dtype(DTYPES[info["dtype"]]), info["shape"], info["data_offsets"]
    if set(info) != {"dtype", "shape", "data_offsets"} or len(offsets) != 2:
        raise ArtifactError(f"`{name}` is described with {sorted(info)}")
    for number in (*shape, *offsets):
        if type(number) is not int or not 0 <= number < 2**63:
            raise ArtifactError(f"`{name}` has the size or place {number!r}")
    size = math.prod(shape) * dtype.itemsize
    if offsets[0] != start or offsets[1] != start + size or offsets[1] > len(body):
        raise ArtifactError(f"`{name}` of {size:,} bytes does not lie at {offsets}")
    flat = np.frombuffer(body[start : offsets[1]], dtype=dtype)
    return flat.reshape(shape), offsets[1]
