"""Codes that keep a layer's *outputs*, from unlabelled text: GPTQ, then coordinate descent.

The weights of a row are rounded to keep `||X w - X w'||^2`, where `X` are inputs of the layer on text
that belongs to no task, so that tasks can share the backbone. With the Gram matrix `H = X^T X` this is
a quadratic in the codes:

1. GPTQ (Frantar et al. 2022, arXiv 2210.17323): round column after column, and let the columns that
   are still float compensate the error, `w_k -= e H^-1[j, k]`.
2. Coordinate descent (Behdin et al. 2023, "QuantEase", arXiv 2309.01885): each code in turn takes its
   best value given all others, for some passes; after each, every group's scale is fitted again by
   least squares.

At 8 and 4 bits only the first step is done; at 2 and 1 the second removes a good part of the
remaining error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantization.rounding import (
    Levels,
    best_levels,
    best_scales,
    ratios,
    storable_scales,
)
from maskpack.formats import QuantTensor

Gram = NDArray[np.float32]

_DAMPING = 0.01  # share of the mean diagonal; the paper's value
_PASSES = 8  # of coordinate descent; the error has settled by then
_ROWS = 64  # rows whose scales are fitted at once: bounds the memory, changes no result
_REFINED_BITS = 2  # at these widths and below the second step is done


def quantize_gptq(
    weight: NDArray[np.float32], bits: int, group: int | None, gram: Gram
) -> QuantTensor:
    """Quantise `weight (o, i)` against the Gram matrix of its inputs.

    Args:
        weight: float32 `(o, i)`; not modified.
        bits: width of a code; 2 and 1 give zero-free codes.
        group: weights that share a scale, or None for one scale a row.
        gram: `X^T X` of the layer's inputs, `(i, i)`.
    """
    size, levels = min(group or weight.shape[1], weight.shape[1]), best_levels(bits)
    damped = _damped(gram)
    codes, scales = _gptq(weight, damped, levels, size)
    if bits <= _REFINED_BITS:
        for _ in range(_PASSES):
            scales = _fitted_scales(weight, codes, scales, damped, size)
            codes = _descend(weight, codes, scales, damped, levels, size)
        scales = _fitted_scales(weight, codes, scales, damped, size)
    return QuantTensor(codes.astype(np.int8), storable_scales(scales), bits, size, levels.zero_free)


def _damped(gram: Gram) -> NDArray[np.float64]:
    """`gram` with dead inputs given a unit and the diagonal raised, so that it can be inverted."""
    wide = gram.astype(np.float64)
    diagonal = np.diag(wide).copy()
    mean = float(diagonal.mean()) or 1.0
    wide[np.diag_indices_from(wide)] = np.where(diagonal > 0, diagonal, mean) + _DAMPING * mean
    return wide


def _gptq(
    weight: NDArray[np.float32], gram: NDArray[np.float64], levels: Levels, group: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Codes `(o, i)` and scales `(o, g)`, column after column."""
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T.astype(np.float32)
    left, codes = weight.copy(), np.empty_like(weight)
    scales = np.empty((weight.shape[0], -(-weight.shape[1] // group)), dtype=np.float32)
    for start in range(0, weight.shape[1], group):
        block = slice(start, min(start + group, weight.shape[1]))
        scale = best_scales(np.ascontiguousarray(left[:, block]), levels, group)[:, 0]
        scale = storable_scales(scale).astype(np.float32)
        scales[:, start // group] = scale
        errors = np.empty_like(left[:, block])
        for column in range(block.start, block.stop):
            codes[:, column] = levels.round(ratios(left[:, column], scale))
            error = (left[:, column] - codes[:, column] * scale) / upper[column, column]
            left[:, column + 1 : block.stop] -= np.outer(
                error, upper[column, column + 1 : block.stop]
            )
            errors[:, column - block.start] = error
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    return codes, scales


def _descend(
    weight: NDArray[np.float32],
    codes: NDArray[np.float32],
    scales: NDArray[np.float32],
    gram: NDArray[np.float64],
    levels: Levels,
    group: int,
) -> NDArray[np.float32]:
    """One pass of coordinate descent over all columns; returns new codes `(o, i)`."""
    width, codes = weight.shape[1], codes.copy()
    wide = np.repeat(scales, group, axis=1)[:, :width]
    shape = np.asarray(gram / np.diag(gram)[:, None], dtype=np.float32)  # row j over its diagonal
    error = weight - codes * wide
    for start in range(0, width, group):
        block = slice(start, min(start + group, width))
        pull = error @ shape[block].T  # of all columns on those of the block
        for column in range(block.start, block.stop):
            here = column - block.start
            wanted = codes[:, column] * wide[:, column] + pull[:, here]
            code = levels.round(ratios(wanted, wide[:, column]))
            moved = (code - codes[:, column]) * wide[:, column]
            codes[:, column] = code
            error[:, column] -= moved
            pull[:, here:] -= np.outer(moved, shape[block, column][here:])
    return codes


def _fitted_scales(
    weight: NDArray[np.float32],
    codes: NDArray[np.float32],
    scales: NDArray[np.float32],
    gram: NDArray[np.float64],
    group: int,
) -> NDArray[np.float32]:
    """Scales `(o, g)` of least output error for fixed codes; a scale that would not be above 0 stays."""
    narrow = gram.astype(np.float32)
    passes = (slice(row, row + _ROWS) for row in range(0, len(weight), _ROWS))
    return np.concatenate(
        [_fitted_rows(weight[rows], codes[rows], scales[rows], narrow, group) for rows in passes]
    )


def _fitted_rows(
    weight: NDArray[np.float32],
    codes: NDArray[np.float32],
    scales: NDArray[np.float32],
    gram: Gram,
    group: int,
) -> NDArray[np.float32]:
    """`_fitted_scales` of a few rows: one small linear system a row."""
    rows, groups = scales.shape
    spread = np.zeros((rows, groups, weight.shape[1]), dtype=np.float32)
    for index in range(groups):
        block = slice(index * group, (index + 1) * group)
        spread[:, index, block] = codes[:, block]
    reach = spread.reshape(-1, weight.shape[1]) @ gram
    reach = reach.reshape(rows, groups, -1)
    normal = np.einsum("rgi,rhi->rgh", reach, spread, optimize=True).astype(np.float64)
    target = np.einsum("rgi,ri->rg", reach, weight, optimize=True).astype(np.float64)
    ridge = 1e-6 * np.maximum(np.einsum("rgg->r", normal) / groups, 1e-30)
    normal += ridge[:, None, None] * np.eye(groups)
    fitted = np.linalg.solve(normal, target[:, :, None])[:, :, 0]
    return np.where(fitted > 0, fitted, scales).astype(np.float32)


def output_error(weight: NDArray[np.float32], tensor: QuantTensor, gram: Gram) -> float:
    """Relative error of a layer's outputs, `||X (w - w')||^2 / ||X w||^2`."""
    difference = weight - tensor.dequantize()
    total = float(np.einsum("oi,ij,oj->", weight, gram, weight, optimize=True))
    lost = float(np.einsum("oi,ij,oj->", difference, gram, difference, optimize=True))
    return lost / total if total else 0.0
