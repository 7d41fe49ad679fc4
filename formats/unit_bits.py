"""Units in files: a bit for each, a short description of the groups, and only masks that the units do not give.

Layers are alike, so that a file describes their groups once: in names of linears `{}` stands for the number of the
layer (SPEC.md section 5).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import pack_bits, unpack_bits
from maskpack.formats.checks import check_over, read_list, read_text, read_whole
from maskpack.formats.counts import MaskCount
from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensors import BitMask, Patch, QuantTensor
from maskpack.formats.units import FEATURE, UnitGroup, UnitPart, Units

_NUMBER = "{}"  # in a name of a file: the layer's
_FIELDS = {"count", "kind", "layers", "parts"}

Arrays = dict[str, NDArray[Any]]


def template_of(name: str, layer: int) -> str:
    """A linear's name with `{}` for the number of its layer, where it has one. Inverse of `str.replace`.

    >>> template_of("encoder.layer.3.output.dense.weight", 3)
    'encoder.layer.{}.output.dense.weight'
    """
    pieces = name.split(".")
    places = [place for place, piece in enumerate(pieces) if piece == str(layer)]
    if places:
        pieces[places[-1]] = _NUMBER
    return ".".join(pieces)


def describe_units(units: Units) -> tuple[list[dict[str, Any]], Arrays]:
    """Groups for a header, and their bits: `units.<n>`, a row for each layer. Inverse of `read_units`.

    >>> part = UnitPart("l.3.weight", 0, 0, 2)
    >>> units = Units((UnitGroup("heads", 3, 2, (part,)),), (np.array([False, True]),))
    >>> described, arrays = describe_units(units)
    >>> described
    [{'kind': 'heads', 'count': 2, 'layers': [3], 'parts': [['l.{}.weight', 0, 0, 2]]}]
    >>> arrays["units.0"]
    array([[2]], dtype=uint8)
    """
    pairs = zip(units.groups, units.kept, strict=True)
    alike: dict[tuple[Any, ...], list[tuple[int, NDArray[np.bool_]]]] = {}
    for group, kept in sorted(pairs, key=lambda pair: (pair[0].kind, pair[0].layer)):
        parts = []
        for part in group.parts:
            if _NUMBER in part.name:
                raise ArtifactError(f"`{part.name}` holds `{_NUMBER}` and cannot be described")
            parts.append((template_of(part.name, group.layer), part.axis, part.first, part.width))
        key = (group.kind, group.count, tuple(parts))
        alike.setdefault(key, []).append((group.layer, kept))
    described = [
        {
            "kind": kind,
            "count": count,
            "layers": [layer for layer, _ in found],
            "parts": [list(part) for part in parts],
        }
        for (kind, count, parts), found in alike.items()
    ]
    rows = [np.stack([kept for _, kept in found]) for found in alike.values()]
    return described, {f"units.{n}": pack_bits(bits) for n, bits in enumerate(rows)}


def read_units(described: object, arrays: Arrays) -> Units:
    """Units of a file, their groups by kind and layer; takes their bits out of `arrays`. Inverse of `describe_units`.

    Raises:
        ArtifactError, KeyError, TypeError: bits and description do not fit, or are of no units.
    """
    found: list[tuple[UnitGroup, NDArray[np.bool_]]] = []
    for n, entry in enumerate(read_list(described)):
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            raise TypeError(f"`{str(entry)[:60]}` describes no units")
        kind, count = read_text(entry["kind"]), read_whole(entry["count"])
        layers = [read_whole(layer) for layer in read_list(entry["layers"])]
        if not layers:
            raise TypeError(f"`units.{n}` are of no layer")
        packed = arrays.pop(f"units.{n}")
        expected = (len(layers), -(-count // 8))
        if packed.dtype != np.uint8 or packed.shape != expected:
            raise ArtifactError(
                f"`units.{n}` is {packed.dtype} {packed.shape}, expected uint8 {expected} for "
                f"{count} {kind} in {len(layers)} layers"
            )
        parts = [_read_part(part) for part in read_list(entry["parts"])]
        for layer, kept in zip(layers, unpack_bits(packed, count), strict=True):
            own = (
                UnitPart(name.replace(_NUMBER, str(layer)), axis, first, width)
                for name, axis, first, width in parts
            )
            found.append((UnitGroup(kind, layer, count, tuple(own)), kept))
    found.sort(key=lambda pair: (pair[0].kind, pair[0].layer))
    return Units(tuple(group for group, _ in found), tuple(kept for _, kept in found))


def _read_part(part: object) -> tuple[str, int, int, int]:
    name, axis, first, width = read_list(part)
    return read_text(name), read_whole(axis), read_whole(first), read_whole(width)


def stored_masks(patch: Patch) -> tuple[dict[str, BitMask], tuple[str, ...]]:
    """Masks that a file holds, and linears of units that have no mask. The units give all others (`whole_masks`).

    Raises:
        ArtifactError: a weight of a removed unit is kept.
    """
    if patch.units is None:
        return dict(patch.masks), ()
    touched = set(patch.units.names)
    stored = {name: mask for name, mask in patch.masks.items() if name not in touched}
    for name in sorted(touched & patch.masks.keys()):
        mask = patch.masks[name]
        alone = BitMask.from_bool(patch.units.mask(name, mask.shape))
        _check_removed(name, mask, alone)
        if not np.array_equal(mask.packed, alone.packed):
            stored[name] = mask
    return stored, _check_unmasked(patch.units, sorted(touched - patch.masks.keys()), patch.masks)


def whole_masks(
    units: Units,
    stored: Mapping[str, BitMask],
    kept: Mapping[str, tuple[int, int]],
    unmasked: Collection[str],
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, BitMask]:
    """All masks of a patch, from those that its file holds. Inverse of `stored_masks`.

    Args:
        units: of the patch.
        stored: masks in its file.
        kept: shapes of masks that keep all, which have no bits in the file.
        unmasked: linears of units that have no mask.
        shapes: of the backbone's linears.

    Raises:
        ArtifactError: a part lies over no linear, or a weight of a removed unit is kept.
    """
    units.check_within(shapes)
    check_over("mask", kept, shapes)  # before masks of these shapes are made
    every = {name: BitMask.from_bool(np.ones(shape, np.bool_)) for name, shape in kept.items()}
    masks = {**stored, **every}
    _check_unmasked(units, unmasked, masks)
    for name in units.names:
        if name in unmasked:
            continue
        alone = BitMask.from_bool(units.mask(name, shapes[name]))
        mask = masks.setdefault(name, alone)
        if mask.shape == alone.shape:  # `Patch.check_fits` refuses another one
            _check_removed(name, mask, alone)
    return dict(sorted(masks.items()))


def cut_units(masks: Mapping[str, BitMask], units: Units | None) -> dict[str, BitMask]:
    """The masks with all weights of removed units removed."""
    if units is None:
        return dict(masks)
    touched = set(units.names)
    return {
        name: BitMask(mask.packed & pack_bits(units.mask(name, mask.shape)), mask.shape)
        if name in touched
        else mask
        for name, mask in masks.items()
    }


def without_units(
    linears: Mapping[str, QuantTensor], units: Units | None
) -> Mapping[str, QuantTensor]:
    """The linears with a code of 0 for every weight of a removed unit."""
    if units is None:
        return linears
    touched = set(units.names)
    return {
        name: BitMask.from_bool(units.mask(name, tensor.shape)).apply(tensor)
        if name in touched
        else tensor
        for name, tensor in linears.items()
    }


def count_beside_units(patch: Patch) -> MaskCount:
    """Weights of the masks that the units keep, and zeros among them; all of them in a patch without units."""
    count = patch.count
    if patch.units is None:
        return count
    gone = sum(
        int((~patch.units.mask(name, patch.masks[name].shape)).sum())
        for name in patch.units.names
        if name in patch.masks
    )
    return MaskCount(count.weights - gone, count.zeros - gone)


def mask_bytes(patch: Patch) -> int:
    """Bytes of the packed masks in the patch's file."""
    masks, _ = stored_masks(patch)
    stored = (mask for mask in masks.values() if mask.zeros or patch.units is None)
    return sum(mask.packed.nbytes for mask in stored)


