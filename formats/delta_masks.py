"""Parts of a delta: bytes under xz, and the masks of a patch, coded where an old task kept weights and where it removed them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.checks import read_shape, read_whole
from maskpack.formats.codec import decode_backbone, decode_tensors
from maskpack.formats.coded import CodedMasks, Coding, decode_masks, encode_masks
from maskpack.formats.errors import ArtifactError
from maskpack.formats.packed import STREAM, describe_masks, masks_from, take_stream
from maskpack.formats.schema import BACKBONE
from maskpack.formats.tensorfile import Arrays, Buffer
from maskpack.formats.tensors import BitMask, QuantTensor

AGAIN = "get the delta again"

_MASK = ".mask"

Linears = Mapping[str, QuantTensor]


def squeezed(data: bytes) -> NDArray[np.uint8]:
    """Bytes under xz. Inverse of `expanded`."""
    return np.frombuffer(lzma.compress(data, check=lzma.CHECK_NONE, preset=6), np.uint8)


def expanded(packed: NDArray[Any], size: int) -> bytes:
    """Inverse of `squeezed`; never makes more than `size` bytes.

    Raises:
        ArtifactError: damaged, or of another size.
    """
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        made = reader.decompress(np.ascontiguousarray(packed).tobytes(), max_length=size + 1)
    except lzma.LZMAError as error:
        raise ArtifactError(f"a part of the delta is damaged: {error}", AGAIN) from error
    if len(made) != size:
        raise ArtifactError(f"a part of the delta holds {len(made):,} bytes, not {size:,}", AGAIN)
    return made


def linears_of(files: Mapping[str, Buffer]) -> Linears:
    """Linears of a release's backbone; none if it has none that can be read."""
    if BACKBONE not in files:
        return {}
    try:
        return decode_backbone(files[BACKBONE]).linears
    except ArtifactError:
        return {}


def coded_patch(
    data: Buffer, old: Buffer | None, linears: Linears
) -> tuple[list[dict[str, Any]], Arrays] | None:
    """A patch's file in parts: without its masks, under xz, and its masks, coded. Inverse of `read_coded`.

    Args:
        data: the file.
        old: the patch that it replaces; None: nothing is known of that.
        linears: of the backbone that both were learned on.

    Returns:
        What a header says of the masks, and tensors; None where these do not give back the bytes of the file.
    """
    masks = _masks_of(data, linears)
    before = {} if old is None else _masks_of(old, linears)
    if masks is None or before is None:
        return None
    names, parts = sorted(linears), []
    own: Arrays = {"data": squeezed(_with_masks(data, None))}
    for number, part in enumerate(_parted(linears, before)):
        coded = encode_masks(masks, part, groups=False)
        described = describe_masks([coded.masks.get(name) for name in names])
        parts.append({**described, "lanes": coded.lanes})
        arrays = {f"masks.{names.index(name)}": one.data for name, one in coded.masks.items()}
        own |= {f"{number}.{key}": array for key, array in arrays.items() if array is not None}
        if coded.lanes:
            own[f"{number}.{STREAM}"] = coded.stream
        if old is None:
            break
    made = read_coded(parts, own, old, linears, size=len(data))
    return (parts, own) if made == bytes(data) else None


def read_coded(
    parts: Sequence[Mapping[str, Any]],
    own: Arrays,
    old: Buffer | None,
    linears: Linears,
    *,
    size: int,
) -> bytes:
    """Inverse of `coded_patch`; `size` of the file.

    Raises:
        ArtifactError: damaged, or over an old file without masks.
    """
    before = {} if old is None else _masks_of(old, linears)
    if before is None or len(parts) != (1 if old is None else 2):
        raise ArtifactError("masks of a delta do not go with the old file", AGAIN)
    found: dict[str, NDArray[np.bool_]] = {}
    for number, (told, part) in enumerate(zip(parts, _parted(linears, before), strict=False)):
        start = f"{number}."
        arrays = {k.removeprefix(start): v for k, v in own.items() if k.startswith(start)}
        masks, lanes = masks_from(told, arrays, part), read_whole(told["lanes"])
        if any(mask.coding is Coding.GROUPS for mask in masks.values()):
            raise ArtifactError("masks of a delta have a coding of packed patches alone", AGAIN)
        coded = CodedMasks(masks, take_stream(arrays, masks, lanes), lanes)
        for name, mask in decode_masks(coded, part).items():
            keeps = mask.to_bool() | (part[name].codes == 0)
            found[name] = keeps & found[name] if name in found else keeps
    bits = {name: BitMask.from_bool(mask) for name, mask in found.items()}
    return _with_masks(expanded(own["data"], size), bits)


def _parted(linears: Linears, old: Mapping[str, BitMask]) -> Iterator[Linears]:
    """The linears with codes alone that an old task keeps, then with those that it removes.

    Positions without a code have no bit in a coded mask, so that both together have a bit for each. What an old task
    removed is removed by the next one more often than the rest is: apart from it, it costs fewer bytes.
    """
    for removed in (False, True):
        part = {}
        for name, tensor in linears.items():
            keeps = old[name].to_bool() if name in old else np.ones(tensor.shape, np.bool_)
            codes = np.where(keeps != removed, tensor.codes, np.int8(0))
            scales, free = tensor.scales, tensor.zero_free
            part[name] = QuantTensor(codes, scales, tensor.bits, tensor.group, free)
        yield part


def _masks_of(data: Buffer, linears: Linears) -> dict[str, BitMask] | None:
    """Masks of a patch's file; None if it is none, has units, or is over other linears."""
    try:
        arrays, meta, _ = decode_tensors(data, "patch")
        shapes = {name: read_shape(shape) for name, shape in meta["masks"].items()}
        if "units" in meta or any(linears[name].shape != shape for name, shape in shapes.items()):
            return None
        return {name: BitMask(arrays[name + _MASK], shape) for name, shape in shapes.items()}
    except (ArtifactError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _with_masks(data: Buffer, masks: Mapping[str, BitMask] | None) -> bytes:
    """A patch's file with these masks in place of its own; None: with zeros."""
    made = bytearray(data)
    begin = 8 + int.from_bytes(made[:8], "little")
    for key, about in json.loads(bytes(made[8:begin])).items():
        if not key.endswith(_MASK):
            continue
        start, end = (begin + offset for offset in about["data_offsets"])
        own = None if masks is None else masks[key.removesuffix(_MASK)].packed.tobytes()
        made[start:end] = bytes(end - start) if own is None else own
    return bytes(made)
