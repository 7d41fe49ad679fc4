from __future__ import annotations

import numpy as np
import pytest

from maskpack.compressor.quantization import (
    quantize_hqq,
    quantize_minmax,
    quantize_minmax_tensor,
    quantize_mse,
)
from maskpack.compressor.quantization.rounding import Levels

DATA_FREE = {
    "minmax": quantize_minmax,
    "minmax-tensor": quantize_minmax_tensor,
    "mse": quantize_mse,
    "hqq": quantize_hqq,
}


def levels_by_hand(levels: Levels) -> np.ndarray:
    every = np.arange(-levels.limit, levels.limit + 1)
    return every[every % 2 == 1] if levels.zero_free else every


def heavy(seed: int, shape=(32, 130)) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, size=shape).astype(np.float32)


def relative_error(weight, tensor) -> float:
    return float(np.square(weight - tensor.dequantize()).sum() / np.square(weight).sum())


@pytest.mark.parametrize(
    ("bits", "zero_free", "values"),
    [
        (8, False, range(-127, 128)),
        (4, False, range(-7, 8)),
        (2, False, (-1, 0, 1)),
        (2, True, (-3, -1, 1, 3)),
        (1, True, (-1, 1)),
    ],
)
def test_a_ratio_becomes_the_nearest_of_its_levels(bits, zero_free, values):
    levels = Levels(bits, zero_free)
    assert levels_by_hand(levels).tolist() == list(values)
    ratios = np.random.default_rng(0).uniform(-1.5 * levels.limit, 1.5 * levels.limit, 5000)
    ratios = ratios.astype(np.float32)
    distance = np.abs(ratios[:, None] - levels_by_hand(levels)[None])
    found = levels.round(ratios)
    assert set(found) <= set(values)
    assert np.abs(ratios - found) == pytest.approx(distance.min(axis=1), abs=1e-6)
    assert found.dtype == np.float32
    assert levels.round(ratios.reshape(50, 100)).tolist() == found.reshape(50, 100).tolist()


@pytest.mark.parametrize(
    "method", [quantize_minmax, quantize_mse, quantize_minmax_tensor], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("bits", [2, 1])
@pytest.mark.parametrize("group", [None, 64, 7])
def test_narrow_codes_are_what_their_method_says(method, bits, group):
    tensor = method(heavy(0), bits, group)
    zero_free = bits == 1 or method is quantize_mse
    assert tensor.zero_free is zero_free
    expected = {(2, False): {-1, 0, 1}, (2, True): {-3, -1, 1, 3}, (1, True): {-1, 1}}
    assert set(np.unique(tensor.codes).tolist()) == expected[bits, zero_free]


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_scale_a_group_beats_one_for_all_and_a_searched_one_beats_both(bits, seed):
    weight = heavy(seed)
    errors = {
        name: relative_error(weight, method(weight, bits, 64)) for name, method in DATA_FREE.items()
    }
    assert errors["minmax-tensor"] > 1.2 * errors["minmax"]
    assert errors["minmax"] > 1.05 * errors["mse"]


def test_one_scale_for_all_rounds_nearly_every_weight_to_zero_at_two_bits():
    tensor = quantize_minmax_tensor(heavy(1), 2, 64)
    assert len(np.unique(tensor.scales)) == 1
    assert (tensor.codes == 0).mean() > 0.95
    assert (quantize_minmax(heavy(1), 2, 64).codes == 0).mean() < 0.95


@pytest.mark.parametrize("group", [None, 64, 50])
def test_one_bit_is_the_sign_times_the_mean_magnitude_of_the_group(group):
    weight = heavy(2)
    tensor = quantize_mse(weight, 1, group)
    size = group or weight.shape[1]
    for start in range(0, weight.shape[1], size):
        block = weight[:, start : start + size]
        means = np.abs(block).astype(np.float64).mean(axis=1)
        assert tensor.scales[:, start // size] == pytest.approx(means, rel=1e-3)
    assert (tensor.codes == np.where(weight >= 0, 1, -1)).all()


@pytest.mark.parametrize("bits", [2, 1])
def test_no_scale_nearby_is_better_than_the_chosen_one(bits):
    weight = heavy(3, (16, 64))
    tensor = quantize_mse(weight, bits, None)
    levels = Levels(bits, zero_free=True)
    base = tensor.scales.astype(np.float32)

    def errors(factor):
        scale = base * np.float32(factor)
        return np.square(weight - levels.round(weight / scale) * scale).sum(axis=1)

    slack = {1: 1e-6, 2: 2e-3}[bits]  # 2 bits are searched on a grid
    for factor in (0.9, 0.95, 1.05, 1.1):
        assert (errors(1.0) <= errors(factor) * (1 + slack)).all()


def test_a_short_last_group_of_one_bit_has_the_mean_of_what_it_has():
    weight = np.array([[1.0, -1.0, 1.0, 1.0, -3.0]], dtype=np.float32)
    assert quantize_mse(weight, 1, 4).dequantize().tolist() == weight.tolist()


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("method", DATA_FREE.values(), ids=lambda m: m.__name__)
def test_rows_of_zeros_stay_zero_and_constant_rows_stay_what_they_are(method, bits):
    weight = np.zeros((3, 10), dtype=np.float32)
    weight[1], weight[2] = 0.5, -0.5
    found = method(weight, bits, 4).dequantize()
    # of the tensor's one scale nothing is left for zeros where no code is 0
    zeros = 0.5 if method is quantize_minmax_tensor and bits == 1 else 0.0
    assert np.abs(found[0]).max() == zeros
    assert found[1:] == pytest.approx(weight[1:], rel=0.01)
