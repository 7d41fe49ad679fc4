"""Entropy coding: every bit comes back, in about as many bytes as theory asks, or an error says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.formats import ArtifactError, BitMask, QuantTensor
from maskpack.formats.coded import (
    LANES,
    Coding,
    decode_gaps,
    decode_masks,
    encode_gaps,
    encode_masks,
)
from maskpack.formats.entropy import ONE, BitReader, Counts, MatrixModel, write_bits


def drawn(count, chances, seed=0):
    """Frequencies and bits that follow them."""
    rng = np.random.default_rng(seed)
    frequencies = np.asarray(chances, dtype=np.int64)[np.arange(count) % len(chances)]
    return frequencies, rng.random(count) < frequencies / ONE


def read_all(words, lanes, blocks):
    reader = BitReader(words, lanes)
    found = [reader.take(frequencies) for frequencies, _ in blocks]
    reader.finish()
    return found


@given(
    sizes=st.lists(st.integers(0, 70), max_size=6),
    chances=st.lists(st.integers(1, ONE - 1), min_size=1, max_size=9),
    lanes=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_bits_come_back_from_the_stream(sizes, chances, lanes, seed):
    blocks = [drawn(size, chances, seed + place) for place, size in enumerate(sizes)]
    words = write_bits(blocks, lanes)
    assert words.dtype == np.uint16
    for found, (_, bits) in zip(read_all(words, lanes, blocks), blocks, strict=True):
        assert np.array_equal(found, bits)


@pytest.mark.parametrize("chance", [1, 2, 300, ONE // 2, ONE - 300, ONE - 1])
@pytest.mark.parametrize("value", [False, True])
def test_runs_of_the_likely_and_of_the_unlikely_bit_come_back(chance, value):
    block = (np.full(3000, chance), np.full(3000, value))
    assert np.array_equal(read_all(write_bits([block], 7), 7, [block])[0], block[1])


@pytest.mark.parametrize("chances", [[300], [ONE // 2], [1000, 30000, 60000]])
def test_a_stream_is_within_a_hundredth_of_what_theory_asks(chances):
    frequencies, bits = drawn(200_000, chances)
    share = np.where(bits, frequencies, ONE - frequencies) / ONE
    ideal = -np.log2(share).sum() / 8
    assert write_bits([(frequencies, bits)], 16).nbytes <= 1.01 * ideal + 4 * 16 + 2


def test_a_damaged_stream_is_refused():
    block = drawn(1200, [4000, 30000])
    words = write_bits([block], 8)
    silent = 0
    for place in range(len(words)):
        for bit in (0, 7, 15):
            damaged = words.copy()
            damaged[place] ^= 1 << bit
            try:
                read_all(damaged, 8, [block])
                silent += 1
            except ArtifactError:
                pass
    assert silent == 0


def test_a_stream_cut_short_or_with_more_behind_is_refused():
    block = drawn(5000, [4000, 30000])
    words = write_bits([block], 8)
    with pytest.raises(ArtifactError, match="end too early"):
        read_all(words[:-1], 8, [block])
    with pytest.raises(ArtifactError, match="do not end where they should"):
        read_all(np.append(words, np.uint16(0)), 8, [block])
    with pytest.raises(ArtifactError, match="15 words of coded bits cannot hold 8 lanes"):
        BitReader(words[:15], 8)


@given(st.sets(st.integers(0, 5000), max_size=60), st.integers(1, 300))
def test_gaps_come_back(positions, more):
    positions = np.array(sorted(positions), dtype=np.int64)
    length = int(positions[-1]) + more if len(positions) else more
    coded, rice = encode_gaps(positions)
    assert np.array_equal(decode_gaps(coded, rice, len(positions), length), positions)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_gaps_are_near_the_entropy_of_scattered_positions(share):
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(200_000) < share)
    ideal = 200_000 * -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert len(encode_gaps(positions)[0]) < 1.06 * ideal


@pytest.mark.parametrize(
    ("coded", "rice", "count", "length", "message"),
    [
        ("3401", 1, 4, 10, "2 bytes are not the gaps of 4|hold 3 positions, expected 4"),
        ("3401", 1, 2, 10, "positions, expected 2"),
        ("3401", 1, 3, 9, "lies beyond 9"),
        ("340100", 1, 3, 30, "followed by something else"),
        ("3401", 31, 3, 10, "Rice parameter 31"),
        ("3401", -1, 3, 10, "Rice parameter -1"),
        ("3401", 1, 11, 10, "11 gaps"),
        ("3401", 30, 3, 10, "2 bytes are not the gaps"),
        ("00" * 40, 0, 0, 8, "40 bytes are not the gaps"),
    ],
)
def test_gaps_that_nobody_wrote_are_refused(coded, rice, count, length, message):
    with pytest.raises(ArtifactError, match=message):
        decode_gaps(np.frombuffer(bytes.fromhex(coded), np.uint8), rice, count, length)


def tensor_of(rows, width, bits=8, group=None, seed=0):
    rng = np.random.default_rng(seed)
    free = bits in {1, 2}
    limit = 2**bits - 1 if free else 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit + 1, size=(rows, width))
    codes = np.where(codes % 2 == 0, codes + 1, codes) if free else codes
    group = group or width
    scales = rng.uniform(0.01, 1, size=(rows, -(-width // group))).astype(np.float16)
    return QuantTensor(codes.astype(np.int8), scales, bits, group, zero_free=free)


def smallest(tensor, share):
    """Positions of the smallest weights."""
    sizes = np.abs(tensor.dequantize())
    return sizes < np.quantile(sizes, share)


def mask_over(tensor, removed):
    return BitMask.from_bool(~removed | (tensor.codes == 0))


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 70), st.sampled_from([8, 4, 2, 1])),
        min_size=1,
        max_size=4,
    ),
    share=st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_masks_of_any_shape_come_back(shapes, share, seed):
    rng = np.random.default_rng(seed)
    linears = {
        f"l{place}": tensor_of(*shape, group=min(7, shape[1]), seed=seed)
        for place, shape in enumerate(shapes)
    }
    masks = {
        name: mask_over(tensor, rng.random(tensor.shape) < share)
        for name, tensor in linears.items()
    }
    found = decode_masks(encode_masks(masks, linears), linears)
    assert set(found) == set(masks)
    assert all(np.array_equal(found[name].packed, mask.packed) for name, mask in masks.items())


def test_each_coding_is_chosen_where_it_is_smallest():
    linears = {name: tensor_of(300, 400, seed=place) for place, name in enumerate("abcd")}
    rng = np.random.default_rng(1)
    small = smallest(linears["a"], 0.3)
    coins = rng.random((300, 400))
    masks = {
        "a": mask_over(linears["a"], small),
        "b": mask_over(linears["b"], coins < 0.5),
        "c": mask_over(linears["c"], coins < 0.00002),
        "d": mask_over(linears["d"], coins < 0.0),
    }
    coded = encode_masks(masks, linears)
    found = {name: mask.coding for name, mask in coded.masks.items()}
    assert found["a"] is Coding.MODEL
    assert found["d"] is Coding.KEPT
    assert found["c"] is Coding.GAPS
    assert coded.lanes in LANES
    random = {"b": masks["b"]}
    assert encode_masks(random, linears).masks["b"].coding in {Coding.RAW, Coding.GAPS}
    assert encode_masks(random, linears).size <= 300 * 50


def test_a_mask_that_follows_the_backbone_takes_a_fraction_of_its_entropy():
    linears = {name: tensor_of(256, 512, seed=place) for place, name in enumerate("abc")}
    masks = {name: mask_over(tensor, smallest(tensor, 0.3)) for name, tensor in linears.items()}
    share = np.mean([~mask.to_bool() for mask in masks.values()])
    entropy = 3 * 256 * 512 * -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert encode_masks(masks, linears).size < 0.4 * entropy


def test_rows_and_columns_that_lose_much_help():
    linears = {"a": tensor_of(1024, 1024)}
    rng = np.random.default_rng(0)
    lines = [np.exp(rng.normal(size=1024)) for _ in range(2)]
    removed = rng.random((1024, 1024)) < 0.01 * np.outer(*lines)
    even = rng.permutation(removed.ravel()).reshape(removed.shape)
    sizes = [encode_masks({"a": mask_over(linears["a"], m)}, linears).size for m in (removed, even)]
    assert sizes[0] < 0.93 * sizes[1]


@pytest.mark.parametrize("bits", [8, 2])
def test_writer_and_reader_see_the_same_chances_in_range(bits):
    tensor = tensor_of(70, 130, bits=bits, group=16)
    removed = np.random.default_rng(2).random(tensor.shape) < 0.4
    model, seen = MatrixModel(tensor, Counts()), 0
    for block in model.blocks():
        assert block.frequencies.min() >= 1
        assert block.frequencies.max() < ONE
        assert len(block.pairs) == int(block.live.sum())
        model.learn(block, removed[block.rows, block.columns][block.live])
        seen += len(block.pairs)
    assert seen == np.count_nonzero(tensor.codes)


def test_bits_over_codes_of_zero_cost_nothing_and_come_back_as_kept():
    tensor = tensor_of(64, 64)
    codes = np.where(np.random.default_rng(0).random((64, 64)) < 0.5, 0, tensor.codes)
    sparse = QuantTensor(codes.astype(np.int8), tensor.scales, 8, 64)
    removed = np.random.default_rng(1).random((64, 64)) < 0.2
    idle = {"a": BitMask.from_bool(~removed)}
    clean = {"a": mask_over(sparse, removed)}
    first, second = (encode_masks(masks, {"a": sparse}) for masks in (idle, clean))
    assert first.size == second.size
    found = decode_masks(first, {"a": sparse})["a"]
    assert np.array_equal(found.packed, clean["a"].packed)
