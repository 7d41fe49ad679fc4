"""Codes of matrices to the tensors of a file and back (SPEC.md section 4), and matrices whose codes stay packed in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import pack_bits, row_bytes, unpack_bits, unpack_codes
from maskpack.formats.checks import read_flag, read_shape, read_whole
from maskpack.formats.errors import ArtifactError
from maskpack.formats.mixed_rows import MixedRows
from maskpack.formats.tensors import QuantTensor


class PackedTensor(QuantTensor):
    """A tensor whose codes are unpacked whenever they are read, so that a large backbone can stay in its mapped file.

    Args:
        packed: uint8 `(o, ceil(i * bits / 8))`, as `pack_codes` makes them.
        scales, bits, group, zero_free: as of `QuantTensor`.
        width: codes of a row, `i`.
    """

    def __init__(
        self,
        packed: NDArray[np.uint8],
        scales: NDArray[np.floating],
        bits: int,
        group: int,
        zero_free: bool,
        width: int,
    ) -> None:
        named = {"scales": scales, "bits": bits, "group": group, "zero_free": zero_free}
        for name, value in {**named, "_packed": packed, "_width": width}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    _packed: NDArray[np.uint8]
    _width: int

    @classmethod
    def of(cls, tensor: QuantTensor) -> PackedTensor:
        """The same tensor, packed."""
        fields = tensor.scales, tensor.bits, tensor.group, tensor.zero_free
        return cls(tensor.pack(), *fields, tensor.shape[1])

    @property
    def codes(self) -> NDArray[np.int8]:
        """The codes, a new array each time."""
        return unpack_codes(self._packed, self.bits, self._width, zero_free=self.zero_free)

    @property
    def shape(self) -> tuple[int, int]:
        """`(o, i)`."""
        return (int(self._packed.shape[0]), self._width)

    def pack(self) -> NDArray[np.uint8]:
        """The codes as they are held."""
        return self._packed

    def take(self, rows: NDArray[np.int64]) -> QuantTensor:
        """Some of its rows, packed."""
        return self._of(self._packed[rows], self.scales[rows])

    def with_gains(self, gains: NDArray[np.float16]) -> QuantTensor:
        """The same, packed."""
        return self._of(self._packed, self.scales_with(gains))

    def _of(self, packed: NDArray[np.uint8], scales: NDArray[np.floating]) -> PackedTensor:
        return PackedTensor(packed, scales, self.bits, self.group, self.zero_free, self._width)


@dataclass(frozen=True, eq=False)
class StoredPart:
    """A tensor of a file that is made when its turn comes.

    Attributes:
        key: behind the parameter's name.
        shape: of uint8.
        make: makes it.
    """

    key: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[np.uint8]]


def stored_codes(tensor: QuantTensor) -> Iterator[StoredPart]:
    """The tensors that hold the codes of a matrix in a file. Inverse of `read_matrix`."""
    parts = {"codes": tensor}
    if isinstance(tensor, MixedRows):
        parts = {"codes": tensor.wide, "rare": tensor.rare}
        is_wide = tensor.is_wide
        yield StoredPart("wide", (1, row_bytes(len(is_wide), 1)), lambda: pack_bits(is_wide[None]))
    for key, part in parts.items():
        yield StoredPart(key, (part.shape[0], row_bytes(part.shape[1], part.bits)), part.pack)


def read_matrix(
    name: str, spec: Mapping[str, Any], arrays: dict[str, NDArray[Any]], *, packed: bool
) -> QuantTensor:
    """A matrix of a backbone from its tensors, which are taken out of `arrays`. Inverse of `stored_codes`.

    Args:
        name: of the parameter.
        spec: what the backbone's header says of it.
        arrays: tensors of the file, by key.
        packed: whether codes below 8 bits stay packed.

    Raises:
        ArtifactError: tensors that do not go with the header, or rows of two widths in a linear.
    """
    bits, group = read_whole(spec["bits"]), read_whole(spec["group"])
    (rows, width), free = read_shape(spec["shape"]), read_flag(spec.get("zero_free", False))

    def part(codes: str, scales: NDArray[Any], bits: int = bits, free: bool = free) -> QuantTensor:
        stored = arrays.pop(f"{name}.{codes}")
        if packed and bits < 8:
            return PackedTensor(stored, scales, bits, group, free, width)
        return QuantTensor(
            unpack_codes(stored, bits, width, zero_free=free), scales, bits, group, free
        )

    scales = arrays.pop(f"{name}.scales")
    if "rare" not in spec:
        return part("codes", scales)
    if spec["role"] != "embedding":
        raise ArtifactError(f"`{name}` has rare rows and is no table that is looked up")
    is_wide = _read_marks(arrays.pop(f"{name}.wide"), scales, rows)
    rare = part("rare", scales[~is_wide], read_whole(spec["rare"]), True)
    return MixedRows(part("codes", scales[is_wide]), rare, is_wide)


def _read_marks(
    marks: NDArray[np.uint8], scales: NDArray[np.floating], rows: int
) -> NDArray[np.bool_]:
    """Which rows are wide, bool `(o,)`, from a tensor of a file.

    Args:
        marks: uint8 `(1, ceil(o / 8))`, a bit a row: 1 is wide.
        scales: of all rows, `(o, 1)`.
        rows: `o`.

    Raises:
        ArtifactError: marks or scales of another number of rows, a bit behind the last row, or rows of one kind alone.
    """
    expected = (1, row_bytes(rows, 1))
    if marks.shape != expected or scales.shape != (rows, 1):
        raise ArtifactError(
            f"marks of rows {marks.shape} and scales {scales.shape}, expected {expected} and {(rows, 1)}"
        )
    is_wide = np.asarray(unpack_bits(marks, rows)[0])
    if is_wide.all() or not is_wide.any():
        raise ArtifactError(f"{is_wide.sum()} of {rows} rows are wide, expected some and not all")
    return is_wide
