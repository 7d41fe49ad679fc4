"""Backbone and patch to safetensors bytes and back. Pure: bytes in, values out.

Key grammar (SPEC.md sections 4 and 5): `<param>.codes` + `<param>.scales` for integers, `<param>`
for float16, `<param>.mask` for masks, `head.<param>` for the head, `dense.<param>` and
`gains.<param>` for what a task changes besides, `units.<n>` for units. One metadata entry, `maskpack`, holds sorted JSON:
safetensors does not promise an order between several entries, and the same input must give the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from maskpack.formats.bits import RARE_BITS
from maskpack.formats.checks import read_list, read_shape, read_text
from maskpack.formats.drawn import Drawing, drawing_of, read_drawing
from maskpack.formats.errors import ArtifactError
from maskpack.formats.matrices import PackedTensor, read_matrix, stored_codes
from maskpack.formats.mixed_rows import MixedRows
from maskpack.formats.schema import no_key_twice
from maskpack.formats.tensorfile import DTYPES, Arrays, Buffer, read_tensors
from maskpack.formats.tensors import (
    MOST_UNPACKED,
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
)
from maskpack.formats.unit_bits import describe_units, read_units, stored_masks, whole_masks
from maskpack.formats.units import Units

_ORDER = ("BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64")
"""Types as safetensors orders them; tensors of the last one stand first in a file."""


def encode_backbone(backbone: Backbone) -> bytes:
    """Serialise; the same backbone always gives the same bytes. Inverse of `decode_backbone`."""
    return b"".join(backbone_pieces(backbone))


def backbone_pieces(backbone: Backbone) -> Iterator[Buffer]:
    """The bytes of `encode_backbone` in pieces: a tensor is packed when its turn comes, and none is kept."""
    drawing = drawing_of(backbone) or Drawing(0)  # without a seed everything is stored
    parts: dict[str, _Part] = {
        name: _Part(array.dtype, array.shape, partial(np.asarray, array))
        for name, array in backbone.dense.items()
        if name not in drawing.dense
    }
    layout: dict[str, dict[str, Any]] = {}
    for role, tensors in (("linear", backbone.linears), ("embedding", backbone.embeddings)):
        for name, tensor in tensors.items():
            own = {} if name in drawing.scales else _stored(tensor)
            for key, part in own.items():
                if f"{name}.{key}" in parts:
                    raise ArtifactError(
                        f"two tensors of the backbone would be called `{name}.{key}`"
                    )
                parts[f"{name}.{key}"] = part
            layout[name] = {
                "role": role,
                "bits": tensor.bits,
                "group": tensor.group,
                "shape": list(tensor.shape),
            }
            if tensor.zero_free:
                layout[name]["zero_free"] = True
            if isinstance(tensor, MixedRows):
                layout[name]["rare"] = RARE_BITS
            if name in drawing.scales:
                layout[name]["scale"] = drawing.scales[name]
    about = {} if backbone.seed is None else drawing.header()
    return _pieces(parts, {"kind": "backbone", "tensors": layout, **about})


@dataclass(frozen=True)
class _Part:
    """A tensor that is still to be made, and what a file says of it beforehand."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _pieces(parts: Mapping[str, _Part], meta: Mapping[str, Any]) -> Iterator[Buffer]:
    """A file of `encode_tensors`: its header, then each tensor, the widest types first as safetensors orders them."""
    kinds = {np.dtype(code): kind for kind, code in DTYPES.items()}
    ranks = {kind: rank for rank, kind in enumerate(_ORDER)}
    order = sorted(parts, key=lambda name: (-ranks[kinds[parts[name].dtype]], name))
    header: dict[str, Any] = {"__metadata__": {"maskpack": header_text(meta)}}
    end = 0
    for name in order:
        start, end = end, end + parts[name].size
        header[name] = {
            "dtype": kinds[parts[name].dtype],
            "shape": list(parts[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        array = np.ascontiguousarray(parts[name].make())
        assert array.nbytes == parts[name].size, name
        yield array.reshape(-1).view(np.uint8).data


def encoded_size(backbone: Backbone) -> int:
    """Size of `encode_backbone`, without packing a tensor."""
    header = bytes(next(iter(backbone_pieces(backbone))))
    tensors = json.loads(header[8:])
    ends = (one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__")
    return len(header) + max(ends, default=0)


def decode_backbone(data: Buffer, *, most_unpacked: int = MOST_UNPACKED) -> Backbone:
    """Read and check a backbone; inverse of `encode_backbone`.

    Args:
        data: the file.
        most_unpacked: number of codes from which they stay packed.
    """
    arrays, meta, _ = decode_tensors(data, "backbone")
    tensors: dict[str, dict[str, QuantTensor]] = {"linear": {}, "embedding": {}}
    try:
        drawing = read_drawing(meta)
        specs = sorted(meta["tensors"].items())
        many = sum(math.prod(read_shape(spec["shape"])) for _, spec in specs) > most_unpacked
        for name, spec in specs:
            shape = read_shape(spec["shape"])
            tensor = _matrix(name, spec, arrays, drawing, packed=many)
            if tensor.shape != shape:
                raise ArtifactError(f"`{name}` is {tensor.shape}, its header says {list(shape)}")
            tensors[spec["role"]][name] = tensor
        dense = {} if drawing is None else drawing.floats()
    except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise ArtifactError(f"the backbone's header is wrong or incomplete: {error}") from error
    if twice := sorted(dense.keys() & arrays.keys()):
        raise ArtifactError(f"`{twice[0]}` of the backbone is stored, and described in its header")
    seed = None if drawing is None else drawing.seed
    backbone = Backbone(tensors["linear"], tensors["embedding"], {**arrays, **dense}, seed)
    if drawing is not None:
        drawing.check(backbone)
    return backbone


def _stored(tensor: QuantTensor) -> dict[str, _Part]:
    """Scales and codes of a matrix as a file has them, by the end of their key."""
    scales = tensor.scales
    own = {"scales": _Part(scales.dtype, scales.shape, partial(np.asarray, scales))}
    for each in stored_codes(tensor):
        own[each.key] = _Part(np.dtype("u1"), each.shape, each.make)
    return own


def _matrix(
    name: str, spec: Mapping[str, Any], arrays: Arrays, drawing: Drawing | None, *, packed: bool
) -> QuantTensor:
    """A matrix of a backbone: read and taken out of `arrays`, or drawn; its codes stay packed if they have less than 8 bits."""
    if drawing is None or name not in drawing.scales:
        return read_matrix(name, spec, arrays, packed=packed)
    drawn = drawing.matrix(name, spec)
    return PackedTensor.of(drawn) if packed and drawn.bits < 8 else drawn


def encode_patch(patch: Patch, *, task: str, backbone_sha256: str) -> bytes:
    """Serialise a patch, bound to one backbone by its digest. Inverse of `decode_patch`.

    Raises:
        ArtifactError: a mask keeps weights of a unit that is removed.
    """
    arrays, about = patch_parts(patch)
    meta = {"kind": "patch", "task": task, "backbone_sha256": backbone_sha256, **about}
    return encode_tensors(arrays, meta)


def patch_parts(patch: Patch) -> tuple[Arrays, dict[str, Any]]:
    """Tensors of a patch by key, and what its header says of masks and units."""
    masks, unmasked = stored_masks(patch)
    implied = patch.units is not None  # of files with units: a mask that keeps all has no tensor
    arrays: Arrays = {
        f"{name}.mask": mask.packed for name, mask in masks.items() if mask.zeros or not implied
    }
    about: dict[str, Any] = {"masks": {name: list(mask.shape) for name, mask in masks.items()}}
    described, bits = unit_parts(patch)
    about.update(described)
    arrays.update(bits)
    if unmasked:
        about["unmasked"] = list(unmasked)
    arrays.update(named_parts(patch, {*arrays, *(f"{name}.mask" for name in masks)}))
    return arrays, about


def unit_parts(patch: Patch) -> tuple[dict[str, Any], Arrays]:
    """What a header says of a patch's units, and their bits; nothing of a patch without. Inverse of `units_of`."""
    if patch.units is None:
        return {}, {}
    described, bits = describe_units(patch.units)
    return {"units": described}, bits


def units_of(meta: Mapping[str, Any], arrays: Arrays) -> Units | None:
    """Units of a patch, whose bits are taken out of `arrays`; None of a patch without."""
    return read_units(meta["units"], arrays) if "units" in meta else None


def decode_patch(
    data: Buffer,
    *,
    task: str,
    backbone_sha256: str,
    shapes: Mapping[str, tuple[int, int]] | None = None,
) -> Patch:
    """Read and check a patch; inverse of `encode_patch`.

    Args:
        data: the file.
        task: that the patch must be of.
        backbone_sha256: digest of the backbone that it must be made for.
        shapes: of the backbone's linears; a patch with units needs them, to make masks.

    Raises:
        ArtifactError: damaged, of another task, or made for another backbone.
    """
    arrays, meta, _ = decode_tensors(data, "patch")
    _check_bound(meta, task, backbone_sha256)
    try:
        sizes = {name: read_shape(shape) for name, shape in sorted(meta["masks"].items())}
        masks = {
            name: BitMask(arrays.pop(f"{name}.mask"), shape)
            for name, shape in sizes.items()
            if "units" not in meta or f"{name}.mask" in arrays
        }
        for mask in masks.values():
            mask.to_bool()  # a set padding bit is refused here, not at the first use
        units = units_of(meta, arrays)
        unmasked = [read_text(name) for name in read_list(meta.get("unmasked", []))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the header of patch `{task}` is wrong: {error}") from error
    if units is not None:
        kept = {name: shape for name, shape in sizes.items() if name not in masks}
        masks = whole_masks(units, masks, kept, unmasked, shapes or {})
    return Patch(masks, **parts_of(arrays, task), units=units)


def _check_bound(meta: Mapping[str, Any], task: str, backbone_sha256: str) -> None:
    """Raise ArtifactError unless a patch is of this task and was made for this backbone."""
    if meta.get("backbone_sha256") != backbone_sha256:
        raise ArtifactError(
            f"the patch of `{task}` was made for backbone "
            f"{str(meta.get('backbone_sha256'))[:12]}, this one is {backbone_sha256[:12]}",
            "use the patch with the artifact it was learned in",
        )
    if meta.get("task") != task:
        raise ArtifactError(f"the patch of `{task}` says it is for `{meta.get('task')}`")


def decode_units(data: Buffer) -> Units | None:
    """The units of a patch alone, which need no backbone; None of a patch without."""
    arrays, meta, _ = decode_tensors(data, "patch")
    try:
        return units_of(meta, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the header of a patch is wrong: {error}") from error


def named_parts(patch: Patch, taken: Collection[str]) -> Arrays:
    """Tensors of a patch beside its masks, by key. Inverse of `parts_of`.

    Raises:
        ArtifactError: a key is `taken`, or would be there twice.
    """
    arrays: Arrays = {}
    for prefix, tensors in (("head", patch.head), ("dense", patch.dense), ("gains", patch.gains)):
        named = {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
        if twice := sorted(named.keys() & {*taken, *arrays}):
            raise ArtifactError(f"two tensors of the patch would be called `{twice[0]}`")
        arrays.update(named)
    return arrays


def parts_of(arrays: Arrays, task: str) -> dict[str, Arrays]:
    """`head`, `dense` and `gains` of a patch, from its tensors without the masks."""
    parts: dict[str, Arrays] = {"head": {}, "dense": {}, "gains": {}}
    for name, tensor in arrays.items():
        prefix, _, parameter = name.partition(".")
        if prefix not in parts or not parameter:
            raise ArtifactError(f"the patch of `{task}` holds the unknown tensor `{name}`")
        parts[prefix][parameter] = tensor
    return parts


def encode_tensors(arrays: Arrays, meta: Mapping[str, Any]) -> bytes:
    """A safetensors file with one entry of metadata. Inverse of `decode_tensors`."""
    contiguous = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return bytes(save(contiguous, metadata={"maskpack": header_text(meta)}))


def header_text(meta: Mapping[str, Any]) -> str:
    """Metadata as canonical JSON."""
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def decode_tensors(data: Buffer, kind: str) -> tuple[Arrays, dict[str, Any], str]:
    """Read a file of this kind; inverse of `encode_tensors`.

    Returns:
        Its tensors, as views of `data`; its metadata; and the metadata's text as it is in the file.
    """
    try:
        arrays, header = read_tensors(data)
        text = header["maskpack"]
        meta = json.loads(text, object_pairs_hook=no_key_twice)
    except (ArtifactError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"not a {kind} of this format: {error}") from error
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise ArtifactError(f"expected a {kind}, found `{str(meta)[:40]}`")
    return arrays, meta, text


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes, in hex, computed in pieces; OSError if the file cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
