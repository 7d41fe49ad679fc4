"""Backbone and patch to safetensors bytes and back. Pure: bytes in, values out.

Key grammar (SPEC.md sections 4 and 5): `<param>.codes` + `<param>.scales` for integers, `<param>`
for float16, `<param>.mask` for masks, `head.<param>` for the head, `dense.<param>` and
`gains.<param>` for what a task changes besides. One metadata entry, `maskpack`, holds sorted JSON:
safetensors does not promise an order between several entries, and the same input must give the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from maskpack.formats.bits import pack_codes, unpack_codes
from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensorfile import Arrays, Buffer, no_key_twice, read_tensors
from maskpack.formats.tensors import Backbone, BitMask, Patch, QuantTensor


def encode_backbone(backbone: Backbone) -> bytes:
    """Serialise; the same backbone always gives the same bytes. Inverse of `decode_backbone`."""
    arrays: Arrays = dict(backbone.dense)
    layout: dict[str, dict[str, Any]] = {}
    for role, tensors in (("linear", backbone.linears), ("embedding", backbone.embeddings)):
        for name, tensor in tensors.items():
            if {f"{name}.codes", f"{name}.scales"} & arrays.keys():
                raise ArtifactError(f"two tensors of the backbone would be called `{name}.codes`")
            arrays[f"{name}.codes"] = pack_codes(
                tensor.codes, tensor.bits, zero_free=tensor.zero_free
            )
            arrays[f"{name}.scales"] = tensor.scales
            layout[name] = {
                "role": role,
                "bits": tensor.bits,
                "group": tensor.group,
                "shape": list(tensor.shape),
            }
            if tensor.zero_free:
                layout[name]["zero_free"] = True
    return encode_tensors(arrays, {"kind": "backbone", "tensors": layout})


def decode_backbone(data: Buffer) -> Backbone:
    """Read and check a backbone; inverse of `encode_backbone`."""
    arrays, meta = decode_tensors(data, "backbone")
    found: dict[str, dict[str, QuantTensor]] = {"linear": {}, "embedding": {}}
    try:
        for name, spec in sorted(meta["tensors"].items()):
            bits, group, shape = (
                read_whole(spec["bits"]),
                read_whole(spec["group"]),
                read_shape(spec["shape"]),
            )
            free = _flag(spec.get("zero_free", False))
            codes = unpack_codes(arrays.pop(f"{name}.codes"), bits, shape[1], zero_free=free)
            tensor = QuantTensor(codes, arrays.pop(f"{name}.scales"), bits, group, free)
            if tensor.shape != shape:
                raise ArtifactError(f"`{name}` is {tensor.shape}, its header says {list(shape)}")
            found[spec["role"]][name] = tensor
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the backbone's header is wrong or incomplete: {error}") from error
    return Backbone(found["linear"], found["embedding"], arrays)


def encode_patch(patch: Patch, *, task: str, backbone_sha256: str) -> bytes:
    """Serialise a patch, bound to one backbone by its digest. Inverse of `decode_patch`."""
    arrays: Arrays = {f"{name}.mask": mask.packed for name, mask in patch.masks.items()}
    arrays.update(named_parts(patch, arrays))
    shapes = {name: list(mask.shape) for name, mask in patch.masks.items()}
    meta = {"kind": "patch", "task": task, "backbone_sha256": backbone_sha256, "masks": shapes}
    return encode_tensors(arrays, meta)


def decode_patch(data: Buffer, *, task: str, backbone_sha256: str) -> Patch:
    """Read and check a patch; inverse of `encode_patch`.

    Raises:
        ArtifactError: damaged, of another task, or made for another backbone.
    """
    arrays, meta = decode_tensors(data, "patch")
    if meta.get("backbone_sha256") != backbone_sha256:
        raise ArtifactError(
            f"the patch of `{task}` was made for backbone "
            f"{str(meta.get('backbone_sha256'))[:12]}, this one is {backbone_sha256[:12]}",
            "use the patch with the artifact it was learned in",
        )
    if meta.get("task") != task:
        raise ArtifactError(f"the patch of `{task}` says it is for `{meta.get('task')}`")
    try:
        masks = {
            name: BitMask(arrays.pop(f"{name}.mask"), read_shape(shape))
            for name, shape in sorted(meta["masks"].items())
        }
        for mask in masks.values():
            mask.to_bool()  # a set padding bit is refused here, not at the first use
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the header of patch `{task}` is wrong: {error}") from error
    return Patch(masks, **parts_of(arrays, task))


def named_parts(patch: Patch, taken: Collection[str]) -> Arrays:
    """What a patch holds beside its masks, by key. Inverse of `parts_of`.

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
    """`head`, `dense` and `gains` of a patch from what is left without its masks."""
    parts: dict[str, Arrays] = {"head": {}, "dense": {}, "gains": {}}
    for name, tensor in arrays.items():
        prefix, _, parameter = name.partition(".")
        if prefix not in parts or not parameter:
            raise ArtifactError(f"the patch of `{task}` holds the unknown tensor `{name}`")
        parts[prefix][parameter] = tensor
    return parts


def _flag(value: object) -> bool:
    """A truth value of a header, exactly."""
    if type(value) is not bool:
        raise TypeError(f"{value!r} is not true or false")
    return value


def read_whole(value: object) -> int:
    """An integer of a header, exactly: no text, no fraction, no infinity."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def read_shape(value: object) -> tuple[int, int]:
    """A matrix shape of a header."""
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError(f"{value!r} is not the shape of a matrix")
    return (read_whole(value[0]), read_whole(value[1]))


def encode_tensors(arrays: Arrays, meta: Mapping[str, Any]) -> bytes:
    """A safetensors file with one entry of metadata. Inverse of `decode_tensors`."""
    contiguous = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return bytes(save(contiguous, metadata={"maskpack": header_text(meta)}))


def header_text(meta: Mapping[str, Any]) -> str:
    """Metadata as the one text that stands for it."""
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def decode_tensors(data: Buffer, kind: str) -> tuple[Arrays, dict[str, Any]]:
    """Tensors, as views of `data`, and metadata of a file of this kind; inverse of `encode_tensors`."""
    arrays, meta, _ = decode_with_text(data, kind)
    return arrays, meta


def decode_with_text(data: Buffer, kind: str) -> tuple[Arrays, dict[str, Any], str]:
    """The same, and the text of the metadata as it stands in the file."""
    try:
        arrays, header = read_tensors(data)
        text = header["maskpack"]
        meta = json.loads(text, object_pairs_hook=no_key_twice)
    except (ArtifactError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"not a {kind} of this format: {error}") from error
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise ArtifactError(f"expected a {kind}, found `{str(meta)[:40]}`")
    return arrays, meta, text
