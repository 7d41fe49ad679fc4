"""Masked codes as arrays, against loops that do the same one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest

from maskpack.exporters.graph.weights import fields_of
from maskpack.formats import ArtifactError, BitMask, QuantTensor
from maskpack.formats.channels import channel_weights, group_scales, spread

SHAPES = [(1, 1, 1), (3, 8, 8), (5, 32, 16), (4, 48, 16), (2, 64, 1)]
UNEVEN = [(3, 10, 4), (2, 33, 32), (1, 7, 2)]


def make(shape, *, bits=4, half=True, seed=0):
    """A random tensor `(outputs, inputs)` in groups, and a mask that keeps two weights in three."""
    outputs, inputs, group = shape
    rng = np.random.default_rng([*shape, bits, seed])
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit + 1, (outputs, inputs)).astype(np.int8)
    scales = rng.uniform(0.001, 0.3, (outputs, -(-inputs // group)))
    tensor = QuantTensor(codes, scales.astype(np.float16 if half else np.float32), bits, group)
    return tensor, BitMask.from_bool(rng.random((outputs, inputs)) < 2 / 3)


def kept_weight(tensor, mask, o, i):
    """One masked weight, in double precision."""
    if not mask.to_bool()[o, i]:
        return 0.0
    return float(tensor.codes[o, i]) * float(tensor.scales[o, i // tensor.group])


def weights_of(tensor, mask):
    outputs, inputs = tensor.shape
    return np.array(
        [[kept_weight(tensor, mask, o, i) for i in range(inputs)] for o in range(outputs)]
    )


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [s for s in SHAPES + UNEVEN if s[1] > s[2]])
def test_requantised_weights_are_off_by_at_most_half_a_step_of_the_rows_largest(shape, bits, half):
    tensor, mask = make(shape, bits=bits, half=half)
    found, wanted = channel_weights(mask.apply(tensor)), weights_of(tensor, mask)
    assert found.codes.dtype == np.int8
    assert found.codes.shape == wanted.shape[::-1]
    for o, row in enumerate(wanted):
        step = max(abs(weight) for weight in row) / 127
        for i, weight in enumerate(row):
            got = int(found.codes[i, o]) * float(found.scales[o])
            assert abs(got - weight) <= step / 2 * (1 + 1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES + UNEVEN)
def test_zero_codes_and_masked_codes_stay_zero_codes(shape, bits):
    tensor, mask = make(shape, bits=bits)
    codes = channel_weights(mask.apply(tensor)).codes
    outputs, inputs = tensor.shape
    for o in range(outputs):
        for i in range(inputs):
            if tensor.codes[o, i] == 0 or not mask.to_bool()[o, i]:
                assert codes[i, o] == 0


def test_the_largest_weight_of_a_row_becomes_the_largest_code():
    tensor, mask = make((5, 32, 16), bits=8)
    codes, wanted = channel_weights(mask.apply(tensor)).codes, weights_of(tensor, mask)
    for o, row in enumerate(wanted):
        largest = int(np.abs(row).argmax())
        assert int(codes[largest, o]) == int(np.sign(row[largest])) * 127


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_with_one_scale_keep_every_code_and_scale(bits):
    tensor, mask = make((6, 24, 24), bits=bits)
    found = channel_weights(mask.apply(tensor))
    for o in range(6):
        assert found.scales[o] == np.float32(tensor.scales[o, 0])
        for i in range(24):
            wanted = tensor.codes[o, i] if mask.to_bool()[o, i] else 0
            assert found.codes[i, o] == wanted
    assert found.scales.dtype == np.float32
    assert found.codes.flags.c_contiguous


def test_a_row_without_a_weight_left_has_no_scale_and_no_nan():
    tensor, _ = make((3, 32, 16))
    keep = np.ones(tensor.shape, dtype=bool)
    keep[1] = False
    found = channel_weights(BitMask.from_bool(keep).apply(tensor))
    assert found.scales[1] == 0
    assert not found.codes[:, 1].any()
    assert found.codes[:, 0].any()
    assert np.isfinite(found.scales).all()


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("shape", SHAPES + UNEVEN)
def test_group_scales_are_those_of_the_tensor(shape, half):
    tensor, _ = make(shape, half=half)
    scales = group_scales(tensor)
    assert scales.shape == (tensor.scales.shape[1], 1, shape[0])
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(
        spread(scales, tensor.group, shape[1]).T, tensor.expanded_scales()
    )


@pytest.mark.parametrize("shape", SHAPES + UNEVEN)
@pytest.mark.parametrize("divided", [False, True])
def test_rescaling_tells_how_the_codes_came_about(shape, divided):
    tensor, _ = make(shape)
    divisor = np.linspace(1, 2, shape[1], dtype=np.float32) if divided else None
    weights = channel_weights(tensor, divisor)
    if weights.rescaling is None:
        np.testing.assert_array_equal(weights.codes, tensor.codes.T)
        return
    found = weights.rescaling.apply(np.ascontiguousarray(tensor.codes.T))
    np.testing.assert_array_equal(found, weights.codes)


@pytest.mark.parametrize("bits", [4, 2, 1])
@pytest.mark.parametrize("shape", SHAPES + UNEVEN)
def test_fields_hold_the_codes_of_a_tensor(shape, bits):
    rng = np.random.default_rng([*shape, bits])
    choices = {4: np.arange(-7, 8), 2: np.array([-3, -1, 1, 3]), 1: np.array([-1, 1])}[bits]
    codes = rng.choice(choices, shape[:2]).astype(np.int8)
    scales = np.ones((shape[0], -(-shape[1] // shape[2])), np.float16)
    fields = fields_of(QuantTensor(codes, scales, bits, shape[2], zero_free=bits < 4))
    assert fields.count == codes.size
    assert len(fields.packed) == -(-codes.size * bits // 8)
    found = fields.table[fields.packed].reshape(-1)[: fields.count]
    np.testing.assert_array_equal(found, codes.T.reshape(-1))


def test_codes_of_a_byte_have_no_fields():
    assert fields_of(make((3, 8, 8), bits=8)[0]) is None


def test_a_mask_of_another_shape_is_refused():
    tensor, _ = make((3, 8, 8))
    with pytest.raises(ArtifactError, match=r"mask of \(8, 3\) does not fit"):
        channel_weights(BitMask.from_bool(np.ones((8, 3), dtype=bool)).apply(tensor))
