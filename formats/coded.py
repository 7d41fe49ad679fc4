"""Masks as few bytes: each in its smallest coding, given the backbone that writer and reader hold.

* `kept`: nothing is removed, nothing is stored.
* `raw`: packed bits, as in a patch.
* `gaps`: Rice codes of the distances between removed positions, for masks too small to model. Golomb 1966,
  with a power of two as in Rice 1979: of each gap the low `k` bits as they are, all gaps after one another,
  then the rest of each in unary, that many 0s and a 1. Both parts are one row of bits, least significant
  first (SPEC.md section 3).
* `model`: bits under an adaptive model, in one stream for all (`entropy.py`).
* `groups`: of masks of which two of every four neighbours stay, their bits under a model of such groups, in the same stream
  (`groups.py`).

Positions whose code is 0 have no bit in any of them but `raw`: a mask there changes nothing, and is
read back as kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.entropy import ONE, BitReader, Counts, MatrixModel, write_bits
from maskpack.formats.errors import ArtifactError
from maskpack.formats.groups import GROUP, GroupCounts, GroupModel, has_groups
from maskpack.formats.tensors import BitMask, QuantTensor

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


LANES = (128, 256, 512, 1024, 2048, 4096)
"""States of the stream that may run side by side."""

_LANE_SHARE = 64  # the states take at most a 64th of the stream, above the smallest number of lanes

# bits of an ideal coder for a chance of k / ONE, in whole 256ths, so that every machine chooses the same coding
_PRICES = np.rint(-256 * np.log2(np.arange(1, ONE + 1) / ONE)).astype(np.int64)


class Coding(StrEnum):
    """How a mask's bits are stored."""

    KEPT = "kept"
    RAW = "raw"
    GAPS = "gaps"
    MODEL = "model"
    GROUPS = "groups"


STREAMED = frozenset({Coding.MODEL, Coding.GROUPS})
"""Codings whose bits are in the stream."""


@dataclass(frozen=True, eq=False)
class CodedMask:
    """One mask.

    Attributes:
        coding: of its bits.
        shape: `(o, i)`.
        data: bytes of `raw` and `gaps`; None of the others.
        zeros: removed positions, of `gaps`.
        rice: parameter of `gaps`.
    """

    coding: Coding
    shape: tuple[int, int]
    data: NDArray[np.uint8] | None = None
    zeros: int = 0
    rice: int = 0

    @property
    def size(self) -> int:
        """Bytes of its own."""
        return 0 if self.data is None else self.data.nbytes


@dataclass(frozen=True, eq=False)
class CodedMasks:
    """All masks of a patch.

    Attributes:
        masks: parameter name -> its mask.
        stream: uint16 words of those with the coding `model` or `groups`, in the order of their names.
        lanes: of the stream; 0 without one.
    """

    masks: Mapping[str, CodedMask]
    stream: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, dtype=np.uint16))
    lanes: int = 0

    @property
    def size(self) -> int:
        """Bytes of masks and stream."""
        return sum(mask.size for mask in self.masks.values()) + self.stream.nbytes


def encode_masks(
    masks: Mapping[str, BitMask], linears: Mapping[str, QuantTensor], *, groups: bool = True
) -> CodedMasks:
    """Code masks against the backbone's linears; inverse of `decode_masks`.

    Two candidates are compared: each mask with the coding that alone is smallest, and all of them
    without the models, whose stream costs some hundred bytes before its first bit.

    Args:
        masks: by name.
        linears: the backbone's weights.
        groups: whether the coding `groups` may be used, which readers of version 1 of packed patches do not know.
    """
    removed = {name: mask.removed(linears[name]) for name, mask in sorted(masks.items())}
    plain = {name: _plain(gone, linears[name]) for name, gone in removed.items()}
    blocks, kinds = _streamed(removed, linears, plain, groups=groups)
    without = CodedMasks(plain)
    if not blocks:
        return without
    stream, lanes = _stream([block for name in sorted(blocks) for block in blocks[name]])
    shapes = {name: CodedMask(kinds[name], masks[name].shape) for name in blocks}
    best = CodedMasks({**plain, **shapes}, stream, lanes)
    return min(best, without, key=lambda coded: coded.size)


def _streamed(
    removed: Mapping[str, NDArray[np.bool_]],
    linears: Mapping[str, QuantTensor],
    plain: Mapping[str, CodedMask],
    *,
    groups: bool,
) -> tuple[dict[str, list[CodedBlock]], dict[str, Coding]]:
    """Blocks and coding of each mask that is smaller under a model than in `plain`."""
    kinds: dict[str, Coding] = {}
    costs = {name: mask.size for name, mask in plain.items()}
    fitting = {n: gone for n, gone in removed.items() if groups and has_groups(gone, linears[n])}
    tries = ((Coding.MODEL, _modelled, removed), (Coding.GROUPS, _grouped, fitting))
    made = {kind: model(those, linears) for kind, model, those in tries}
    for kind, found in made.items():
        for name, blocks in found.items():
            if (cost := _cost(blocks)) < costs[name]:
                costs[name], kinds[name] = cost, kind
    coded: dict[str, list[CodedBlock]] = {}
    for kind, model, those in tries:
        chosen = {name: gone for name, gone in those.items() if kinds.get(name) is kind}
        if len(chosen) < len(those):
            made[kind].clear()  # before the others are made: they are most of the memory
            made[kind] = model(chosen, linears)  # counts go from matrix to matrix
        coded |= made[kind]
    return coded, kinds


