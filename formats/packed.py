"""One small file for one task, which a device downloads. Pure: bytes in, values out.

A packed patch is a safetensors file like a patch, with coded masks (`coded.py`) in place of packed bits
and the task's entry of the manifest in its header (SPEC.md section 9). It names the backbone that it was
learned on, and cannot be read without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.checks import read_whole
from maskpack.formats.codec import (
    decode_tensors,
    encode_tensors,
    header_text,
    named_parts,
    parts_of,
    patch_parts,
    unit_parts,
    units_of,
)
from maskpack.formats.coded import (
    LANES,
    STREAMED,
    CodedMask,
    CodedMasks,
    Coding,
    decode_masks,
    encode_masks,
)
from maskpack.formats.errors import ArtifactError
from maskpack.formats.schema import (
    PACKED_KIND,
    Manifest,
    TaskEntry,
    check_features,
    entry_from_dict,
    patch_file,
    portable_entry,
)
from maskpack.formats.tensorfile import Arrays, Buffer
from maskpack.formats.tensors import Backbone, BitMask, Patch, QuantTensor
from maskpack.formats.unit_bits import check_required, cut_units, without_units

STREAM = "masks.stream"
_BARE = "-"  # a linear without a mask
_BLANK = "0" * 64
_KEYS = {
    *("kind", "version", "backbone_sha256", "files_sha256", "task", "entry", "codings", "gaps"),
    *("lanes", "sha256"),
}
_LETTERS = {
    "k": Coding.KEPT,
    "r": Coding.RAW,
    "g": Coding.GAPS,
    "m": Coding.MODEL,
    "t": Coding.GROUPS,
}
_VERSIONS = (1, 2)
"""Of packed patches. The second one has a mask with the letter `t`, so that readers of the first refuse it by its number."""


def encode_packed(
    patch: Patch, entry: TaskEntry, *, backbone: Backbone, manifest: Manifest
) -> bytes:
    """Serialise a task; the same task always gives the same bytes. Inverse of `decode_packed`.

    Args:
        patch: what the task adds.
        entry: its entry in the manifest.
        backbone: the weights of the artifact.
        manifest: of the artifact.
    """
    patch.check_fits(backbone)
    patch = without_idle_bits(patch, backbone)
    check_required(entry.name, entry.requires, patch.units)
    coded = encode_masks(patch.masks, without_units(backbone.linears, patch.units))
    names = sorted(backbone.linears)
    arrays: Arrays = {
        f"masks.{names.index(name)}": mask.data
        for name, mask in coded.masks.items()
        if mask.data is not None
    }
    if coded.lanes:
        arrays[STREAM] = coded.stream
    described, bits = unit_parts(patch)
    arrays.update(bits)
    arrays.update(named_parts(patch, arrays))
    meta: dict[str, Any] = {
        "kind": PACKED_KIND,
        "version": _version_of(coded.masks),
        "backbone_sha256": manifest.backbone_sha256,
        "files_sha256": files_digest(manifest),
        "task": entry.name,
        "entry": portable_entry(replace(entry, zeros=patch.count.zeros)),
        **describe_masks([coded.masks.get(name) for name in names]),
        **described,
        "lanes": coded.lanes,
        "sha256": _BLANK,
    }
    return encode_tensors(arrays, {**meta, "sha256": _digest(header_text(meta), patch)})


def decode_packed(
    data: Buffer, *, backbone: Backbone, manifest: Manifest
) -> tuple[TaskEntry, Patch]:
    """Read and check a packed patch over the backbone it was made for; inverse of `encode_packed`.

    Raises:
        ArtifactError: damaged, of another version, or made for another backbone, tokenizer or
            configuration.
    """
    arrays, meta, text = decode_tensors(data, PACKED_KIND)
    entry = _check_header(meta, manifest)
    try:
        masks, units = masks_from(meta, arrays, backbone.linears), units_of(meta, arrays)
        lanes = read_whole(meta["lanes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fact = f"the header of packed patch `{entry.name}` is wrong: {error}"
        raise ArtifactError(fact) from error
    if meta["version"] != _version_of(masks):
        raise ArtifactError(
            f"packed patch `{entry.name}` has version {meta['version']}, its masks are those of version {_version_of(masks)}"
        )
    stream = take_stream(arrays, masks, lanes)
    linears = without_units(backbone.linears, units)
    bits = cut_units(decode_masks(CodedMasks(masks, stream, lanes), linears), units)
    patch = Patch(bits, **parts_of(arrays, entry.name), units=units)
    patch.check_fits(backbone)
    check_required(entry.name, entry.requires, units)
    patch.check_counts(entry.name, zeros=entry.zeros, weights=entry.weights)
    claimed = str(meta["sha256"])
    if text.count(claimed) != 1 or _digest(text.replace(claimed, _BLANK), patch) != claimed:
        raise ArtifactError(
            f"packed patch `{entry.name}` is damaged: what was read is not what was written",
            "get the file again",
        )
    return entry, patch


def _version_of(masks: Mapping[str, CodedMask]) -> int:
    """The first version that has all of these codings."""
    return 2 if any(mask.coding is Coding.GROUPS for mask in masks.values()) else 1


def files_digest(manifest: Manifest) -> str:
    """Digest of configuration and tokenizer: the same weights with another tokenizer are another model."""
    return hashlib.sha256(header_text(manifest.files).encode()).hexdigest()


def without_idle_bits(patch: Patch, backbone: Backbone) -> Patch:
    """The patch with every mask bit over a code of 0 set, where a mask has no effect; those of removed units stay 0."""
    masks = {
        name: BitMask.from_bool(mask.to_bool() | (backbone.linears[name].codes == 0))
        for name, mask in patch.masks.items()
    }
    return replace(patch, masks=cut_units(masks, patch.units))


def _check_header(meta: Mapping[str, Any], manifest: Manifest) -> TaskEntry:
    """The task's entry, if the header is one of this version and of this artifact's kind."""
    version, task = meta.get("version"), meta.get("task")
    if type(version) is not int or version not in _VERSIONS:
        raise ArtifactError(
            f"version {version!r} of packed patches is not readable, this release reads 1 and 2",
            "upgrade with `pip install -U maskpack`",
        )
    if isinstance(meta.get("entry"), dict):
        check_features(meta["entry"].get("requires", ()), f"packed patch `{task}`")
    if odd := sorted(_KEYS ^ (meta.keys() - {"units"})):
        raise ArtifactError(f"packed patch `{task}` lacks the field `{odd[0]}`, or has it too much")
    if meta["backbone_sha256"] != manifest.backbone_sha256:
        raise ArtifactError(
            f"packed patch `{task}` was made for backbone {str(meta['backbone_sha256'])[:12]}, "
            f"this one is {manifest.backbone_sha256[:12]}",
            "unpack it into an artifact with the same backbone",
        )
    if meta["files_sha256"] != files_digest(manifest):
        raise ArtifactError(
            f"packed patch `{task}` was made for the same backbone with another tokenizer or "
            "configuration",
            "unpack it into an artifact with the same files",
        )
    tree = meta["entry"]
    if not isinstance(task, str) or not isinstance(tree, dict) or {"file", "sha256"} & tree.keys():
        raise ArtifactError(f"packed patch `{task}` describes its task wrongly")
    places = {"file": patch_file(task), "sha256": _BLANK}  # the writer's to fill in
    try:
        return entry_from_dict(task, {**tree, **places})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"packed patch `{task}` describes its task wrongly: {error}") from error


def _digest(text: str, patch: Patch) -> str:
    """Digest of the header, with this digest blanked, and of every tensor as it is read."""
    digest = hashlib.sha256(text.encode())
    tensors, _ = patch_parts(patch)
    for key in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[key])
        shape = "x".join(str(size) for size in tensor.shape)
        digest.update(f"{key} {'U8' if tensor.dtype == np.uint8 else 'F16'} {shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def describe_masks(masks: Sequence[CodedMask | None]) -> dict[str, Any]:
    """The masks over all linears, in the order of their names, in the header. Inverse of `masks_from`."""
    letters = {coding: letter for letter, coding in _LETTERS.items()}
    present = [mask for mask in masks if mask is not None]
    return {
        "codings": "".join(_BARE if mask is None else letters[mask.coding] for mask in masks),
        "gaps": [[mask.zeros, mask.rice] for mask in present if mask.coding is Coding.GAPS],
    }


def masks_from(
    meta: Mapping[str, Any], arrays: Arrays, linears: Mapping[str, QuantTensor]
) -> dict[str, CodedMask]:
    """Masks from the header, by name; takes their bytes out of `arrays`."""
    letters, pairs = meta["codings"], meta["gaps"]
    if not isinstance(letters, str) or not isinstance(pairs, list):
        raise TypeError("`codings` is no text, or `gaps` no list")
    gaps = [tuple(pair) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    complete = len(gaps) == len(pairs) == letters.count("g")
    if not complete or len(letters) != len(linears):
        raise ArtifactError(
            f"{len(letters)} codings and {len(gaps)} gaps do not describe masks over "
            f"{len(linears)} linears"
        )
    masks = {}
    for index, (name, letter) in enumerate(zip(sorted(linears), letters, strict=True)):
        if letter == _BARE:
            continue
        coding, shape = _LETTERS[letter], linears[name].shape
        data, zeros, rice = None, 0, 0
        if coding in {Coding.RAW, Coding.GAPS}:
            data = arrays.pop(f"masks.{index}")
            if data.dtype != np.uint8 or data.ndim != 1:
                raise ArtifactError(f"coded mask {index} is {data.dtype} {data.shape}, no bytes")
        if coding is Coding.GAPS:
            zeros, rice = (read_whole(value) for value in gaps.pop(0))
        masks[name] = CodedMask(coding, shape, data, zeros, rice)
    return masks


def take_stream(arrays: Arrays, masks: Mapping[str, CodedMask], lanes: int) -> NDArray[np.uint16]:
    """The words of the masks' stream, taken out of `arrays`."""
    wanted = any(mask.coding in STREAMED for mask in masks.values())
    stream: NDArray[np.uint16] = arrays.pop(STREAM, np.zeros(0, dtype=np.uint16))
    if stream.dtype != np.uint16 or stream.ndim != 1:
        raise ArtifactError(f"the stream of masks is {stream.dtype} {stream.shape}, not uint16 (n)")
    if wanted != (lanes in LANES) or (not wanted and (lanes or len(stream))):
        raise ArtifactError(
            f"a stream of {len(stream)} words and {lanes} lanes does not go with its masks"
        )
    return stream
