"""Round to nearest on symmetric codes: groups of a row, storable scales, and two ways to choose a scale.

* `minmax`: `scale = max|w| / limit`, the full range.
* `mse`: the share of the full range that gives the least squared error, by grid search. At 4 bits the full
  range wastes codes on rare large weights: on heavy-tailed weights its relative error is several times
  larger. Clipping the range is the standard remedy (for example Q-BERT, arXiv 1909.05840). At 2 bits and
  below the codes are zero-free, and at 1 bit the best scale has a closed form, the mean magnitude
  (Rastegari et al. 2016, "XNOR-Net", section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import QuantTensor
from maskpack.formats.bits import ZERO_FREE_BITS, code_limit


@dataclass(frozen=True)
class Levels:
    """The values that a code may have.

    Attributes:
        bits: width of a code.
        zero_free: the odd numbers up to the limit instead of all whole ones. A mask supplies the 0,
            so at 2 bits and below no level is used for it: 2 bits and a mask make 5
            levels, 1 bit and a mask make 3.
    """

    bits: int
    zero_free: bool = False

    @property
    def limit(self) -> int:
        """Largest magnitude: 127, 7, 1 for 8, 4, 2 bits; 3, 1 for 2, 1 zero-free bits."""
        return code_limit(self.bits, zero_free=self.zero_free)

    def round(self, ratio: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest level of each weight over scale, of any shape."""
        level = np.asarray(2 * np.floor(ratio / 2) + 1 if self.zero_free else np.rint(ratio))
        return np.asarray(np.clip(level, -self.limit, self.limit, out=level), dtype=np.float32)


