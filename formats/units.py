"""Whole units (attention heads, neurons) that a task removes: which weights belong to each, and which units stay.

A unit is removed when the weights of its rows and columns are. What reads its output then reads 0, so that a graph may
leave the unit out. A file that names the units need not spell out their weights: a mask that removes nothing
else is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError

ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class UnitPart:
    """The weights of one linear `(o, i)` that belong to the units of a group.

    Attributes:
        name: parameter name of the linear.
        axis: `ROWS` or `COLUMNS`, in which the units lie side by side.
        first: row or column at which unit 0 begins.
        width: rows or columns of a unit.
    """

    name: str
    axis: int
    first: int
    width: int

    def entries(self, units: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Rows or columns of some units.

        >>> UnitPart("a.weight", ROWS, 4, 2).entries(np.array([True, False, True]))
        array([4, 5, 8, 9])
        """
        starts = self.first + np.flatnonzero(units) * self.width
        found: NDArray[np.intp] = (starts[:, None] + np.arange(self.width)).reshape(-1)
        return found


@dataclass(frozen=True)
class UnitGroup:
    """Units of one layer that are alike.

    Attributes:
        kind: `heads` or `neurons`.
        layer: number of the layer.
        count: units, removed or not.
        parts: their weights, in each linear that has some.
    """

    kind: str
    layer: int
    count: int
    parts: tuple[UnitPart, ...]

    def __post_init__(self) -> None:
        if self.count < 1 or not self.parts:
            raise ArtifactError(f"the {self.kind} of layer {self.layer} have no weights")


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a task's layers, and those that it keeps.

    Attributes:
        groups: all groups, in which a task may keep all units.
        kept: bool `(count)`, for each group.
    """

    groups: tuple[UnitGroup, ...]
    kept: tuple[NDArray[np.bool_], ...]

    def __post_init__(self) -> None:
        for group, kept in zip(self.groups, self.kept, strict=True):
            if kept.shape != (group.count,) or kept.dtype != np.bool_:
                raise ArtifactError(
                    f"the {group.kind} of layer {group.layer} are {group.count}, "
                    f"bits are there for {kept.shape}"
                )

    @property
    def removed(self) -> int:
        """Units that are removed."""
        return sum(int((~kept).sum()) for kept in self.kept)

    def masks(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.bool_]]:
        """What the units alone keep of each linear that they touch: bool `(o, i)` by name.

        Args:
            shapes: of the backbone's linears.

        Raises:
            ArtifactError: a part lies over no linear, or beyond one.

        >>> part = UnitPart("a.weight", COLUMNS, 0, 2)
        >>> units = Units((UnitGroup("heads", 0, 2, (part,)),), (np.array([True, False]),))
        >>> units.masks({"a.weight": (1, 4)})["a.weight"]
        array([[ True,  True, False, False]])
        """
        found: dict[str, NDArray[np.bool_]] = {}
        for group, kept in zip(self.groups, self.kept, strict=True):
            for part in group.parts:
                size = self._size(group, part, shapes)
                mask = found.setdefault(part.name, np.ones(size, dtype=np.bool_))
                gone = part.entries(~kept)
                if part.axis == ROWS:
                    mask[gone] = False
                else:
                    mask[:, gone] = False
        return found

    def _size(
        self, group: UnitGroup, part: UnitPart, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Shape of the linear of a part, which the part lies in."""
        size = shapes.get(part.name)
        if size is None:
            raise ArtifactError(f"the backbone has no `{part.name}` for the {group.kind} in it")
        if part.first + group.count * part.width > size[part.axis]:
            raise ArtifactError(
                f"the {group.kind} of layer {group.layer} reach beyond `{part.name}`, which is {size}"
            )
        return size


def kept_entries(units: Units, name: str, axis: int, size: int) -> NDArray[np.intp]:
    """Rows or columns of a linear that no removed unit has, in order; all where no unit lies.

    Args:
        units: of a task.
        name: of the linear.
        axis: `ROWS` or `COLUMNS`.
        size: of the linear in that axis.
    """
    stays = np.ones(size, dtype=np.bool_)
    for group, kept in zip(units.groups, units.kept, strict=True):
        for part in group.parts:
            if (part.name, part.axis) == (name, axis):
                stays[part.entries(~kept)] = False
    found: NDArray[np.intp] = np.flatnonzero(stays)
    return found


def joined(groups: Sequence[UnitGroup], kept: Mapping[tuple[str, int], NDArray[np.bool_]]) -> Units:
    """`Units` from bits by kind and layer; groups without bits keep all."""
    every = [kept.get((g.kind, g.layer), np.ones(g.count, dtype=np.bool_)) for g in groups]
    return Units(tuple(groups), tuple(every))