def unit_bytes(units: Units | None) -> int:
    """Bytes of the bits of units in a file."""
    if units is None:
        return 0
    return sum(-(-group.count // 8) for group in units.groups)


def check_required(task: str, requires: Collection[str], units: Units | None) -> None:
    """Raise ArtifactError unless a task's `requires` names the feature exactly if its patch has units."""
    if (FEATURE in requires) != (units is not None):
        have, says = ("has", "does not name") if units is not None else ("has no", "names")
        raise ArtifactError(
            f"the patch of `{task}` {have} units, `requires` of its entry {says} `{FEATURE}`"
        )


def _check_removed(name: str, mask: BitMask, alone: BitMask) -> None:
    """Raise ArtifactError if a mask keeps a weight that the units alone remove."""
    kept = int(np.bitwise_count(mask.packed & ~alone.packed).sum())
    if kept:
        raise ArtifactError(
            f"the mask of `{name}` keeps {kept:,} weights of units that are removed"
        )


def _check_unmasked(
    units: Units, unmasked: Collection[str], masks: Collection[str]
) -> tuple[str, ...]:
    """The names of `unmasked`, if units lie in them, no mask, and no unit that is removed."""
    for name in unmasked:
        if name not in units.names or name in masks:
            raise ArtifactError(f"`{name}` is no linear of units without a mask")
        if units.removes_from(name):
            raise ArtifactError(f"units of `{name}` are removed, and it has no mask")
    return tuple(unmasked)
