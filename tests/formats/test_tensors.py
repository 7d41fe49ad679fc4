"""Integer weights, masks, backbone and patch: what they mean and what they refuse."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from formats_kit import make_backbone, make_patch, make_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskpack.formats import ArtifactError, Backbone, BitMask, MaskCount, Patch, QuantTensor
from maskpack.formats.bits import binary_entropy


def changed(**fields):
    """A sound tensor of 2 x 5 codes in groups of 2, with some fields replaced."""
    sound = {
        "codes": np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -7]], dtype=np.int8),
        "scales": np.ones((2, 3), dtype=np.float16),
        "bits": 4,
        "group": 2,
    }
    return QuantTensor(**{**sound, **fields})


def scales_with(value):
    scales = np.ones((2, 3), dtype=np.float16)
    scales[1, 2] = value
    return scales


def codes_with(value):
    codes = np.zeros((2, 5), dtype=np.int8)
    codes[1, 4] = value
    return codes


REFUSED = [
    ({"bits": 1}, "codes of 1 bits are not supported"),
    ({"bits": 3}, "codes of 3 bits are not supported"),
    ({"bits": 2}, r"a code lies outside \+-1 for 2 bits"),
    ({"bits": 16}, "codes of 16 bits are not supported"),
    ({"codes": np.zeros((2, 5), dtype=np.int16)}, "codes are int16"),
    ({"codes": np.zeros((2, 5), dtype=np.uint8)}, "codes are uint8"),
    ({"codes": np.zeros(5, dtype=np.int8)}, "expected a matrix of int8"),
    ({"codes": np.zeros((1, 2, 5), dtype=np.int8)}, "expected a matrix of int8"),
    ({"codes": np.zeros((0, 5), dtype=np.int8)}, "expected a matrix of int8"),
    ({"codes": np.zeros((2, 0), dtype=np.int8)}, "expected a matrix of int8"),
    ({"group": 0}, "group of 0 weights in rows of 5"),
    ({"group": -1}, "group of -1 weights in rows of 5"),
    ({"group": 6}, "group of 6 weights in rows of 5"),
    ({"group": 3}, r"expected float16 or float32 \(2, 2\)"),
    ({"scales": np.ones((2, 2), dtype=np.float16)}, r"expected float16 or float32 \(2, 3\)"),
    ({"scales": np.ones((3, 3), dtype=np.float16)}, r"expected float16 or float32 \(2, 3\)"),
    ({"scales": np.ones((2, 3))}, "scales are float64"),
    ({"scales": np.ones((2, 3), dtype=np.int8)}, "scales are int8"),
    ({"scales": scales_with(-0.5)}, "a scale is negative"),
    ({"scales": scales_with(np.nan)}, "a scale is negative, infinite or not a number"),
    ({"scales": scales_with(np.inf)}, "a scale is negative, infinite or not a number"),
    ({"codes": codes_with(8)}, r"a code lies outside \+-7 for 4 bits"),
    ({"codes": codes_with(-8)}, r"a code lies outside \+-7 for 4 bits"),
    ({"codes": codes_with(-128), "bits": 8}, r"a code lies outside \+-127 for 8 bits"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_an_integer_tensor_that_breaks_a_rule_is_refused(fields, message):
    changed()  # sound without the change
    with pytest.raises(ArtifactError, match=message):
        changed(**fields)


@pytest.mark.parametrize(("bits", "limit"), [(2, 1), (4, 7), (8, 127)])
def test_the_largest_codes_of_a_width_are_accepted(bits, limit):
    for value in (limit, -limit):
        tensor = changed(codes=codes_with(value), bits=bits)
        assert tensor.limit == limit
        assert tensor.dequantize()[1, 4] == value


def test_a_scale_may_be_zero_and_may_be_float32():
    tensor = changed(scales=np.zeros((2, 3), dtype=np.float32))
    assert not tensor.dequantize().any()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_dequantize_is_one_multiplication_a_weight(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 13))
    group = data.draw(st.integers(1, width))
    dtype, digits = data.draw(st.sampled_from([(np.float16, 16), (np.float32, 32)]))
    scale = st.floats(0, 1024, width=digits)
    tensor = QuantTensor(
        data.draw(arrays(np.int8, (rows, width), elements=st.integers(-127, 127))),
        data.draw(arrays(dtype, (rows, -(-width // group)), elements=scale)),
        8,
        group,
    )
    weights = tensor.dequantize()
    assert (weights.dtype, weights.shape) == (np.float32, tensor.shape)
    for row in range(rows):
        for column in range(width):
            wide = np.float32(tensor.scales[row, column // group])
            assert weights[row, column] == np.float32(tensor.codes[row, column]) * wide


def test_values_cannot_be_reassigned():
    tensor, mask = changed(), BitMask.from_bool(np.ones((2, 5), dtype=bool))
    with pytest.raises(FrozenInstanceError):
        tensor.bits = 8
    with pytest.raises(FrozenInstanceError):
        mask.shape = (1, 1)


@settings(deadline=None, max_examples=60)
@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 37))))
def test_a_mask_survives_packing_and_counts_its_zeros(keep):
    mask = BitMask.from_bool(keep)
    assert mask.shape == keep.shape
    assert mask.zeros == int((~keep).sum())
    np.testing.assert_array_equal(mask.to_bool(), keep)


@pytest.mark.parametrize(
    "packed",
    [
        np.zeros((2, 1), dtype=np.uint8),
        np.zeros((3, 2), dtype=np.uint8),
        np.zeros((2, 2), dtype=np.int8),
        np.zeros((2, 2), dtype=bool),
        np.zeros(4, dtype=np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_a_packed_mask_of_another_shape_or_type_is_refused(packed):
    with pytest.raises(ArtifactError, match=r"packed mask is .* expected uint8 \(2, 2\)"):
        BitMask(packed, (2, 9))


def test_a_mask_zeroes_the_codes_it_drops_and_no_others():
    tensor = make_tensor(5, 11, bits=4, group=4)
    keep = np.random.default_rng(1).random(tensor.shape) < 0.5
    before = tensor.codes.copy()
    masked = BitMask.from_bool(keep).apply(tensor)
    np.testing.assert_array_equal(masked.codes, before * keep)
    np.testing.assert_array_equal(tensor.codes, before)
    assert masked.scales is tensor.scales
    assert (masked.bits, masked.group) == (tensor.bits, tensor.group)


def test_a_mask_refuses_weights_of_another_shape():
    mask = BitMask.from_bool(np.ones((2, 7), dtype=bool))  # as many bytes as for (2, 5)
    with pytest.raises(ArtifactError, match=r"a mask of \(2, 7\) does not fit .* \(2, 5\)"):
        mask.apply(changed())


def test_counts_add_up_over_masks():
    half = BitMask.from_bool(np.array([[1, 0, 1, 0]], dtype=bool))
    full = BitMask.from_bool(np.ones((3, 4), dtype=bool))
    count = MaskCount.of({"a": half, "b": full})
    assert (count.weights, count.zeros, count.sparsity) == (16, 2, 0.125)
    expected = -(0.125 * math.log2(0.125) + 0.875 * math.log2(0.875))
    assert count.entropy_bpp == pytest.approx(expected)
    assert count.entropy_bytes == math.ceil(expected * 16 / 8)


def test_no_masks_count_as_nothing():
    count = MaskCount.of({})
    assert (count.weights, count.sparsity, count.entropy_bpp, count.entropy_bytes) == (0, 0, 0, 0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_the_entropy_of_a_bit_has_its_known_values(share, expected):
    assert binary_entropy(share) == expected


def test_a_backbone_counts_the_weights_a_mask_covers():
    assert make_backbone().maskable == 6 * 13 + 4 * 6


BAD_DENSE = [
    np.ones(3, dtype=np.float32),
    np.ones(3, dtype=np.int8),
    np.array([1.0, np.nan], dtype=np.float16),
    np.array([np.inf], dtype=np.float16),
]


@pytest.mark.parametrize("tensor", BAD_DENSE, ids=str)
def test_dense_tensors_are_finite_float16_or_refused(tensor):
    with pytest.raises(ArtifactError, match="`odd` of the backbone is not finite float16"):
        replace(make_backbone(), dense={"odd": tensor})
    with pytest.raises(ArtifactError, match="`odd` of the head is not finite float16"):
        Patch({}, {"odd": tensor})


def test_a_parameter_cannot_have_two_roles():
    sound = make_backbone()
    with pytest.raises(ArtifactError, match="stored twice"):
        replace(sound, dense={"layer.a.weight": np.ones(1, dtype=np.float16)})
    with pytest.raises(ArtifactError, match="stored twice"):
        replace(sound, embeddings=sound.linears)


def test_a_backbone_without_linears_is_refused():
    with pytest.raises(ArtifactError, match="no weight that a mask could cover"):
        Backbone({}, make_backbone().embeddings, {})


def test_a_patch_fits_only_a_backbone_with_its_linears():
    backbone, patch = make_backbone(), make_patch()
    patch.check_fits(backbone)
    name, mask = "layer.b.weight", patch.masks["layer.a.weight"]
    for odd in ("more", "words.weight", "layer.a.bias"):
        with pytest.raises(ArtifactError, match=f"the backbone has no `{odd}` for the mask"):
            replace(patch, masks={**patch.masks, odd: mask}).check_fits(backbone)
    with pytest.raises(ArtifactError, match=r"`layer.b.weight` is \(6, 13\), .* \(4, 6\)"):
        replace(patch, masks={**patch.masks, name: mask}).check_fits(backbone)


def test_a_patch_counts_its_masks():
    patch = make_patch()
    zeros = sum(int((~mask.to_bool()).sum()) for mask in patch.masks.values())
    assert zeros > 0
    assert patch.count == MaskCount(6 * 13 + 4 * 6, zeros)
