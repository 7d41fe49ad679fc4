from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from maskpack.compressor.backbone_config import QUANTIZERS
from maskpack.compressor.quantization import quantize_hqq, quantize_minmax, quantize_mse
from maskpack.compressor.quantization.rounding import quantize_dorefa

DATA_FREE = {name: entry.quantize for name, entry in QUANTIZERS.items() if not entry.calibrated}

relaxed = settings(deadline=None, max_examples=80)
weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=11),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
)
bits = st.sampled_from([8, 4])
groups = st.one_of(st.none(), st.integers(1, 14))
methods = st.sampled_from(list(DATA_FREE.values()))
HALF = np.finfo(np.float16)


def slices(weight, group):
    """(row, group's place, first column, past the last) of every group of a matrix."""
    size = min(group or weight.shape[1], weight.shape[1])
    for row in range(weight.shape[0]):
        for place, start in enumerate(range(0, weight.shape[1], size)):
            yield row, place, start, min(start + size, weight.shape[1])


def storage_of(scales):
    """The dtype that holds all scales without underflow or overflow."""
    used = [scale for scale in scales if scale > 0]
    small = any(scale < HALF.tiny for scale in used)
    large = any(scale >= HALF.max for scale in used)
    return np.float32 if small or large else np.float16


def naive_code(value, scale, limit):
    if scale == 0:
        return 0
    return max(-limit, min(limit, round(float(np.float32(value) / np.float32(scale)))))


def error_of(values, scale, limit):
    """Squared error in double precision."""
    return sum((float(v) - naive_code(v, scale, limit) * float(scale)) ** 2 for v in values)


own_scales = pytest.mark.parametrize("method", [quantize_minmax, quantize_mse, quantize_hqq])


def heavy_tailed(seed, shape):
    return np.random.default_rng(seed).standard_t(2, size=shape).astype(np.float32)


@relaxed
@given(weights, bits, groups)
def test_minmax_is_what_a_plain_loop_computes(weight, bits, group):
    limit = 2 ** (bits - 1) - 1
    full = {
        (row, place): np.abs(weight[row, start:end]).max() / np.float32(limit)
        for row, place, start, end in slices(weight, group)
    }
    storage = storage_of(full.values())
    tensor = quantize_minmax(weight, bits, group)
    assert tensor.scales.dtype == storage
    for row, place, start, end in slices(weight, group):
        scale = storage(full[row, place])
        assert tensor.scales[row, place] == scale
        for column in range(start, end):
            assert tensor.codes[row, column] == naive_code(weight[row, column], scale, limit)


@relaxed
@given(weights, bits, groups)
def test_mse_finds_the_best_scale_that_a_plain_loop_finds(weight, bits, group):
    limit = 2 ** (bits - 1) - 1
    # a row as small as this keeps all scales in float32: those chosen are those stored
    weight = np.concatenate([weight, np.full_like(weight[:1], 1e-7)])
    tensor = quantize_mse(weight, bits, group)
    assert tensor.scales.dtype == np.float32
    shares = np.linspace(1.0, 0.42, 40, dtype=np.float32)
    for row, place, start, end in slices(weight, group):
        values = weight[row, start:end]
        full = np.abs(values).max() / np.float32(limit)
        scale = tensor.scales[row, place]
        least = min(error_of(values, full * share, limit) for share in shares)
        floor = 1e-10 * float(np.square(values, dtype=np.float64).sum())
        assert error_of(values, scale, limit) <= least * (1 + 1e-4) + floor
        assert any(np.isclose(scale, full * share, rtol=1e-6, atol=0) for share in shares)
        codes = [naive_code(value, scale, limit) for value in values]
        assert tensor.codes[row, start:end].tolist() == codes


@relaxed
@given(weights, bits, groups, methods)
def test_codes_stay_in_range_and_both_inputs_and_results_stay_the_same(weight, bits, group, method):
    before = weight.copy()
    first, again = method(weight, bits, group), method(weight, bits, group)
    assert (weight == before).all()
    assert np.abs(first.codes.astype(int)).max() <= 2 ** (bits - 1) - 1
    assert first.codes.tobytes() == again.codes.tobytes()
    assert first.scales.tobytes() == again.scales.tobytes()
    assert first.shape == weight.shape


@relaxed
@given(weights, bits, groups)
def test_minmax_is_wrong_by_at_most_half_a_scale(weight, bits, group):
    tensor = quantize_minmax(weight, bits, group)
    error = np.abs(weight.astype(np.float64) - tensor.dequantize())
    half = tensor.expanded_scales().astype(np.float64) / 2
    # float16 rounds a scale by 2**-11 of itself: the largest weight may lie that far outside
    assert (error <= half * (1 + 1e-5) + 1e-38).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [None, 16, 7])
@pytest.mark.parametrize("seed", range(4))
def test_mse_is_never_worse_than_minmax(bits, group, seed):
    weight = heavy_tailed(seed, (24, 48))
    weight[0] = 1e-6  # keeps scales in float32, where no rounding blurs the comparison

    def squared(method):
        tensor = method(weight, bits, group)
        assert tensor.scales.dtype == np.float32
        error = weight.astype(np.float64) - tensor.dequantize()
        starts = range(0, weight.shape[1], tensor.group)
        return np.add.reduceat(error**2, list(starts), axis=1)

    mse, minmax = squared(quantize_mse), squared(quantize_minmax)
    assert (mse <= minmax * (1 + 1e-5) + 1e-20).all()


def test_mse_is_much_better_than_minmax_on_bell_shaped_weights_at_four_bits():
    weight = np.random.default_rng(0).normal(size=(32, 512)).astype(np.float32)
    errors = {
        method: float(np.square(weight - DATA_FREE[method](weight, 4, None).dequantize()).sum())
        for method in DATA_FREE
    }
    assert errors["mse"] < 0.8 * errors["minmax"]


