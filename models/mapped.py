"""Weights of a model one at a time, in float32; pages of mapped files are given back on the way."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maskpack.models.placement import to_numpy

_LARGE = (
    2**29
)  # bytes from which pages are given back; a smaller model is read several times from memory
_PAGEOUT = 21  # MADV_PAGEOUT of Linux


def weights_of(model: Any, *, by_name: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Name and float32 values of each parameter of a model, one at a time; in the model's order, or sorted."""
    large = sum(map(_bytes_of, model.parameters())) >= _LARGE
    named = list(model.named_parameters())
    for name, parameter in sorted(named) if by_name else named:
        yield name, float_weight(parameter)
        if large:
            give_back(parameter)


def float_weight(parameter: Tensor) -> Tensor:
    """A parameter's values in float32, without a gradient; those of a float32 parameter are not copied."""
    return parameter.detach().float()


def give_back(parameter: Tensor) -> None:
    """Let the system drop pages of a mapped file that a tensor was read from; they are read again when needed."""
    size, start = _bytes_of(parameter), parameter.data_ptr()
    if not parameter.is_contiguous() or not any(
        low <= start and start + size <= high for low, high in _mapped_files()
    ):
        return
    first, last = -(-start // PAGESIZE) * PAGESIZE, (start + size) // PAGESIZE * PAGESIZE
    if (
        last > first
    ):  # advice: pages that somebody changed stay, and nothing is lost if it is refused
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGEOUT)


def _bytes_of(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def _mapped_files() -> Iterator[tuple[int, int]]:
    """Addresses where this process has mapped a file; none where the system does not tell."""
    if sys.platform != "linux":
        return
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            span, _, _, _, inode, *_ = line.split(maxsplit=5)
            if inode != "0":
                low, high = span.split("-")
                yield int(low, 16), int(high, 16)


def weights_digest(model: Any) -> str:
    """SHA-256 of all parameters in float32, by name, shape and bytes."""
    digest = hashlib.sha256()
    for name, weight in weights_of(model, by_name=True):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(np.ascontiguousarray(to_numpy(weight)).data)
    return digest.hexdigest()