def to_groups(weight: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """Split rows `(o, i)` into `(o, g, group)`; a short last group is filled with zeros."""
    rows, width = weight.shape
    groups = -(-width // group)
    padded = np.zeros((rows, groups * group), dtype=np.float32)
    padded[:, :width] = weight
    return padded.reshape(rows, groups, group)


def storable_scales(scales: NDArray[np.float32]) -> NDArray[np.floating]:
    """Round scales to float16, or keep float32 where float16 would lose digits or overflow.

    Codes are chosen *after* this rounding, so that they fit the stored scale.
    """
    positive = scales[scales > 0]
    fits = positive.size == 0 or (
        float(positive.min()) >= float(np.finfo(np.float16).tiny)
        and float(positive.max()) < 65504.0
    )
    return scales.astype(np.float16) if fits else scales.astype(np.float32)


def encode(
    weight: NDArray[np.float32], scales: NDArray[np.float32], levels: Levels, group: int
) -> QuantTensor:
    """`weight (o, i)` as its nearest codes under `scales (o, g)`; a zero scale gives 0, or the code nearest to it."""
    stored = storable_scales(scales)
    codes = np.empty(weight.shape, dtype=np.int8)
    for rows in _row_blocks(weight):
        scale = stored[rows].astype(np.float32)[:, :, None]
        rounded = levels.round(ratios(to_groups(weight[rows], group), scale))
        codes[rows] = rounded.reshape(len(rounded), -1)[:, : weight.shape[1]]
    return QuantTensor(codes, stored, levels.bits, group, levels.zero_free)


_VALUES = 2**16  # weights a pass: they stay in the processor's cache, and change no result


def _row_blocks(weight: NDArray[np.float32]) -> list[slice]:
    step = max(1, _VALUES // weight.shape[1])
    return [slice(row, row + step) for row in range(0, len(weight), step)]


def ratios(values: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values over scales; 0 where a scale is 0."""
    return np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)


def quantize_minmax(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)`; the largest weight of each group gets the largest code.

    At 2 bits the codes are -1, 0 and 1; at 1 bit, where there is no other choice, -1 and 1.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code.
        group: weights that share a scale, or None for one scale a row.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), Levels(bits, bits == 1)
    blocks = (to_groups(weight[rows], size) for rows in _row_blocks(weight))
    largest = np.concatenate([np.abs(block).max(axis=-1) for block in blocks])
    scales = np.asarray(largest / np.float32(levels.limit), dtype=np.float32)
    return encode(weight, scales, levels, size)


def quantize_minmax_tensor(
    weight: NDArray[np.float32], bits: int, group: int | None
) -> QuantTensor:
    """The same with one scale for the whole matrix, stored once a row; `group` is ignored.

    Probably what Wang 2020 used ("The curious case of developmental BERTology", table 1; the essay
    does not state it): at 2 bits nearly every weight of a trained matrix rounds to 0.
    """
    del group
    levels = Levels(bits, bits == 1)
    scale = np.abs(weight).max(initial=0.0) / np.float32(levels.limit)
    scales = np.full((weight.shape[0], 1), scale, dtype=np.float32)
    return encode(weight, scales, levels, weight.shape[1])


def quantize_dorefa(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)` in even steps of `tanh(w) / max|tanh(w)|`, with one scale for the matrix; `group` is ignored.

    Zhou et al. 2016, "DoReFa-Net", arXiv 1606.06160, equations 7 and 9. At 1 bit the scale is the mean magnitude, as there; at more
    bits DoReFa has none, because it trains weights of [-1, 1]: here it is the one of least squared error.
    """
    del group
    levels = best_levels(bits)
    bent = np.tanh(weight)
    largest = np.abs(bent).max(initial=0.0)
    ratio = bent * (np.float32(levels.limit) / largest) if largest > 0 else bent
    codes = levels.round(ratio)
    if not levels.zero_free:
        codes = np.where(weight == 0, 0, codes)
    square = float(np.square(codes).sum())
    scale = float((codes * weight).sum()) / square if square > 0 else 0.0
    scales = storable_scales(np.full((len(weight), 1), scale, dtype=np.float32))
    return QuantTensor(codes.astype(np.int8), scales, bits, weight.shape[1], levels.zero_free)


_SHARES = np.linspace(1.0, 0.42, 40, dtype=np.float32)
_LOW_BIT_SHARES = np.linspace(1.0, 0.1, 91, dtype=np.float32)  # tails are clipped much more


def quantize_mse(weight: NDArray[np.float32], bits: int, group: int | None) -> QuantTensor:
    """Quantise `weight (o, i)` with the scale of least squared error for each group.

    At 1 bit codes are signs, and that scale is the mean magnitude: XNOR-Net's binary weights (Rastegari et al. 2016, arXiv 1603.05279,
    eq. 6), for each group in place of each filter.

    >>> one = quantize_mse(np.array([[3.0, -1.0, 2.0, -2.0]], dtype=np.float32), 1, None)
    >>> one.codes.tolist(), one.scales.tolist()
    ([[1, -1, 1, -1]], [[2.0]])

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code; 2 and 1 give zero-free codes.
        group: weights that share a scale, or None for one scale a row.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), best_levels(bits)
    return encode(weight, best_scales(weight, levels, size), levels, size)


def best_levels(bits: int) -> Levels:
    """The levels of least error with a mask: zero-free at 2 bits and below."""
    return Levels(bits, bits in ZERO_FREE_BITS)


def best_scales(weight: NDArray[np.float32], levels: Levels, group: int) -> NDArray[np.float32]:
    """`weight (o, i)` to the scale `(o, g)` of least squared error for each group."""
    present = to_groups(np.ones_like(weight[:1]), group).sum(axis=-1)  # a last group may be short
    found = []
    for rows in _row_blocks(weight):
        blocks = to_groups(weight[rows], group)
        if levels.limit == 1 and levels.zero_free:  # the mean magnitude
            found.append(np.asarray(np.abs(blocks).sum(axis=-1) / present, dtype=np.float32))
        else:
            found.append(_searched(blocks, levels))
    return np.concatenate(found)


def _searched(blocks: NDArray[np.float32], levels: Levels) -> NDArray[np.float32]:
    """`(o, g, group)` to scales `(o, g)` on the grid; ties keep the wider range."""
    full = np.abs(blocks).max(axis=-1) / np.float32(levels.limit)
    best, least = full, np.full(full.shape, np.inf, dtype=np.float32)
    for share in _LOW_BIT_SHARES if levels.zero_free else _SHARES:
        scale = (full * share)[:, :, None]
        safe = np.where(scale > 0, scale, np.float32(1))
        error = levels.round(np.divide(blocks, safe, dtype=np.float32))
        error *= scale
        np.subtract(blocks, error, out=error)
        if levels.zero_free:  # the padding of a short last group counts no error
            error[blocks == 0] = 0
        squared = np.square(error, out=error).sum(axis=-1)
        better = squared < least
        best, least = np.where(better, scale[:, :, 0], best), np.where(better, squared, least)
    return np.asarray(best, dtype=np.float32)