def test_mse_gives_the_same_rows_whatever_stands_around_them():
    weight = heavy_tailed(1, (600, 8))  # more rows than one pass of the search
    whole = quantize_mse(weight, 4, None)
    alone = [quantize_mse(weight[row : row + 1], 4, None) for row in (0, 255, 256, 599)]
    for row, tensor in zip((0, 255, 256, 599), alone, strict=True):
        assert tensor.codes[0].tolist() == whole.codes[row].tolist()
        assert tensor.scales[0] == whole.scales[row]


@own_scales
def test_a_row_of_zeros_has_a_zero_scale_and_zero_codes(method):
    weight = np.array([[0.0, 0.0, 0.0], [1.0, -0.5, 0.25]], dtype=np.float32)
    tensor = method(weight, 8, None)
    assert tensor.scales[0].tolist() == [0.0]
    assert tensor.dequantize()[0].tolist() == [0.0, 0.0, 0.0]
    assert tensor.codes[1, 0] == 127
    assert tensor.scales.dtype == np.float16  # a zero is no underflow


@own_scales
def test_a_short_last_group_has_a_scale_of_its_own(method):
    weight = np.array([[8.0, 8.0, 8.0, 0.5]], dtype=np.float32)
    tensor = method(weight, 8, 3)
    assert tensor.group == 3
    assert tensor.scales.shape == (1, 2)
    assert tensor.codes.tolist() == [[127, 127, 127, 127]]
    assert tensor.dequantize()[0] == pytest.approx([8, 8, 8, 0.5], rel=1e-3)


@pytest.mark.parametrize("method", DATA_FREE.values())
def test_a_group_wider_than_a_row_is_the_row(method):
    weight = heavy_tailed(2, (3, 5))
    wide, row = method(weight, 4, 64), method(weight, 4, None)
    assert (wide.group, row.group) == (5, 5)
    assert wide.codes.tolist() == row.codes.tolist()


@own_scales
@pytest.mark.parametrize(("factor", "storage"), [(1.0, "f2"), (1e-6, "f4"), (1e8, "f4")])
def test_scales_that_float16_cannot_hold_stay_in_float32(method, factor, storage):
    weight = heavy_tailed(3, (4, 16)) * np.float32(factor)
    tensor = method(weight, 8, None)
    assert tensor.scales.dtype == storage
    error = np.abs(weight - tensor.dequantize())
    assert error.max() <= 0.6 * np.abs(weight).max()
    assert (tensor.codes != 0).mean() > 0.8


def test_codes_fit_the_scale_that_is_stored_not_the_one_before_rounding():
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    tensor = quantize_minmax(weight, 8, None)
    stored = tensor.scales.astype(np.float32)
    assert tensor.scales.dtype == np.float16
    assert tensor.codes.tolist() == np.clip(np.rint(weight / stored), -127, 127).tolist()
    exact = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    assert tensor.codes.tolist() != np.rint(weight / exact).tolist()


@pytest.mark.parametrize("width", [4, 2])
@pytest.mark.parametrize("seed", range(3))
def test_hqq_forgives_a_few_large_errors(width, seed):
    """Smaller in the norm that it minimises than the scale of least squares; at 2 bits, where much is cut off, larger in squares."""
    weight = heavy_tailed(seed, (64, 128))
    errors = {
        method: np.abs(weight - method(weight, width, 64).dequantize())
        for method in (quantize_hqq, quantize_mse)
    }
    power = {method: float((error**0.7).sum()) for method, error in errors.items()}
    square = {method: float((error**2).sum()) for method, error in errors.items()}
    assert power[quantize_hqq] < power[quantize_mse]
    assert width == 4 or square[quantize_hqq] > square[quantize_mse]


def test_hqq_does_not_depend_on_the_unit_of_the_weights():
    weight = heavy_tailed(4, (8, 64))
    small, large = (quantize_hqq(weight * np.float32(f), 4, 32) for f in (2.0**-8, 2.0**8))
    assert small.codes.tolist() == large.codes.tolist()


@pytest.mark.parametrize("width", [8, 4, 2, 1])
def test_dorefa_takes_even_steps_of_the_tangent_with_one_scale(width):
    weight = heavy_tailed(5, (16, 32))
    tensor = quantize_dorefa(weight, width, 8)
    assert len(np.unique(tensor.scales)) == 1
    bent = np.tanh(weight.astype(np.float64)) / np.abs(np.tanh(weight)).max()
    allowed = np.arange(-tensor.limit, tensor.limit + 1)
    allowed = allowed[allowed % 2 == 1] if tensor.zero_free else allowed
    nearest = np.abs(bent[..., None] * tensor.limit - allowed).min(axis=-1)
    found = np.abs(bent * tensor.limit - tensor.codes)
    assert found == pytest.approx(nearest, abs=1e-4)
    if width == 1:
        assert float(tensor.scales[0, 0]) == pytest.approx(np.abs(weight).mean(), rel=1e-3)
    codes = tensor.codes.astype(np.float64)
    best = (codes * weight).sum() / (codes**2).sum()
    assert float(tensor.scales[0, 0]) == pytest.approx(best, rel=1e-3)


def test_zeros_stay_zeros_of_dorefa_where_a_code_is_left():
    weight = np.array([[0.0, 0.5, -0.5]], dtype=np.float32)
    assert quantize_dorefa(weight, 4, None).dequantize()[0, 0] == 0.0
    without = quantize_dorefa(weight, 2, None)
    assert without.zero_free
    assert (without.codes % 2 == 1).all(), "as codes without a zero are packed"
    assert (quantize_dorefa(np.zeros((2, 3), np.float32), 4, None).dequantize() == 0).all()
