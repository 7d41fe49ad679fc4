"""Masks of a graph: folded into its codes, or beside them, so that tasks can share the codes.

    flips   steps u8 -> positions in all matrices -> Split -> ScatterElements(flat codes, times 0)
    bits    bytes u8 -> Split -> Gather(table 256 x 8) -> BitwiseAnd(flat codes)

All matrices of a graph follow one another, flat, in the order of their names in the graph. *Flips* are a
byte for each removed weight, and more bytes for long distances: a step of 1 to 255 goes on by so many
positions and removes the weight there; a step of 0 goes on by 255 and removes nothing. *Bits* are an eighth of
a byte for each weight; every matrix starts on a byte.

A module that lost units is whole in `codes`, and `Gather` takes the rows and columns that are left. The lists of them
are constants `masks.kept0`, ..., which modules share.

With constant codes both fold when a session is made, and runs cost nothing. If the steps or bits
are an input of the graph instead, they are applied in every run, and a task consists of its inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import takewhile
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.graph.editor import MASKS, GraphEditor
from maskpack.exporters.graph.units import ALL, Kept, Places, as_index, index_names, take

FAR = 255

Removed = Mapping[str, NDArray[np.bool_]]
"""Name of a matrix -> flat positions in the graph's order, true where a weight is removed."""


