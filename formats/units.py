"""Whole units (attention heads, neurons) that a task removes: which weights belong to each, and which units stay.

A unit is removed when the weights of its rows and columns are. What reads its output then reads 0, so that a graph may
leave the unit out. A file that names the units need not spell out their weights: a mask that removes nothing
else is not stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError

ROWS, COLUMNS = 0, 1
FEATURE = "units"
"""As `requires` of a task names it."""

UNIT_KINDS = ("heads", "neurons")
"""What units of a group may be."""


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

    def __post_init__(self) -> None:
        if self.axis not in {ROWS, COLUMNS} or self.first < 0 or self.width < 1:
            raise ArtifactError(
                f"units of width {self.width} from {self.first} in axis {self.axis} of `{self.name}`"
            )

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
        if self.kind not in UNIT_KINDS or self.layer < 0:
            raise ArtifactError(
                f"`{self.kind}` of layer {self.layer} are no units that this release knows, "
                f"which are {' and '.join(UNIT_KINDS)}"
            )
        if self.count < 1 or not self.parts:
            raise ArtifactError(f"the {self.kind} of layer {self.layer} have no weights")


@dataclass(frozen=True)
class UnitCount:
    """How many units a group has, and how many of them a task keeps."""

    kind: str
    layer: int
    count: int
    kept: int


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
        _check_apart(self.groups)

    @property
    def removed(self) -> int:
        """Units that are removed."""
        return sum(int((~kept).sum()) for kept in self.kept)

    @property
    def count(self) -> int:
        """Units, removed or not."""
        return sum(group.count for group in self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Linears in which units lie, in the order of their names."""
        return tuple(sorted({part.name for group in self.groups for part in group.parts}))

    def counts(self) -> tuple[UnitCount, ...]:
        """Units of each group, by kind and layer in this order."""
        return tuple(
            UnitCount(kind, layer, len(kept), int(kept.sum()))
            for (kind, layer), kept in self.by_place().items()
        )

    def by_place(self) -> dict[tuple[str, int], NDArray[np.bool_]]:
        """The kept units of each group, by kind and layer in this order."""
        places = {(g.kind, g.layer): kept for g, kept in zip(self.groups, self.kept, strict=True)}
        return dict(sorted(places.items()))

    def removed_units(self) -> frozenset[tuple[str, int, int]]:
        """Kind, layer and number of each unit that is removed."""
        return frozenset(
            (kind, layer, int(number))
            for (kind, layer), kept in self.by_place().items()
            for number in np.flatnonzero(~kept)
        )

    def removes_from(self, name: str) -> bool:
        """Whether a removed unit has weights in a linear."""
        return any(
            part.name == name and not kept.all()
            for group, kept in zip(self.groups, self.kept, strict=True)
            for part in group.parts
        )

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
        self.check_within(shapes)
        return {name: self.mask(name, shapes[name]) for name in self.names}

    def mask(self, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """What the units alone keep of one linear of this shape: bool `(o, i)`.

        Raises:
            ArtifactError: a part lies beyond the linear.
        """
        keep = np.ones(shape, dtype=np.bool_)
        for group, kept in zip(self.groups, self.kept, strict=True):
            for part in group.parts:
                if part.name != name:
                    continue
                _check_inside(group, part, shape)
                gone = part.entries(~kept)
                if part.axis == ROWS:
                    keep[gone] = False
                else:
                    keep[:, gone] = False
        return keep

    def check_within(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ArtifactError unless every part lies in a linear of `shapes`."""
        for group in self.groups:
            for part in group.parts:
                if part.name not in shapes:
                    raise ArtifactError(
                        f"the backbone has no `{part.name}` for the {group.kind} in it"
                    )
                _check_inside(group, part, shapes[part.name])


def _check_inside(group: UnitGroup, part: UnitPart, shape: tuple[int, ...]) -> None:
    if part.first + group.count * part.width > shape[part.axis]:
        raise ArtifactError(
            f"the {group.kind} of layer {group.layer} reach beyond `{part.name}`, which is {shape}"
        )


def _check_apart(groups: Sequence[UnitGroup]) -> None:
    """Raise ArtifactError if a group is there twice, or a row or column belongs to two units."""
    spans = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for group in groups:
        if (group.kind, group.layer) in seen:
            raise ArtifactError(f"the {group.kind} of layer {group.layer} are there twice")
        seen.add((group.kind, group.layer))
        for part in group.parts:
            end = part.first + group.count * part.width
            spans[part.name, part.axis].append((part.first, end))
    for (name, axis), found in spans.items():
        for (_, end), (start, _) in pairwise(sorted(found)):
            if start < end:
                word = ("row", "column")[axis]
                raise ArtifactError(f"{word} {start} of `{name}` belongs to two units")


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
