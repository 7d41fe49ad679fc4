"""How the linears of a graph compute: one file and one line here for each arithmetic."""

from __future__ import annotations

from maskpack.exporters.arithmetic.base import Arithmetic
from maskpack.formats.lazy import LazyTable, find_entry

ARITHMETICS: LazyTable[Arithmetic] = LazyTable(
    int8="maskpack.exporters.arithmetic.int8:INT8",
    fp32="maskpack.exporters.arithmetic.fp32:FP32",
    fp16="maskpack.exporters.arithmetic.fp16:FP16",
    nbits="maskpack.exporters.arithmetic.nbits:NBITS",
)
"""Name -> arithmetic; an entry is loaded when it is asked for."""


def find_arithmetic(name: str) -> Arithmetic:
    """The arithmetic of that name.

    Raises:
        ConfigError: there is none.
    """
    return find_entry(ARITHMETICS, name, "arithmetic")