def decode_masks(coded: CodedMasks, linears: Mapping[str, QuantTensor]) -> dict[str, BitMask]:
    """Masks by name; inverse of `encode_masks`.

    Raises:
        ArtifactError: over a tensor that the backbone lacks or has in another shape; damaged.
    """
    for name, mask in coded.masks.items():
        if name not in linears or linears[name].shape != mask.shape:
            raise ArtifactError(f"the backbone has no `{name}` of {mask.shape} for its mask")
    masks, counts, group_counts, reader = {}, Counts(), GroupCounts(), None
    for name, mask in sorted(coded.masks.items()):
        if mask.coding not in STREAMED:
            masks[name] = _read_plain(mask, linears[name])
            continue
        if reader is None:
            reader = BitReader(coded.stream, coded.lanes)
        if mask.coding is Coding.MODEL:
            masks[name] = _read_modelled(linears[name], counts, reader)
        else:
            masks[name] = _read_grouped(name, linears[name], group_counts, reader)
    if reader is not None:
        reader.finish()
    return masks


def _plain(removed: NDArray[np.bool_], tensor: QuantTensor) -> CodedMask:
    """The smallest coding without the model."""
    shape = tensor.shape
    positions = np.flatnonzero(removed[tensor.codes != 0])
    if not len(positions):
        return CodedMask(Coding.KEPT, shape)
    gaps, rice = encode_gaps(positions)
    raw = BitMask.from_bool(~removed).packed.ravel()
    if len(raw) <= len(gaps):
        return CodedMask(Coding.RAW, shape, raw)
    return CodedMask(Coding.GAPS, shape, gaps, len(positions), rice)


def _read_plain(mask: CodedMask, tensor: QuantTensor) -> BitMask:
    """Inverse of `_plain`."""
    rows, width = mask.shape
    if mask.coding is Coding.KEPT:
        return BitMask.from_bool(np.ones(mask.shape, dtype=np.bool_))
    assert mask.data is not None
    if mask.coding is Coding.RAW:
        if len(mask.data) != rows * -(-width // 8):
            raise ArtifactError(f"{len(mask.data)} bytes are no mask of {mask.shape}")
        packed = BitMask(mask.data.reshape(rows, -1), mask.shape)
        return BitMask.from_bool(packed.to_bool() | (tensor.codes == 0))
    live = np.flatnonzero(tensor.codes)
    keep = np.ones(rows * width, dtype=np.bool_)
    keep[live[decode_gaps(mask.data, mask.rice, mask.zeros, len(live))]] = False
    return BitMask.from_bool(keep.reshape(mask.shape))


CodedBlock = tuple[NDArray[np.uint16], NDArray[np.bool_]]
"""Frequencies and bits of a block, in narrow types because all blocks of a patch are in memory at once."""


def _modelled(
    removed: Mapping[str, NDArray[np.bool_]], linears: Mapping[str, QuantTensor]
) -> dict[str, list[CodedBlock]]:
    """Every block of every mask with its bits, in the order in which they are read."""
    counts, coded = Counts(), {}
    for name, gone in removed.items():
        model, blocks = MatrixModel(linears[name], counts), []
        for block in model.blocks():
            bits = gone[block.rows, block.columns][block.live]
            model.learn(block, bits)
            blocks.append((block.frequencies.astype(np.uint16), bits))
        coded[name] = blocks
    return coded


def _read_modelled(tensor: QuantTensor, counts: Counts, reader: BitReader) -> BitMask:
    """Inverse of `_modelled` for one mask."""
    keep, model = np.ones(tensor.shape, dtype=np.bool_), MatrixModel(tensor, counts)
    for block in model.blocks():
        bits = reader.take(block.frequencies)
        model.learn(block, bits)
        keep[block.rows, block.columns][block.live] = ~bits
    return BitMask.from_bool(keep)


def _grouped(
    removed: Mapping[str, NDArray[np.bool_]], linears: Mapping[str, QuantTensor]
) -> dict[str, list[CodedBlock]]:
    """Every turn of every mask with its bits, in the order in which they are read."""
    counts, coded = GroupCounts(), {}
    for name, gone in removed.items():
        model, turns = GroupModel(linears[name], counts), []
        for turn in model.turns():
            bits = turn.bits_of(gone)
            model.learn(turn, bits)
            turns.append((turn.frequencies.astype(np.uint16), bits))
        coded[name] = turns
    return coded


def _read_grouped(
    name: str, tensor: QuantTensor, counts: GroupCounts, reader: BitReader
) -> BitMask:
    """Inverse of `_grouped` for one mask."""
    if tensor.shape[1] % GROUP:
        raise ArtifactError(
            f"`{name}` has rows of {tensor.shape[1]} weights, which are no groups of {GROUP}"
        )
    model = GroupModel(tensor, counts)
    for turn in model.turns():
        model.learn(turn, reader.take(turn.frequencies))
    return BitMask.from_bool(~model.removed())


def _stream(blocks: Sequence[CodedBlock]) -> tuple[NDArray[np.uint16], int]:
    """Words and lanes: as many as the size of the stream justifies, for speed."""
    most = _cost(blocks) // (4 * _LANE_SHARE)
    lanes = max([LANES[0], *(count for count in LANES if count <= most)])
    return write_bits(blocks, lanes), lanes


def _cost(blocks: Iterable[CodedBlock]) -> int:
    """Bytes that an ideal coder would need for these bits. Only the writer uses it, to choose a coding."""
    bits = 0
    for frequencies, removed in blocks:
        chances = np.where(removed, frequencies, ONE - frequencies.astype(np.int64))
        bits += int(_PRICES[chances - 1].sum())
    return -(-bits // (256 * 8))
