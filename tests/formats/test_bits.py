"""Bits and codes to bytes and back, against loops that spell the order out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskpack.formats import ArtifactError
from maskpack.formats.bits import CODE_BITS, pack_bits, pack_codes, unpack_bits, unpack_codes

ROWS, WIDTHS = st.integers(1, 5), st.integers(1, 37)
SIGNED_BITS = [bits for bits in CODE_BITS if bits > 1]  # zero-free codes: test_low_bits.py
BITS = st.sampled_from(SIGNED_BITS)


@st.composite
def codes_of(draw, bits):
    limit = 2 ** (bits - 1) - 1
    return draw(arrays(np.int8, (draw(ROWS), draw(WIDTHS)), elements=st.integers(-limit, limit)))


@settings(deadline=None)
@given(st.data())
def test_bits_survive_a_round_trip(data):
    bits = data.draw(arrays(np.bool_, st.tuples(ROWS, WIDTHS)))
    packed = pack_bits(bits)
    back = unpack_bits(packed, bits.shape[1])
    assert packed.shape == (bits.shape[0], -(-bits.shape[1] // 8))
    assert (packed.dtype, back.dtype, back.shape) == (np.uint8, np.bool_, bits.shape)
    np.testing.assert_array_equal(back, bits)


@settings(deadline=None)
@given(BITS.flatmap(lambda bits: st.tuples(st.just(bits), codes_of(bits))))
def test_codes_survive_a_round_trip(case):
    bits, codes = case
    packed = pack_codes(codes, bits)
    back = unpack_codes(packed, bits, codes.shape[1])
    assert packed.shape == (codes.shape[0], -(-codes.shape[1] * bits // 8))
    assert (packed.dtype, back.dtype, back.shape) == (np.uint8, np.int8, codes.shape)
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("width", [*range(1, 19), 63, 64, 65])
def test_a_bit_lies_where_a_loop_puts_it(width):
    bits = np.random.default_rng(width).random((3, width)) < 0.5
    packed = pack_bits(bits)
    for row in range(3):
        expected = [0] * (-(-width // 8))
        for column in range(width):
            expected[column // 8] |= int(bits[row, column]) << (column % 8)
        assert packed[row].tolist() == expected


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 17])
@pytest.mark.parametrize("bits", SIGNED_BITS)
def test_a_code_lies_where_a_loop_puts_it(bits, width):
    limit = 2 ** (bits - 1) - 1
    codes = np.random.default_rng(width).integers(-limit, limit, size=(4, width), endpoint=True)
    packed = pack_codes(codes.astype(np.int8), bits)
    for row in range(4):
        expected = [0] * (-(-width * bits // 8))
        for column in range(width):
            at = column * bits
            expected[at // 8] |= (int(codes[row, column]) % 2**bits) << (at % 8)
        assert packed[row].tolist() == expected


@pytest.mark.parametrize("bits", SIGNED_BITS)
def test_every_code_of_a_width_comes_back(bits):
    limit = 2 ** (bits - 1) - 1
    codes = np.arange(-limit, limit + 1, dtype=np.int8).reshape(1, -1)
    assert unpack_codes(pack_codes(codes, bits), bits, codes.shape[1]).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ([1], "01"),
        ([0, 1], "02"),
        ([1, 1, 1, 1, 1, 1, 1, 1], "ff"),
        ([1, 0, 1, 1, 0, 0, 0, 0, 1], "0d01"),
        ([0, 0, 0, 0, 0, 0, 0, 1, 0, 1], "8002"),
    ],
)
def test_bits_have_the_bytes_of_version_1(bits, expected):
    assert pack_bits(np.array([bits], dtype=bool)).tobytes().hex() == expected


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (4, [7], "07"),
        (4, [-7], "09"),
        (4, [1, -1, 7], "f107"),
        (4, [0, 5, -3, 2], "502d"),
        (8, [127, -127, -1, 0], "7f81ff00"),
        (2, [1], "01"),
        (2, [-1], "03"),
        (2, [1, 0, -1, 1, -1], "7103"),
    ],
)
def test_codes_have_the_bytes_of_version_1(bits, codes, expected):
    assert pack_codes(np.array([codes], dtype=np.int8), bits).tobytes().hex() == expected


@pytest.mark.parametrize("bits", SIGNED_BITS)
def test_the_memory_layout_of_codes_does_not_matter(bits):
    codes = np.arange(-7, 8, dtype=np.int8).reshape(5, 3)
    apart = np.zeros((5, 6), dtype=np.int8)
    apart[:, ::2] = codes
    expected = pack_codes(codes, bits)
    np.testing.assert_array_equal(pack_codes(np.asfortranarray(codes), bits), expected)
    np.testing.assert_array_equal(pack_codes(apart[:, ::2], bits), expected)


def test_a_row_can_be_read_without_its_neighbours():
    rng = np.random.default_rng(0)
    bits = rng.random((6, 11)) < 0.5
    codes = rng.integers(-7, 8, size=(6, 11)).astype(np.int8)
    for row in range(6):
        alone = slice(row, row + 1)
        np.testing.assert_array_equal(unpack_bits(pack_bits(bits)[alone], 11), bits[alone])
        np.testing.assert_array_equal(
            unpack_codes(pack_codes(codes, 4)[alone], 4, 11), codes[alone]
        )


@pytest.mark.parametrize("position", range(3, 8))
def test_a_set_padding_bit_is_refused(position):
    packed = np.array([[0b101], [0b111]], dtype=np.uint8)
    packed[1, 0] |= 1 << position
    with pytest.raises(ArtifactError, match="a padding bit of a packed mask is set"):
        unpack_bits(packed, 3)


@pytest.mark.parametrize("value", [1, 7, 8, 15])
def test_a_padding_field_that_is_not_zero_is_refused(value):
    packed = np.array([[0x21, 0x03], [0x21, 0x03 | value << 4]], dtype=np.uint8)
    with pytest.raises(ArtifactError, match="a padding field of packed codes is not zero"):
        unpack_codes(packed, 4, 3)


WRONG_ROWS = [
    np.zeros((2, 1), dtype=np.uint8),
    np.zeros((2, 3), dtype=np.uint8),
    np.zeros((2, 2), dtype=np.int8),
    np.zeros((2, 2), dtype=np.uint16),
    np.zeros(2, dtype=np.uint8),
    np.zeros((2, 2, 1), dtype=np.uint8),
]


@pytest.mark.parametrize("packed", WRONG_ROWS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_packed_rows_of_a_wrong_type_or_length_are_refused(packed):
    with pytest.raises(ArtifactError, match=r"packed rows are .* for 9 fields of 1 bits"):
        unpack_bits(packed, 9)
    with pytest.raises(ArtifactError, match=r"packed rows are .* for 4 fields of 4 bits"):
        unpack_codes(packed, 4, 4)
    with pytest.raises(ArtifactError, match=r"packed rows are .* for 2 fields of 8 bits"):
        unpack_codes(packed, 8, 2)


@pytest.mark.parametrize("bits", [-4, 0, 1, 3, 5, 6, 7, 16])
def test_other_widths_of_codes_are_refused_both_ways(bits):
    with pytest.raises(ArtifactError, match=f"codes of {bits} bits are not in this format"):
        pack_codes(np.zeros((1, 4), dtype=np.int8), bits)
    with pytest.raises(ArtifactError, match=f"codes of {bits} bits are not in this format"):
        unpack_codes(np.zeros((1, 4), dtype=np.uint8), bits, 4)
