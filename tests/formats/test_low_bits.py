"""Codes of 3, 2 and 1 bits, with and without a field for 0: bytes, values, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from formats_kit import assert_same_backbone, meta_of, rebuild
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskpack.formats import ArtifactError, Backbone, BitMask, QuantTensor
from maskpack.formats.bits import code_limit, pack_codes, unpack_codes
from maskpack.formats.codec import decode_backbone, encode_backbone

KINDS = [(3, True), (2, False), (2, True), (1, True)]
every_kind = pytest.mark.parametrize(("bits", "zero_free"), KINDS)
zero_free_bits = pytest.mark.parametrize("bits", [3, 2, 1])
ROWS, WIDTHS = st.integers(1, 5), st.integers(1, 37)


def codes_of(bits, zero_free):
    """Every code of a kind, in order."""
    if not zero_free:
        return [-1, 0, 1]
    limit = 2**bits - 1
    return [*range(-limit, limit + 1, 2)]


@st.composite
def matrices(draw, bits, zero_free):
    shape = draw(st.tuples(ROWS, WIDTHS))
    return draw(arrays(np.int8, shape, elements=st.sampled_from(codes_of(bits, zero_free))))


@every_kind
@settings(deadline=None)
@given(data=st.data())
def test_codes_survive_a_round_trip_at_every_width(bits, zero_free, data):
    codes = data.draw(matrices(bits, zero_free))
    rows, width = codes.shape
    before = codes.copy()
    packed = pack_codes(codes, bits, zero_free=zero_free)
    back = unpack_codes(packed, bits, width, zero_free=zero_free)
    assert (packed.dtype, packed.shape) == (np.uint8, (rows, -(-width * bits // 8)))
    assert (back.dtype, back.shape) == (np.int8, codes.shape)
    np.testing.assert_array_equal(back, codes)
    np.testing.assert_array_equal(codes, before)


@every_kind
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_code_lies_where_a_loop_puts_it(bits, zero_free, data):
    codes = data.draw(matrices(bits, zero_free))
    packed = pack_codes(codes, bits, zero_free=zero_free)
    for row, found in zip(codes.tolist(), packed.tolist(), strict=True):
        whole = 0  # the row as one number: bit n of a row is bit n of it
        for column, code in enumerate(row):
            field = codes_of(bits, zero_free).index(code) if zero_free else code % 4
            whole |= field << (column * bits)
        assert found == list(whole.to_bytes(-(-len(row) * bits // 8), "little"))


@zero_free_bits
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_byte_of_a_full_row_is_a_row_of_zero_free_codes(bits, data):
    full = st.integers(1, 5).map(lambda count: count * (3 if bits == 3 else 1))
    packed = data.draw(arrays(np.uint8, st.tuples(ROWS, full)))
    width = packed.shape[1] * 8 // bits
    codes = unpack_codes(packed, bits, width, zero_free=True)
    assert set(np.unique(codes).tolist()) <= set(codes_of(bits, True))
    np.testing.assert_array_equal(pack_codes(codes, bits, zero_free=True), packed)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (2, [-3], "00"),
        (2, [3], "03"),
        (2, [-3, -1, 1, 3], "e4"),
        (2, [3, 3, 3, 3, 1], "ff02"),
        (1, [-1], "00"),
        (1, [1, -1, 1, 1, -1, -1, -1, -1, 1], "0d01"),
    ],
)
def test_zero_free_codes_have_the_bytes_of_version_1(bits, codes, expected):
    packed = pack_codes(np.array([codes], dtype=np.int8), bits, zero_free=True)
    assert packed.tobytes().hex() == expected


@zero_free_bits
@pytest.mark.parametrize("code", [0, 2, -2])
def test_an_even_code_is_not_packed_as_a_zero_free_one(bits, code):
    codes = np.array([[1, -1, code]], dtype=np.int8)
    with pytest.raises(ArtifactError, match="zero-free codes hold an even one"):
        pack_codes(codes, bits, zero_free=True)


@pytest.mark.parametrize("bits", [8, 5, 4, 0])
def test_no_other_width_is_zero_free(bits):
    with pytest.raises(ArtifactError, match=f"codes of {bits} bits are not in this format"):
        pack_codes(np.ones((1, 4), dtype=np.int8), bits, zero_free=True)
    with pytest.raises(ArtifactError, match=f"codes of {bits} bits are not in this format"):
        unpack_codes(np.zeros((1, 4), dtype=np.uint8), bits, 4, zero_free=True)


def test_codes_of_1_bit_are_zero_free_or_refused():
    for refused in (
        lambda: pack_codes(np.zeros((1, 4), dtype=np.int8), 1),
        lambda: unpack_codes(np.zeros((1, 1), dtype=np.uint8), 1, 4),
    ):
        with pytest.raises(ArtifactError, match="1 bits are not in this format unless zero-free"):
            refused()


@every_kind
def test_padding_is_zero_bits_and_anything_else_is_refused(bits, zero_free):
    codes = np.array([[codes_of(bits, zero_free)[-1]] * 3], dtype=np.int8)
    packed = pack_codes(codes, bits, zero_free=zero_free)
    assert int(packed[0, 0]) >> (3 * bits) == 0
    for bit in range(3 * bits, 8):
        with pytest.raises(ArtifactError, match="a padding field of packed codes is not zero"):
            unpack_codes(packed | np.uint8(1 << bit), bits, 3, zero_free=zero_free)


@every_kind
def test_the_memory_layout_of_codes_does_not_matter(bits, zero_free):
    codes = np.resize(np.array(codes_of(bits, zero_free), dtype=np.int8), (5, 11))
    apart = np.repeat(codes, 2, axis=1)[:, ::2]
    assert not apart.flags.c_contiguous
    expected = pack_codes(codes, bits, zero_free=zero_free)
    for same in (apart, np.asfortranarray(codes)):
        np.testing.assert_array_equal(pack_codes(same, bits, zero_free=zero_free), expected)


def tensor_of(bits, zero_free, codes, scale=0.5):
    codes = np.array([codes], dtype=np.int8)
    return QuantTensor(codes, np.full((1, 1), scale, np.float16), bits, codes.shape[1], zero_free)


@every_kind
def test_a_tensor_knows_its_largest_code_and_accepts_every_code(bits, zero_free):
    codes = codes_of(bits, zero_free)
    tensor = tensor_of(bits, zero_free, codes)
    assert tensor.limit == code_limit(bits, zero_free=zero_free) == max(codes)
    assert tensor.dequantize().tolist() == [[code / 2 for code in codes]]


@pytest.mark.parametrize(
    ("bits", "zero_free", "codes", "message"),
    [
        (2, True, [2, 1], "a zero-free code is even"),
        (2, True, [-2, 1], "a zero-free code is even"),
        (2, True, [5, 1], r"outside \+-3 for 2 bits"),
        (2, True, [-4, 1], r"outside \+-3 for 2 bits"),
        (1, True, [3, 1], r"outside \+-1 for 1 bits"),
        (2, False, [-2, 1], r"outside \+-1 for 2 bits"),
        (1, False, [0, 0], "codes of 1 bits are not supported"),
        (4, True, [1, 1], "zero-free codes of 4 bits are not supported"),
        (8, True, [1, 1], "zero-free codes of 8 bits are not supported"),
        (0, False, [0, 0], "codes of 0 bits are not supported"),
    ],
)
def test_a_tensor_that_breaks_a_rule_is_refused(bits, zero_free, codes, message):
    with pytest.raises(ArtifactError, match=message):
        tensor_of(bits, zero_free, codes)


@pytest.mark.parametrize("bits", [2, 1])
def test_a_zero_among_zero_free_codes_is_a_masks_and_cannot_be_stored(bits):
    tensor = tensor_of(bits, True, [1, -1, 1])
    masked = BitMask.from_bool(np.array([[True, False, True]])).apply(tensor)
    assert (masked.bits, masked.zero_free) == (bits, True)
    assert masked.dequantize().tolist() == [[0.5, 0.0, 0.5]]
    with pytest.raises(ArtifactError, match="a mask is not part of them"):
        encode_backbone(Backbone({"l": masked}, {}, {}))
    assert_same_backbone(
        decode_backbone(encode_backbone(Backbone({"l": tensor}, {}, {}))),
        Backbone({"l": tensor}, {}, {}),
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_backbone_of_mixed_widths_survives_a_round_trip(data):
    tensors = {}
    for bits, zero_free in KINDS:
        codes = data.draw(matrices(bits, zero_free))
        group = data.draw(st.integers(1, codes.shape[1]))
        scale = st.floats(0, 6.0e4, width=16)
        shape = (codes.shape[0], -(-codes.shape[1] // group))
        scales = data.draw(arrays(np.float16, shape, elements=scale))
        tensors[f"{bits}{zero_free}"] = QuantTensor(codes, scales, bits, group, zero_free)
    table = tensors.pop("3True")
    backbone = Backbone(tensors, {"e": tensor_of(4, False, [7, 0, -7]), "t": table}, {})
    assert backbone.features == ("embedding-3",)
    encoded = encode_backbone(backbone)
    assert_same_backbone(decode_backbone(encoded), backbone)
    assert encode_backbone(decode_backbone(encoded)) == encoded


BACKBONE = Backbone(
    {"two": tensor_of(2, True, [3, -3, 1]), "four": tensor_of(4, False, [7, 1, 0])}, {}, {}
)


def test_the_header_says_zero_free_only_where_it_is_true():
    specs = meta_of(encode_backbone(BACKBONE))["tensors"]
    assert specs["two"]["zero_free"] is True
    assert "zero_free" not in specs["four"]


def test_a_header_that_spells_out_false_is_read():
    data = rebuild(
        encode_backbone(BACKBONE), lambda meta, _: meta["tensors"]["four"].update(zero_free=False)
    )
    assert_same_backbone(decode_backbone(data), BACKBONE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zero_free": 1}, "1 is not true or false"),
        ({"zero_free": "true"}, "'true' is not true or false"),
        ({"zero_free": None}, "None is not true or false"),
        ({"zero_free": []}, r"\[\] is not true or false"),
        ({"bits": 4}, "zero-free codes of 4 bits are not in this format"),
        ({"bits": 8, "group": 1}, "zero-free codes of 8 bits are not in this format"),
        ({"bits": 1, "zero_free": False}, "1 bits are not in this format unless zero-free"),
        ({"bits": True}, "True is not a whole number"),
        ({"bits": 1}, "a padding field of packed codes is not zero"),
        ({"zero_free": False}, r"outside \+-1 for 2 bits"),
    ],
)
def test_a_hostile_header_is_refused(fields, message):
    # fields of 3, -3, 1 are 3, 0, 2: as two's complement that is -1, 0 and no code
    data = rebuild(encode_backbone(BACKBONE), lambda meta, _: meta["tensors"]["two"].update(fields))
    with pytest.raises(ArtifactError, match=message):
        decode_backbone(data)


def test_a_linear_of_three_bits_is_refused():
    """A mask's zero could not be told from a code, and graphs know no product of them."""
    with pytest.raises(ArtifactError, match=r"`l` is a linear of 3 bits, not \(8, 4, 2, 1\)"):
        Backbone({"l": tensor_of(3, True, [7, -5, 1])}, {}, {})


def test_a_header_without_zero_free_means_codes_with_a_zero():
    sound = replace(BACKBONE, linears={"two": tensor_of(2, True, [3, -3, -3])})
    data = rebuild(encode_backbone(sound), lambda meta, _: meta["tensors"]["two"].pop("zero_free"))
    assert decode_backbone(data).linears["two"].codes.tolist() == [[-1, 0, 0]]
