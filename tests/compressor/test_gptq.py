from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskpack.compressor.quantization.gptq import (
    _damped,
    _descend,
    _fitted_scales,
    output_error,
    quantize_gptq,
)
from maskpack.compressor.quantization.rounding import Levels, quantize_mse

SHAPES = pytest.mark.parametrize(
    ("rows", "width", "group"), [(24, 96, 32), (7, 45, 16), (5, 33, None), (3, 1, 8), (1, 20, 64)]
)
BITS = pytest.mark.parametrize("bits", [4, 2, 1])


def problem(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Gram matrix of inputs that hang together."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(max(2, width // 3), width)) * np.linspace(0.3, 2.0, width)
    inputs = rng.normal(size=(8 * width, len(mix))) @ mix + 0.2 * rng.normal(
        size=(8 * width, width)
    )
    weight = rng.normal(size=(rows, width)).astype(np.float32)
    return weight, (inputs.T @ inputs).astype(np.float32)


@BITS
@SHAPES
def test_outputs_are_kept_better_than_by_the_nearest_codes(bits, rows, width, group):
    weight, gram = problem(rows, width)
    before = weight.copy(), gram.copy()
    tensor = quantize_gptq(weight, bits, group, gram)
    plain = quantize_mse(weight, bits, group)
    assert (tensor.bits, tensor.group, tensor.zero_free) == (bits, plain.group, bits < 4)
    assert tensor.scales.shape == plain.scales.shape
    error, reference = output_error(weight, tensor, gram), output_error(weight, plain, gram)
    assert error < (0.75 if width > 1 else 1.001) * reference
    assert (weight == before[0]).all()
    assert (gram == before[1]).all()


@BITS
def test_the_same_input_gives_the_same_bytes_and_rows_do_not_disturb_each_other(bits):
    weight, gram = problem(70, 48)  # more rows than one pass fits
    first, again = (quantize_gptq(weight, bits, 16, gram) for _ in range(2))
    assert first.codes.tobytes() == again.codes.tobytes()
    assert first.scales.tobytes() == again.scales.tobytes()
    alone = quantize_gptq(weight[64:66], bits, 16, gram)
    assert (alone.codes != first.codes[64:66]).mean() < 0.02  # but for a product's last digit


@BITS
def test_inputs_that_never_move_do_no_harm(bits):
    weight, gram = problem(6, 40)
    gram[[3, 17]] = 0.0
    gram[:, [3, 17]] = 0.0
    tensor = quantize_gptq(weight, bits, 16, gram)
    assert np.isfinite(tensor.dequantize()).all()
    assert output_error(weight, tensor, gram) < output_error(
        weight, quantize_mse(weight, bits, 16), gram
    )
    nothing = quantize_gptq(weight, bits, 16, np.zeros_like(gram))
    assert nothing.codes.tolist() == quantize_mse(weight, bits, 16).codes.tolist()


@BITS
def test_rows_of_zeros_and_constant_rows_survive(bits):
    weight, gram = problem(4, 24)
    weight[1], weight[2] = 0.0, 0.25
    found = quantize_gptq(weight, bits, 8, gram).dequantize()
    assert (found[1] == 0.0).all()
    assert found[2] == pytest.approx(weight[2], rel=0.01)


def task_loss(weight, codes, scales, gram, group) -> float:
    wide = np.repeat(scales, group, axis=1)[:, : weight.shape[1]]
    error = (weight - codes * wide).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", error, gram, error))


@pytest.mark.parametrize("bits", [2, 1])
@pytest.mark.parametrize("group", [16, 13])
def test_a_pass_over_the_codes_never_makes_the_outputs_worse(bits, group):
    weight, gram = problem(12, 45)
    wide, levels = _damped(gram), Levels(bits, zero_free=True)
    start = quantize_mse(weight, bits, group)
    scales, codes = start.scales.astype(np.float32), start.codes.astype(np.float32)
    values = [task_loss(weight, codes, scales, wide, group)]
    for _ in range(4):
        codes = _descend(weight, codes, scales, wide, levels, group)
        values.append(task_loss(weight, codes, scales, wide, group))
    assert values[1] < 0.9 * values[0]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(values))
    assert (levels.round(codes) == codes).all()


@pytest.mark.parametrize("bits", [2, 1])
def test_a_pass_ends_where_no_single_code_would_rather_be_another(bits):
    weight, gram = problem(4, 18)
    wide, levels, group = _damped(gram), Levels(bits, zero_free=True), 6
    start = quantize_mse(weight, bits, group)
    scales, codes = start.scales.astype(np.float32), start.codes.astype(np.float32)
    for _ in range(30):
        codes = _descend(weight, codes, scales, wide, levels, group)
    for row in range(4):
        least = task_loss(
            weight[row : row + 1], codes[row : row + 1], scales[row : row + 1], wide, 6
        )
        for column in range(18):
            for level in range(-levels.limit, levels.limit + 1, 2):
                other = codes[row : row + 1].copy()
                other[0, column] = level
                found = task_loss(weight[row : row + 1], other, scales[row : row + 1], wide, group)
                assert found >= least * (1 - 1e-5)


@pytest.mark.parametrize("group", [15, 45, 20])
def test_fitted_scales_are_the_least_squares_solution(group):
    weight, gram = problem(70, 45)
    start = quantize_mse(weight, 2, group)
    codes = start.codes.astype(np.float32)
    wide = _damped(gram)
    fitted = _fitted_scales(weight, codes, start.scales.astype(np.float32), wide, group)
    root = np.linalg.cholesky(wide).T  # ||root x||^2 = x^T gram x
    for row in (0, 63, 64, 69):
        parts = [slice(at, at + group) for at in range(0, 45, group)]
        columns = np.stack([root[:, part] @ codes[row, part] for part in parts], axis=1)
        solution = np.linalg.lstsq(columns, root @ weight[row], rcond=None)[0]
        assert (solution > 0).all()
        assert fitted[row] == pytest.approx(solution, rel=1e-3)


def test_a_scale_that_would_not_be_above_zero_stays():
    weight = np.array([[1.0, 1.0]], dtype=np.float32)
    codes = np.array([[-1.0, -1.0]], dtype=np.float32)
    fitted = _fitted_scales(weight, codes, np.array([[0.5]], dtype=np.float32), np.eye(2), 2)
    assert fitted.tolist() == [[0.5]]


def test_the_output_error_is_that_of_the_outputs():
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(5, 12)).astype("f4"), rng.normal(size=(50, 12)).astype("f4")
    tensor = quantize_mse(weight, 2, 6)
    lost = np.square(inputs @ (weight - tensor.dequantize()).T).sum()
    expected = lost / np.square(inputs @ weight.T).sum()
    assert output_error(weight, tensor, inputs.T @ inputs) == pytest.approx(expected, rel=1e-4)
    assert output_error(np.zeros_like(weight), tensor, np.zeros((12, 12), dtype="f4")) == 0.0
