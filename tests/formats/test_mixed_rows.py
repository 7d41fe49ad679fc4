"""Tables with rows of two widths: in memory, in a file, with fewer rows, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from formats_kit import FILES, SCHEME, SOURCE, make_backbone, rebuild
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_reader import RefusedError, read_artifact, read_backbone

from maskpack.formats import (
    ArtifactError,
    Backbone,
    QuantTensor,
    check_artifact,
    create_artifact,
    open_artifact,
)
from maskpack.formats.codec import decode_backbone, encode_backbone, encoded_size
from maskpack.formats.kept_tokens import KeptTokens, kept_rows
from maskpack.formats.matrices import PackedTensor
from maskpack.formats.mixed_rows import MixedRows

MARKS = [1, 0, 0, 1, 1, 0, 1]


def part(bits, rows, width=6, seed=0, dtype="f2"):
    rng = np.random.default_rng(seed)
    free = bits < 4
    limit = (1 << bits) - 1 if free else (1 << (bits - 1)) - 1
    codes = rng.integers(-limit, limit + 1, (rows, width))
    codes = np.where(codes % 2 == 0, codes + 1, codes) if free else codes
    scales = rng.uniform(0.1, 2, (rows, 1)).astype(dtype)
    return QuantTensor(codes.astype("i1"), scales, bits, width, free)


def mixed(bits=4, marks=MARKS, width=6, seed=0):
    is_wide = np.array(marks, dtype=bool)
    wide, rare = int(is_wide.sum()), int((~is_wide).sum())
    return MixedRows(part(bits, wide, width, seed), part(2, rare, width, seed + 1), is_wide)


def with_table(table):
    return Backbone({"l": part(4, 2)}, {"words": table}, {})


def by_hand(table):
    """Each row from its own part."""
    parts = {True: iter(table.wide.dequantize()), False: iter(table.rare.dequantize())}
    return np.array([next(parts[bool(wide)]) for wide in table.is_wide])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([8, 4, 3]), st.integers(1, 20), st.lists(st.booleans(), min_size=2))
def test_a_table_is_its_rows_and_survives_a_file(bits, width, marks):
    if all(marks) or not any(marks):
        marks = [*marks, not marks[0]]
    table = mixed(bits, marks, width)
    np.testing.assert_array_equal(table.dequantize(), by_hand(table))
    assert QuantTensor(table.codes, table.scales, bits, width, bits == 3).shape == table.shape
    backbone = with_table(table)
    data = encode_backbone(backbone)
    assert len(data) == encoded_size(backbone)
    for most in (0, 10**9):
        back = decode_backbone(data, most_unpacked=most)
        found = back.embeddings["words"]
        assert isinstance(found, MixedRows)
        assert isinstance(found.rare, PackedTensor) == (most == 0)
        np.testing.assert_array_equal(found.is_wide, table.is_wide)
        np.testing.assert_array_equal(found.dequantize(), table.dequantize())
        assert encode_backbone(back) == data


def test_a_rare_row_takes_two_bits_a_weight():
    table = mixed(4, width=384)
    assert table.code_bytes == 4 * 192 + 3 * 96 + 1
    plain = with_table(part(4, 7, 384))
    less = len(encode_backbone(plain)) - len(encode_backbone(with_table(table)))
    assert 3 * 96 - 300 < less < 3 * 96, "but for names in the header"


def test_the_bytes_of_the_page():
    """Section 4: with `wide` bits 1 0 1, `codes` holds the rows 0 and 2, `rare` row 1."""
    wide = QuantTensor(np.array([[7, -7], [1, 0]], "i1"), np.ones((2, 1), "f2"), 4, 2)
    rare = QuantTensor(np.array([[-3, 1]], "i1"), np.ones((1, 1), "f2"), 2, 2, True)
    table = MixedRows(wide, rare, np.array([True, False, True]))
    linear = QuantTensor(np.array([[127]], "i1"), np.ones((1, 1), "f2"), 8, 1)
    data = encode_backbone(Backbone({"l": linear}, {"e": table}, {}))
    assert data.endswith(bytes.fromhex("9701 08 05 7f"))
    assert table.wide.pack().tobytes().hex() == "9701"
    assert table.rare.pack().tobytes().hex() == "08"
    assert table.codes.tolist() == [[7, -7], [-3, 1], [1, 0]]


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_both_readers_read_an_artifact_of_it(bits, tmp_path):
    table = mixed(bits)
    backbone = Backbone(make_backbone().linears, {"words": table}, {})
    out = tmp_path / "artifact"
    create_artifact(out, backbone, source=SOURCE, scheme=SCHEME, files=FILES)
    artifact = open_artifact(out)
    assert artifact.manifest.requires == (("embedding-3",) if bits == 3 else ()) + (
        "embedding-rows",
    )
    assert check_artifact(out) == []
    np.testing.assert_array_equal(
        artifact.backbone.embeddings["words"].dequantize(), table.dequantize()
    )
    manifest = json.loads((out / "maskpack.json").read_text())
    _, embeddings, _ = read_backbone(out, manifest)
    np.testing.assert_array_equal(embeddings["words"].weights, table.dequantize())
    read_artifact(out)


def test_the_feature_is_named_exactly_where_rows_have_two_widths(tmp_path):
    for name, table, wrong in (
        ("named", part(4, 7), ["embedding-rows"]),
        ("unnamed", mixed(), []),
    ):
        out = tmp_path / name
        backbone = Backbone(make_backbone().linears, {"words": table}, {})
        create_artifact(out, backbone, source=SOURCE, scheme=SCHEME, files=FILES)
        place = out / "maskpack.json"
        tree = {**json.loads(place.read_text()), "requires": wrong}
        place.write_text(json.dumps(tree))
        with pytest.raises(ArtifactError, match="`embedding-rows`"):
            _ = open_artifact(out).backbone
        with pytest.raises(RefusedError, match="features of tables"):
            read_backbone(out, tree)


def test_fewer_rows_keep_codes_and_widths():
    table = mixed()
    for ids, kind in (([0, 1, 3, 5], MixedRows), ([0, 3, 6], QuantTensor), ([1, 5], QuantTensor)):
        less = kept_rows(table, KeptTokens.of(ids, table=7))
        assert type(less) is kind
        np.testing.assert_array_equal(less.dequantize(), table.dequantize()[ids])
    assert kept_rows(table, KeptTokens.of([1, 5], table=7)).bits == 2
    assert kept_rows(table, KeptTokens.of([0, 3, 6], table=7)).bits == 4


@pytest.mark.parametrize(
    ("wide", "rare", "marks", "message"),
    [
        (part(4, 4), part(4, 3), MARKS, "rare rows of 4 bits beside rows of 4"),
        (part(2, 4), part(2, 3), MARKS, "rare rows of 2 bits beside rows of 2"),
        (part(4, 4), part(2, 2), MARKS, "4 wide and 3 rare rows are marked, 4 and 2 are there"),
        (part(4, 4), part(2, 3, width=5), MARKS, "wide and rare rows differ"),
        (part(4, 4), part(2, 3, dtype="f4"), MARKS, "wide and rare rows differ"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(wide, rare, marks, message):
    with pytest.raises(ArtifactError, match=message):
        MixedRows(wide, rare, np.array(marks, dtype=bool))


def all_wide(meta, arrays):
    arrays["words.wide"] = np.array([[0x7F]], dtype="u1")


def too_many(meta, arrays):
    arrays["words.wide"] = np.array([[0x59 | 0x80]], dtype="u1")


def another_width(meta, arrays):
    meta["tensors"]["words"]["rare"] = 1


def linear(meta, arrays):
    meta["tensors"]["words"]["role"] = "linear"


def no_marks(meta, arrays):
    del arrays["words.wide"]


def two_rows_of_marks(meta, arrays):
    arrays["words.wide"] = np.array([[0x59], [0]], dtype="u1")


def no_number(meta, arrays):
    meta["tensors"]["words"]["rare"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (all_wide, "7 of 7 rows are wide, expected some and not all"),
        (too_many, "a padding bit"),
        (another_width, "packed rows are"),
        (linear, "`words` has rare rows and is no table"),
        (no_marks, "'words.wide'"),
        (two_rows_of_marks, r"marks of rows \(2, 1\)"),
        (no_number, "True is not a whole number"),
    ],
)
def test_a_hostile_file_is_refused(change, message):
    data = rebuild(encode_backbone(with_table(mixed())), change)
    with pytest.raises(ArtifactError, match=message):
        decode_backbone(data)
