"""Checks that several modules share: fields of a header, shapes and dtypes of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError


def read_flag(value: object) -> bool:
    """A truth value of a header, exactly."""
    if type(value) is not bool:
        raise TypeError(f"{value!r} is not true or false")
    return value


def read_whole(value: object) -> int:
    """An integer of a header, exactly: no text, no fraction, no infinity."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def read_text(value: object) -> str:
    """A text of a header."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def read_list(value: object) -> list[object]:
    """A list of a header."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def read_shape(value: object) -> tuple[int, int]:
    """A matrix shape of a header."""
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError(f"{value!r} is not the shape of a matrix")
    return (read_whole(value[0]), read_whole(value[1]))


def check_over(
    what: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ArtifactError unless each shape in `found` is that of the same name in `expected`."""
    for name, shape in found.items():
        if name not in expected:
            raise ArtifactError(f"the backbone has no `{name}` for the {what} of that name")
        if shape != expected[name]:
            raise ArtifactError(
                f"the {what} of `{name}` is {shape}, the backbone wants {expected[name]}"
            )


def check_dense(tensors: Mapping[str, NDArray[np.float16]], where: str) -> None:
    """Raise ArtifactError unless every tensor is finite float16 of one dimension or more."""
    for name, tensor in tensors.items():
        if tensor.dtype != np.float16 or tensor.ndim == 0 or not np.isfinite(tensor).all():
            raise ArtifactError(
                f"`{name}` of the {where} is not finite float16 of one dimension or more"
            )
