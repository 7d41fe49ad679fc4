"""A table whose frequent rows have wide codes and whose rare rows have codes of 2 bits.

In memory it is a table of the wide width: zero-free codes of 2 bits, +-1 and +-3, are codes of 8, 4 and zero-free 3 bits too. So all
code that computes with a table computes with it; only what stores or packs codes asks which rows are wide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import MIXED_ROWS, RARE_BITS, row_bytes
from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensors import QuantTensor


class MixedRows(QuantTensor):
    """A table `(o, i)` of which some rows are wide, `(w, i)`, and the others rare, `(o - w, i)`.

    `codes` and `scales` of the whole table are put together each time that they are read.

    Args:
        wide: the frequent rows, in their order.
        rare: the others, in their order: zero-free, 2 bits.
        is_wide: bool `(o,)`, whether a row is wide.

    Raises:
        ArtifactError: parts that do not go together, or one that is empty.
    """

    def __init__(self, wide: QuantTensor, rare: QuantTensor, is_wide: NDArray[np.bool_]) -> None:
        if rare.bits != RARE_BITS or not rare.zero_free or wide.bits <= RARE_BITS:
            raise ArtifactError(
                f"rare rows of {rare.bits} bits beside rows of {wide.bits}, expected zero-free codes of "
                f"{RARE_BITS} bits beside wider ones"
            )
        rows = int(is_wide.sum()), int((~is_wide).sum())
        if is_wide.ndim != 1 or rows != (wide.shape[0], rare.shape[0]):
            raise ArtifactError(
                f"{rows[0]} wide and {rows[1]} rare rows are marked, {wide.shape[0]} and {rare.shape[0]} are there"
            )
        kinds = {(part.shape[1], part.group, part.scales.dtype) for part in (wide, rare)}
        if len(kinds) != 1 or wide.group != wide.shape[1]:
            raise ArtifactError(
                "wide and rare rows differ in width or scales, or have several scales a row"
            )
        named = {"bits": wide.bits, "group": wide.group, "zero_free": wide.zero_free}
        for name, value in {**named, "wide": wide, "rare": rare, "is_wide": is_wide}.items():
            object.__setattr__(self, name, value)

    wide: QuantTensor
    rare: QuantTensor
    is_wide: NDArray[np.bool_]

    @property
    def codes(self) -> NDArray[np.int8]:
        """All codes, a new array each time."""
        return self._together(self.wide.codes, self.rare.codes)

    @property
    def scales(self) -> NDArray[np.floating]:
        """All scales, a new array each time."""
        return self._together(self.wide.scales, self.rare.scales)

    @property
    def shape(self) -> tuple[int, int]:
        """`(o, i)`."""
        return (len(self.is_wide), self.wide.shape[1])

    @property
    def features(self) -> tuple[str, ...]:
        """What an artifact of it `requires`."""
        return (*self.wide.features, MIXED_ROWS)

    @property
    def code_bytes(self) -> int:
        """Bytes of its codes in a file, and of the bits that tell its rows apart."""
        return self.wide.code_bytes + self.rare.code_bytes + row_bytes(len(self.is_wide), 1)

    def _together(self, wide: NDArray[Any], rare: NDArray[Any]) -> NDArray[Any]:
        whole = np.empty((len(self.is_wide), wide.shape[1]), dtype=wide.dtype)
        whole[self.is_wide], whole[~self.is_wide] = wide, rare
        return whole

    def take(self, rows: NDArray[np.int64]) -> QuantTensor:
        """Some of its rows, rising; rows of one kind alone are a tensor of one width."""
        places = np.cumsum(self.is_wide) - 1, np.cumsum(~self.is_wide) - 1
        chosen = self.is_wide[rows]
        wide, rare = rows[chosen], rows[~chosen]
        if not len(rare):
            return self.wide.take(places[0][wide])
        if not len(wide):
            return self.rare.take(places[1][rare])
        return MixedRows(self.wide.take(places[0][wide]), self.rare.take(places[1][rare]), chosen)
