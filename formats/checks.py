"""Checks that several modules share: fields of a manifest and of a header, shapes and dtypes of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError
from maskpack.formats.files import half_letter

SHA256 = re.compile(r"[0-9a-f]{64}")
RESTORE = "restore the artifact from a copy, or make it again"
LARGEST = 1e300
_DEEPEST = 20  # of the free keys of a task


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


def check_text(where: str, value: object) -> None:
    """Raise ArtifactError unless a field of a manifest is a text."""
    if not isinstance(value, str) or half_letter(value):
        raise ArtifactError(f"`{where}` is not a text", RESTORE)


def check_free(where: str, value: object, depth: int = 0) -> None:
    """Raise ArtifactError unless a value of free keys is JSON that can be written again."""
    if depth > _DEEPEST:
        raise ArtifactError(f"`{where}` is nested more than {_DEEPEST} deep", RESTORE)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(where, key)
            check_free(where, inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_free(where, inner, depth + 1)
    elif isinstance(value, str):
        check_text(where, value)
    elif value is not None and not abs(value) < LARGEST:  # type: ignore[arg-type] # a number
        raise ArtifactError(f"`{where}` holds a number that is not finite", RESTORE)


def spell_out(tree: Any) -> Any:
    """A tree whose numbers that JSON lacks are words.

    >>> spell_out({"ratio": float("nan"), "each": (1.5, float("-inf"))})
    {'ratio': 'nan', 'each': [1.5, '-inf']}
    """
    if isinstance(tree, Mapping):
        return {key: spell_out(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [spell_out(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def check_whole(where: str, value: object) -> None:
    """Raise ArtifactError unless a field of a manifest is a whole number from 0."""
    if type(value) is not int or value < 0:
        raise ArtifactError(f"`{where}` is not a whole number from 0", RESTORE)


def check_mapping(where: str, value: object) -> None:
    """Raise ArtifactError unless a field of a manifest is an object."""
    if not isinstance(value, Mapping):
        raise ArtifactError(f"`{where}` is not an object", RESTORE)


def check_sha(digest: object, where: str) -> None:
    """Raise ArtifactError unless a field of a manifest is a digest."""
    if not isinstance(digest, str) or SHA256.fullmatch(digest) is None:
        raise ArtifactError(f"`{where}` is not a SHA-256 in hexadecimal", RESTORE)


def check_widths(bits: Mapping[str, int], known: Collection[int]) -> None:
    """Raise ArtifactError if the codes of a linear, by name, have another width than those."""
    for name, width in bits.items():
        if width not in known:
            raise ArtifactError(f"`{name}` is a linear of {width} bits, not {known}")
