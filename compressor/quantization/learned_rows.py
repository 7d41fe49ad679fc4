"""A narrow table of embeddings whose rows are learned where texts have their tokens.

As the linears in `refine.py`: `w' = s * level(w / s)`, and the scale follows from the row, `s = c * mean |w|`, where `c` is what the
search of least squared error has chosen for it. Rows whose tokens no text has stay as they are; so only the others cost memory and time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.quantization.rounding import storable_scales
from maskpack.formats import QuantTensor
from maskpack.formats.mixed_rows import MixedRows
from maskpack.models.placement import to_numpy


class _RoundedRows(torch.autograd.Function):
    """`scale * level(weight / scale)` of rows `(n, i)`, of which some have levels without 0; straight-through."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, limit: Tensor, free: Tensor) -> Tensor:
        level = _levels(weight / _safe(scale), limit, free)
        ctx.save_for_backward(level)
        return level * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (level,) = ctx.saved_tensors
        return gradient, (gradient * level).sum(dim=-1, keepdim=True), None, None


def _safe(scale: Tensor) -> Tensor:
    """Scales to divide by; a row of zeros has the scale 0, and stays one."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _levels(ratio: Tensor, limit: Tensor, free: Tensor) -> Tensor:
    """The nearest codes of rows; `limit` and `free`, whether 0 is no code, are of each row, `(n, 1)`."""
    odd = 2 * torch.floor(ratio / 2) + 1
    level = torch.where(free, odd, torch.round(ratio))
    return torch.minimum(torch.maximum(level, -limit), limit)


class RoundedTable(nn.Module):
    """A table of embeddings in its codes, of which some rows are learned.

    Args:
        weight: the float table `(o, i)`.
        table: its codes.
        rows: int64 `(n,)`, rising: the rows that are learned.

    Attributes:
        weight: learned, `(n, i)`.
    """

    _fixed: Tensor
    _place: Tensor
    _limit: Tensor
    _free: Tensor
    _factor: Tensor

    def __init__(self, weight: Tensor, table: QuantTensor, rows: NDArray[np.int64]) -> None:
        super().__init__()
        self.table, self.rows = table, rows
        self.weight = nn.Parameter(weight[torch.from_numpy(rows)].clone())
        place = np.full(table.shape[0], -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        limit, free = (each[rows, None] for each in _kinds(table))
        mean = np.abs(to_numpy(self.weight)).mean(axis=1, keepdims=True)
        scales = table.scales[rows].astype(np.float32)
        factor = np.divide(scales, mean, out=np.zeros_like(scales), where=mean > 0)
        for name, value in (
            ("_fixed", table.dequantize()),
            ("_place", place),
            ("_limit", limit),
            ("_free", free),
            ("_factor", factor),
        ):
            self.register_buffer(name, torch.from_numpy(value).to(weight.device))

    def scales(self) -> Tensor:
        """Of the learned rows, `(n, 1)`."""
        return self._factor * self.weight.abs().mean(dim=-1, keepdim=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `(...)` to rows `(..., i)`."""
        rounded = _RoundedRows.apply(  # type: ignore[no-untyped-call]
            self.weight, self.scales(), self._limit, self._free
        )
        place = self._place[ids]
        learned = rounded[place.clamp(min=0)]
        return torch.where(place[..., None] >= 0, learned, self._fixed[ids].to(learned.dtype))

    def freeze(self) -> QuantTensor:
        """Codes and scales of all rows; those that were not learned are as they were."""
        scales = self.table.scales.astype(np.float32)
        scales[self.rows] = to_numpy(self.scales())
        stored, codes = storable_scales(scales), self.table.codes.copy()
        own = torch.from_numpy(stored[self.rows].astype(np.float32)).to(self.weight.device)
        codes[self.rows] = to_numpy(
            _levels(self.weight / _safe(own), self._limit, self._free)
        ).astype(np.int8)
        return _with_codes(self.table, codes, stored)


def _kinds(table: QuantTensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The largest code of each row, and whether 0 is none of its codes."""
    if isinstance(table, MixedRows):
        limits = np.where(table.is_wide, table.wide.limit, table.rare.limit)
        return limits.astype(np.float32), ~table.is_wide | table.wide.zero_free
    rows = table.shape[0]
    return np.full(rows, table.limit, dtype=np.float32), np.full(rows, table.zero_free)


def _with_codes(
    table: QuantTensor, codes: NDArray[np.int8], scales: NDArray[np.floating]
) -> QuantTensor:
    """A table of the same kind with other codes and scales."""
    if not isinstance(table, MixedRows):
        return QuantTensor(codes, scales, table.bits, table.group, table.zero_free)
    wide = table.is_wide
    return MixedRows(
        _with_codes(table.wide, codes[wide], scales[wide]),
        _with_codes(table.rare, codes[~wide], scales[~wide]),
        wide,
    )
