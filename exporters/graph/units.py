"""Which rows and columns of each linear the graph of a task with removed units holds. Numpy only.

A removed unit's columns are zeros in the linear that reads it. So its rows and columns can be left out, and no constant
has to be added anywhere: zeros times the unit's output are zeros, whatever its bias is.

Where all units of an attention or a feed-forward layer are removed, the linear that reads them has no column left: the
graph holds none of its linears, and its bias is all that is left of the sub-layer (`emptied.py`).

Rows and columns are taken from arrays that were derived from the whole matrix. So scales and divisors are those of the
backbone, and each integer of the small matrix is the integer that the whole matrix has at its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import QuantTensor
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, Units, kept_entries

Places = NDArray[np.intp]
Scalar = TypeVar("Scalar", bound=np.generic)

Block = Callable[[str, QuantTensor], int]
"""Name and weights of a linear -> columns that stay or go together."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows and columns of a linear `(o, i)` that a graph holds.

    Attributes:
        rows: in order; None: all.
        columns: in order; None: all.
    """

    rows: Places | None = None
    columns: Places | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.rows is None and self.columns is None

    def of(self, matrix: NDArray[Scalar]) -> NDArray[Scalar]:
        """The part of a matrix `(i, o)`, in a graph's order, that is held.

        >>> Kept(rows=np.array([1])).of(np.array([[1, 2], [3, 4]]))
        array([[2],
               [4]])
        """
        return take(take(matrix, self.columns, 0), self.rows, 1)

    def inside(self, flat: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Bits of the weights that are held, and False for others; flat in a graph's order, like the result.

        Args:
            flat: a bit a weight.
            shape: `(o, i)` of the linear.
        """
        held = np.zeros(shape[::-1], dtype=np.bool_)
        columns = np.arange(shape[1]) if self.columns is None else self.columns
        rows = np.arange(shape[0]) if self.rows is None else self.rows
        held[np.ix_(columns, rows)] = True
        return flat & held.reshape(-1)

    def tensor(self, whole: QuantTensor) -> QuantTensor:
        """The weights that are held, with their own scales; with a scale a weight where groups are broken up."""
        codes = np.ascontiguousarray(self.of(whole.codes.T).T)
        if whole.scales.shape[1] == 1:
            scales, group = whole.scales, codes.shape[1]
        elif self.columns is None:
            scales, group = whole.scales, whole.group
        else:
            scales, group = whole.scales[:, self.columns // whole.group], 1
        return QuantTensor(codes, take(scales, self.rows, 0), whole.bits, group, whole.zero_free)


ALL = Kept()


def take(array: NDArray[Scalar], places: Places | None, axis: int) -> NDArray[Scalar]:
    """Entries of an axis; all where `places` is None."""
    return array if places is None else np.ascontiguousarray(np.take(array, places, axis=axis))


@dataclass(frozen=True, eq=False)
class Shrunk:
    """What the graph of a task holds of the linears.

    Attributes:
        units: the groups, and the units that are traced: at least one of a group.
        linears: parameter name of a linear -> what is traced of it; one that is not here is held whole.
        readers: linears that read units of which none is left.
        gone: all linears of which the graph holds nothing, the readers among them.
    """

    units: Units
    linears: Mapping[str, Kept] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()

    @property
    def held(self) -> Mapping[str, Kept]:
        """Parameter name of a linear -> the part of it that the graph holds, of those that are held in part."""
        return {name: kept for name, kept in self.linears.items() if name not in self.gone}

    @classmethod
    def of(
        cls, units: Units | None, linears: Mapping[str, QuantTensor], block: Block
    ) -> Shrunk | None:
        """What is left of some linears; None if that is all.

        Args:
            units: of a task; None: it knows of none.
            linears: parameter name -> weights.
            block: columns that an arithmetic cannot part.
        """
        if units is None or not units.removed:
            return None
        held = Units(
            units.groups,
            tuple(
                _held(group, kept, linears, block)
                for group, kept in zip(units.groups, units.kept, strict=True)
            ),
        )
        names = dict.fromkeys(part.name for group in held.groups for part in group.parts)
        found = {name: _kept(held, name, linears[name].shape) for name in names}
        without = {name: _kept(units, name, linears[name].shape) for name in names}
        readers = frozenset(name for name, kept in without.items() if _is_none(kept.columns))
        gone = readers | {name for name, kept in without.items() if _is_none(kept.rows)}
        parts = {name: kept for name, kept in found.items() if not kept.is_all}
        return cls(held, parts, readers, gone)


def _is_none(places: Places | None) -> bool:
    return places is not None and not len(places)


def _kept(units: Units, name: str, shape: tuple[int, int]) -> Kept:
    rows, columns = (kept_entries(units, name, axis, shape[axis]) for axis in (ROWS, COLUMNS))
    return Kept(
        None if len(rows) == shape[ROWS] else rows,
        None if len(columns) == shape[COLUMNS] else columns,
    )


def _held(
    group: UnitGroup, kept: NDArray[np.bool_], linears: Mapping[str, QuantTensor], block: Block
) -> NDArray[np.bool_]:
    """The units of a group that are traced: one if all are removed; a block of columns stays whole."""
    held = kept.copy()
    if not held.any():
        held[0] = True  # the tracer needs a matrix with rows
    every = np.arange(group.count)
    before = -1
    while (count := int(held.sum())) != before:
        before = count
        for part in group.parts:
            size = block(part.name, linears[part.name]) if part.axis == COLUMNS else 1
            if size > 1:
                starts = part.first + every * part.width
                blocks = (starts[:, None] + np.arange(part.width)) // size
                held |= np.isin(blocks, blocks[held]).any(axis=1)
    return held


def index_names(kept: Mapping[str, Kept]) -> dict[bytes, str]:
    """Names of the constants that list kept rows and columns: bytes of a list -> its name, the same for equal lists.

    >>> index_names({"a": Kept(rows=np.array([1])), "b": Kept(columns=np.array([1]))}).values()
    dict_values(['kept0'])
    """
    lists = [one for each in kept.values() for one in (each.rows, each.columns) if one is not None]
    return {key: f"kept{n}" for n, key in enumerate(dict.fromkeys(map(_key, lists)))}


def _key(places: NDArray[Any]) -> bytes:
    return as_index(places).tobytes()


def as_index(places: NDArray[Any]) -> NDArray[np.int32]:
    """Rows or columns as a graph stores them."""
    return np.asarray(places, dtype=np.int32)