def encode_flips(removed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Steps to the positions that are True, in order. Inverse of `decode_flips`.

    >>> encode_flips(np.array([False, True, True, False])).tolist()
    [2, 1]
    >>> far = np.zeros(600, dtype=bool); far[[254, 599]] = True
    >>> encode_flips(far).tolist()
    [255, 0, 90]
    """
    gaps = np.diff(np.flatnonzero(removed.ravel()), prepend=-1)
    jumps = (gaps - 1) // FAR
    steps = np.zeros(len(gaps) + int(jumps.sum()), dtype=np.uint8)
    steps[np.cumsum(jumps + 1) - 1] = gaps - FAR * jumps
    return steps


def decode_flips(steps: NDArray[np.uint8], length: int) -> NDArray[np.bool_]:
    """True where a weight is removed, `(length)`; inverse of `encode_flips`.

    >>> decode_flips(np.array([2, 1], dtype=np.uint8), 4).tolist()
    [False, True, True, False]
    """
    removed = np.zeros(length, dtype=np.bool_)
    removed[_ends(steps)[steps != 0]] = True
    return removed


def stack_flips(removed: Removed) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Steps through all matrices as one sequence, and how many of them end in each matrix.

    >>> steps, counts = stack_flips({"a": np.array([True, False]), "b": np.array([True, True])})
    >>> steps.tolist(), counts.tolist()
    ([1, 2, 1], [1, 2])
    """
    steps = encode_flips(np.concatenate(list(removed.values())))
    borders = np.cumsum([gone.size for gone in removed.values()])
    before = np.searchsorted(_ends(steps), borders)
    return steps, np.diff(before, prepend=0).astype(np.int64)


def _ends(steps: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Position that each step ends at."""
    return np.cumsum(np.where(steps == 0, FAR, steps.astype(np.int64))) - 1


def unstack_flips(
    steps: NDArray[np.uint8], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.bool_]]:
    """Inverse of `stack_flips`, with the weights of each matrix."""
    whole = decode_flips(steps, sum(sizes.values()))
    borders = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, np.split(whole, borders), strict=True))


def stack_bits(removed: Removed) -> NDArray[np.uint8]:
    """A bit a weight, 1 for kept; least significant first, every matrix starts on a byte."""
    return np.concatenate([np.packbits(~gone, bitorder="little") for gone in removed.values()])


def unstack_bits(
    packed: NDArray[np.uint8], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.bool_]]:
    """Inverse of `stack_bits`, with the weights of each matrix."""
    borders = np.cumsum([_byte_count(size) for size in sizes.values()])[:-1]
    return {
        name: ~np.unpackbits(part, count=size, bitorder="little").astype(np.bool_)
        for (name, size), part in zip(sizes.items(), np.split(packed, borders), strict=True)
    }


def _byte_count(weights: int) -> int:
    """Bytes of a bit a weight."""
    return -(-weights // 8)


COUNTS = "counts"
"""Name of the constant, or input, that says how many steps of the flips end in each matrix."""

Codes = NDArray[np.int8]
Unpack = Callable[[GraphEditor], ir.Value]
"""Emits flat codes from something smaller."""


class Form(StrEnum):
    """Encoding of masks beside their codes; also the name of the graph's constant or input."""

    FLIPS = "flips"
    BITS = "bits"


BITWISE_SINCE = 18
"""First opset with `BitwiseAnd`, which a mask of bits needs."""


def smaller_form(*tasks: Removed, opset: int) -> Form:
    """The form, of those that the graph's opset can write, in which the masks of all tasks together take fewer bytes."""
    if opset < BITWISE_SINCE:
        return Form.FLIPS
    flips = sum(len(stack_flips(removed)[0]) for removed in tasks)
    bits = sum(_byte_count(gone.size) for removed in tasks for gone in removed.values())
    return Form.FLIPS if flips <= bits else Form.BITS


_WHOLE: Mapping[str, Kept] = MappingProxyType({})


class Masks(ABC):
    """Emits masked codes, and takes the rows and columns that a graph holds.

    Args:
        removed: name of a module -> weights that its mask removes, of the whole matrix.
        kept: name of a module -> what the graph holds of it; a module that is not here is held whole.
    """

    folds = False
    """Whether rows, columns and masks are applied when the graph is written."""

    def __init__(self, removed: Removed, kept: Mapping[str, Kept] = _WHOLE) -> None:
        self._removed, self._kept = removed, kept

    def kept(self, name: str) -> Kept:
        """What the graph holds of a module."""
        return self._kept.get(name, ALL)

    def known(self, name: str, codes: Codes) -> Codes | None:
        """The masked codes `(i, o)` that the graph holds of a module if they can be constants of it, else None.

        Args:
            name: of the module.
            codes: of the whole matrix.
        """
        del name, codes
        return None

    @abstractmethod
    def matrix(
        self, editor: GraphEditor, codes: Codes, shape: tuple[int, ...], unpack: Unpack | None
    ) -> ir.Value:
        """The masked codes of a module.

        Args:
            editor: at the module.
            codes: int8 `(i, o)` of the whole matrix, not masked.
            shape: of the result; if the module is not held whole, the result is a matrix of what is held.
            unpack: emits the same codes, flat, from a smaller constant.
        """

    @abstractmethod
    def taken(
        self,
        editor: GraphEditor,
        array: NDArray[Any],
        label: str,
        places: Places | None,
        axis: int,
    ) -> ir.Value:
        """Entries of an axis of an array that belongs to a module; all where `places` is None."""


class FoldedMasks(Masks):
    """Masked codes as one constant; a module without a mask keeps all weights."""

    folds = True

    def known(self, name: str, codes: Codes) -> Codes:
        """See `Masks`."""
        gone = self._removed.get(name)
        masked = codes if gone is None else np.where(gone.reshape(codes.shape), np.int8(0), codes)
        return self.kept(name).of(masked)

    def matrix(
        self, editor: GraphEditor, codes: Codes, shape: tuple[int, ...], unpack: Unpack | None
    ) -> ir.Value:
        """See `Masks`; nothing is unpacked, so that the graph also runs in old runtimes."""
        del unpack
        masked = self.known(editor.name, codes)
        whole = self.kept(editor.name).is_all
        return editor.constant(masked.reshape(shape) if whole else masked, "codes")

    def taken(
        self,
        editor: GraphEditor,
        array: NDArray[Any],
        label: str,
        places: Places | None,
        axis: int,
    ) -> ir.Value:
        """See `Masks`."""
        return editor.constant(take(array, places, axis), label)


class ExternalMasks(Masks):
    """Codes as a constant without a mask, and the masks of all modules as a second one; every module has a mask."""

    def __init__(self, removed: Removed, kept: Mapping[str, Kept] = _WHOLE) -> None:
        super().__init__(removed, kept)
        self._parts: dict[str, tuple[ir.Value, ...]] = {}
        self._made: dict[str, ir.Value] = {}
        self._indices = index_names(kept)

    def matrix(
        self, editor: GraphEditor, codes: Codes, shape: tuple[int, ...], unpack: Unpack | None
    ) -> ir.Value:
        """See `Masks`; the uses of one module share a matrix."""
        name = editor.name
        if name not in self._made:
            if not self._parts:
                self._parts = self._split(GraphEditor(editor.graph, editor.before, MASKS))
            flat = editor.constant(codes.reshape(-1), "codes") if unpack is None else unpack(editor)
            masked = self._apply(editor, flat, self._parts[name])
            kept = self.kept(name)
            whole = editor.shape(*(shape if kept.is_all else codes.shape))
            (matrix,) = editor.op("Reshape", masked, whole, label="matrix")
            columns = self._gathered(editor, matrix, "columns", kept.columns, 0)
            self._made[name] = self._gathered(editor, columns, "rows", kept.rows, 1)
        return self._made[name]

    def taken(
        self,
        editor: GraphEditor,
        array: NDArray[Any],
        label: str,
        places: Places | None,
        axis: int,
    ) -> ir.Value:
        """See `Masks`; the array stays whole, so that tasks can share it."""
        whole = editor.constant(array, label)
        return self._gathered(editor, whole, f"{label}_kept", places, axis)

    def _gathered(
        self, editor: GraphEditor, value: ir.Value, label: str, places: Places | None, axis: int
    ) -> ir.Value:
        """Entries of an axis, which are looked up when a session is made."""
        if places is None:
            return value
        index = as_index(places)
        stored = editor.shared_constant(index, self._indices[index.tobytes()])
        (held,) = editor.op("Gather", value, stored, label=label, attributes={"axis": axis})
        return held

    @abstractmethod
    def _split(self, editor: GraphEditor) -> dict[str, tuple[ir.Value, ...]]:
        """Emit the nodes that all modules share; returns their outputs by module."""

    @abstractmethod
    def _apply(
        self, editor: GraphEditor, flat: ir.Value, part: tuple[ir.Value, ...]
    ) -> ir.Value: ...


class NoMasks(ExternalMasks):
    """Codes as they are, for a part of a graph that no task masks."""

    def _split(self, editor: GraphEditor) -> dict[str, tuple[ir.Value, ...]]:
        del editor
        return dict.fromkeys(self._removed, ())

    def _apply(self, editor: GraphEditor, flat: ir.Value, part: tuple[ir.Value, ...]) -> ir.Value:
        del editor, part
        return flat


class ExternalFlips(ExternalMasks):
    """Masks as the positions they remove."""

    def _split(self, editor: GraphEditor) -> dict[str, tuple[ir.Value, ...]]:
        encoded, counts = stack_flips(self._removed)
        steps, shares = editor.constant(encoded, Form.FLIPS), editor.constant(counts, COUNTS)
        axis = editor.constant(np.array(0, dtype=np.int32), "axis")
        far = editor.constant(np.array(FAR, dtype=np.int32), "far")
        removes = editor.cast(steps, ir.DataType.BOOL, label="removes")
        wide = editor.cast(steps, ir.DataType.INT32, label="wide")
        (lengths,) = editor.op("Where", removes, wide, far, label="lengths")
        (places,) = editor.op("CumSum", lengths, axis, label="places")
        (passes,) = editor.op("Not", removes, label="passes")
        factors = editor.cast(passes, ir.DataType.UINT8, label="factors")
        count = len(self._removed)
        parts = editor.op("Split", places, shares, label="part", outputs=count)
        ones = editor.op("Split", factors, shares, label="one", outputs=count)
        return dict(zip(self._removed, zip(parts, ones, strict=True), strict=True))

    def _apply(self, editor: GraphEditor, flat: ir.Value, part: tuple[ir.Value, ...]) -> ir.Value:
        places, ones = part
        before = takewhile(lambda name: name != editor.name, self._removed)
        start = 1 + sum(self._removed[name].size for name in before)  # ends of steps count from 1
        first = editor.constant(np.array(start, dtype=np.int32), "first")
        (own,) = editor.op("Sub", places, first, label="places")
        factors = editor.cast(ones, ir.DataType.INT8, label="factors")
        times = {"reduction": "mul"}
        (masked,) = editor.op(
            "ScatterElements", flat, own, factors, label="masked", attributes=times
        )
        return masked


class ExternalBits(ExternalMasks):
    """Masks as a bit a weight."""

    def _split(self, editor: GraphEditor) -> dict[str, tuple[ir.Value, ...]]:
        encoded = editor.constant(stack_bits(self._removed), Form.BITS)
        sizes = [_byte_count(gone.size) for gone in self._removed.values()]
        shares = editor.constant(np.array(sizes, dtype=np.int64), "shares")
        parts = editor.op("Split", encoded, shares, label="part", outputs=len(sizes))
        return {name: (part,) for name, part in zip(self._removed, parts, strict=True)}

    def _apply(self, editor: GraphEditor, flat: ir.Value, part: tuple[ir.Value, ...]) -> ir.Value:
        every = -((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(np.int8)
        keep = emit_table(editor, part[0], every, "table", self._removed[editor.name].size)
        (masked,) = editor.op("BitwiseAnd", flat, keep, label="masked")
        return masked


EXTERNAL_MASKS: Mapping[Form, type[ExternalMasks]] = {
    Form.FLIPS: ExternalFlips,
    Form.BITS: ExternalBits,
}


def emit_table(
    editor: GraphEditor, packed: ir.Value, table: NDArray[np.int8], label: str, count: int
) -> ir.Value:
    """Flat values that packed bytes stand for: `Gather(table (256, n), byte)`, cut to `count`."""
    index = editor.cast(packed, ir.DataType.INT32, label=f"{label}_index")
    rows = editor.shared_constant(table, f"{label}{table.shape[1]}")
    (values,) = editor.op("Gather", rows, index, label=f"{label}_rows")
    (flat,) = editor.op("Reshape", values, editor.shape(-1), label=f"{label}_flat")
    if count % table.shape[1]:
        none = editor.shared_constant(np.array([0], dtype=np.int64), "none")
        last = editor.constant(np.array([count], dtype=np.int64), f"{label}_count")
        (flat,) = editor.op("Slice", flat, none, last, label=f"{label}_cut")
    return flat
