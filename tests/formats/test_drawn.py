"""Weights that follow from a seed: every example of DRAWN.md is true, what is not drawn is stored, and damage is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import assert_same_backbone, edit_backbone, edit_manifest, make_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_reader import RefusedError, draw, read_artifact

import maskpack.formats
from maskpack.formats import (
    ArtifactError,
    Backbone,
    BitMask,
    Patch,
    Scheme,
    Source,
    check_artifact,
    create_artifact,
    difference,
    merge_tasks,
    open_artifact,
    pack_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.codec import decode_backbone, encode_backbone, encoded_size
from maskpack.formats.draw import (
    LARGEST_SEED,
    drawn_codes,
    drawn_floats,
    mean_square,
    parameter_key,
    words_of,
)
from maskpack.formats.drawn import Drawing
from maskpack.formats.kept_tokens import KeptTokens, trimmed_backbone
from maskpack.formats.matrices import PackedTensor

PAGE = (Path(maskpack.formats.__file__).parent / "DRAWN.md").read_text("utf-8")
WIDTHS = (1, 2, 3, 4, 8)
HALF = 0.0999755859375


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def worked():
    """The backbone of section 3 of the page."""
    draw_of = Drawing(7).tensor
    linear = draw_of("l", (2, 9), 1, 9, zero_free=True, scale=0.5)
    table = draw_of("e", (1, 4), 8, 4, zero_free=False, scale=0.25)
    dense = {"b": np.zeros(2, np.float16), "p": drawn_floats(7, "p", (3,), HALF)}
    return Backbone({"l": linear}, {"e": table}, dense, 7)


def drawn_backbone(seed=5):
    """All of it drawn, large enough for several words of each parameter."""
    tensor = Drawing(seed).tensor
    linears = {
        f"w{bits}": tensor(f"w{bits}", (12, 37), bits, 37, zero_free=bits <= 3, scale=HALF)
        for bits in (1, 2, 4, 8)
    }
    table = {"e": tensor("e", (30, 10), 8, 10, zero_free=False, scale=0.25)}
    dense = {"one": np.ones(7, np.float16), "p": drawn_floats(seed, "p", (2, 3, 5), HALF)}
    return Backbone(linears, table, dense, seed)


@pytest.fixture
def folder(tmp_path):
    """An artifact of `drawn_backbone` with a task."""
    backbone = drawn_backbone()
    rng = np.random.default_rng(0)
    masks = {n: BitMask.from_bool(rng.random(t.shape) < 0.5) for n, t in backbone.linears.items()}
    patch = Patch(masks, {"out.weight": rng.normal(size=(2, 6)).astype(np.float16)})
    return create_artifact(
        tmp_path / "artifact",
        backbone,
        source=Source("some/model", None, "bert", "12" * 32),
        scheme=Scheme(1, None, "drawn", 8),
        files={"config.json": b"{}"},
        first=(make_entry("first", patch), patch),
    ).path


def test_every_word_and_code_on_the_page_is_true_of_both_readers():
    for line in block("words").strip().splitlines():
        place, _, rest = line.partition(" -> ")
        seed, name = place.split()
        key, words = rest.split(": ")
        assert f"{parameter_key(name):016x}" == key
        found = [f"{w:016x}" for piece in words_of(int(seed), name, 2) for w in piece.tolist()]
        assert found == words.split()
    seen = set()
    for line in block("drawn-codes").strip().splitlines():
        place, _, codes = line.partition(" -> ")
        seed, name, bits = place.split()
        wanted = [int(code) for code in codes.split()]
        seen.add(int(bits))
        assert drawn_codes(int(seed), name, (len(wanted),), int(bits)).tolist() == wanted
        assert draw(int(seed), name, len(wanted), int(bits)) == wanted
    assert seen == set(WIDTHS)
    assert str(LARGEST_SEED) in PAGE


def test_the_worked_file_is_what_the_writer_writes_and_the_digest_is_of_the_bytes_on_the_page():
    spaces = int(re.search(r"(\d+) spaces", PAGE).group(1))
    text = block("drawn-header").replace("\n", "").encode() + b" " * spaces
    length = re.search(r"header length \(`([0-9a-f ]+)`\)", PAGE).group(1)
    data = bytes.fromhex(length) + text
    assert len(text) == int.from_bytes(bytes.fromhex(length), "little")
    assert encode_backbone(worked()) == data
    assert_same_backbone(decode_backbone(data), worked())
    digest = hashlib.sha256(bytes.fromhex(block("drawn-data"))).hexdigest()
    assert digest in text.decode()
    weights = worked().linears["l"].dequantize()
    assert weights[0].tolist() == [-0.5] * 9
    shown = " ".join(str(value) for value in weights[1].tolist())
    assert f"then `{shown}`" in PAGE
    table = " ".join(str(value) for value in worked().embeddings["e"].dequantize()[0].tolist())
    assert f"`e` is `{table}`" in PAGE


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, LARGEST_SEED),
    st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    st.sampled_from(WIDTHS),
    st.integers(1, 70),
)
def test_both_readers_draw_the_same_codes(seed, name, bits, count):
    assert drawn_codes(seed, name, (count,), bits).tolist() == draw(seed, name, count, bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_are_even_over_all_values_and_pieces_join_without_a_seam(bits, monkeypatch):
    codes = drawn_codes(3, "w", (400, 500), bits).astype(np.int64)
    assert 0 not in codes
    values, counts = np.unique(codes, return_counts=True)
    limit = 2**bits - 1 if bits <= 3 else 2 ** (bits - 1) - 1
    assert (values[0], values[-1], len(values)) == (-limit, limit, 2**bits - 2 * (bits > 3))
    assert (abs(counts / codes.size * len(values) - 1) < 0.15).all()
    assert (codes**2).mean() == pytest.approx(mean_square(bits), rel=0.02)
    monkeypatch.setattr("maskpack.formats.draw._PIECE", 7)
    assert (drawn_codes(3, "w", (400, 500), bits)[:3] == codes[:3]).all()


def test_the_first_codes_of_a_parameter_do_not_depend_on_its_size_or_on_other_parameters():
    for bits in WIDTHS:
        assert (drawn_codes(3, "w", (9,), bits) == drawn_codes(3, "w", (50,), bits)[:9]).all()
    assert (drawn_codes(3, "w", (64,), 1) != drawn_codes(3, "v", (64,), 1)).any()
    assert (drawn_codes(3, "w", (64,), 1) != drawn_codes(4, "w", (64,), 1)).any()


def test_a_drawn_backbone_is_a_header_and_reads_back_to_the_last_bit():
    backbone = drawn_backbone()
    data = encode_backbone(backbone)
    assert len(data) == encoded_size(backbone) == 8 + int.from_bytes(data[:8], "little")
    assert_same_backbone(decode_backbone(data), backbone)
    packed = decode_backbone(data, most_unpacked=10)
    assert_same_backbone(packed, backbone)
    assert isinstance(packed.linears["w1"], PackedTensor)
    assert encode_backbone(packed) == data
    assert encode_backbone(replace(backbone, seed=6)) != data
    assert_same_backbone(decode_backbone(encode_backbone(replace(backbone, seed=6))), backbone)


def test_a_table_that_lost_tokens_is_stored_and_the_rest_still_drawn():
    backbone = drawn_backbone()
    small = trimmed_backbone(backbone, ["e"], KeptTokens.of([0, 3, 4], table=30))
    data = encode_backbone(small)
    assert len(data) > len(encode_backbone(backbone))
    again = decode_backbone(data)
    assert_same_backbone(again, small)
    assert (again.embeddings["e"].codes == backbone.embeddings["e"].codes[[0, 3, 4]]).all()
    assert len(data) < len(encode_backbone(replace(small, seed=None))) / 2


def test_an_artifact_is_packed_merged_compared_and_checked_as_any_other(folder, tmp_path):
    assert check_artifact(folder) == []
    artifact = open_artifact(folder)
    assert artifact.manifest.requires == ("drawn",)
    assert artifact.size("backbone.safetensors") < 2000
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    unpack_task(other, pack_task(artifact, "first"), name="second")
    assert difference(artifact, open_artifact(other)).same_backbone
    third = tmp_path / "third"
    shutil.copytree(folder, third)
    unpack_task(third, pack_task(artifact, "first"), name="third")
    rename_task(third, "first", "fourth")
    merge_tasks(other, open_artifact(third))
    linears, _, _, patches = read_artifact(other)
    assert set(patches) == {"first", "second", "third", "fourth"}
    assert set(linears) == set(artifact.backbone.linears)


def change_drawn(**fields):
    return lambda meta, _: meta["drawn"].update(fields)


def change_tensor(name, **fields):
    return lambda meta, _: meta["tensors"][name].update(fields)


def change_dense(name, **fields):
    return lambda meta, _: meta["dense"].update({name: fields})


BROKEN = {
    "another digest": (change_drawn(sha256="0" * 64), "drawn from seed 5 have the SHA-256"),
    "no digest": (change_drawn(sha256="x"), "not a SHA-256"),
    "another seed": (change_drawn(seed=6), "drawn from seed 6 have the SHA-256"),
    "a seed below 0": (change_drawn(seed=-1), "seed -1 is not in"),
    "a seed that JSON cannot hold": (change_drawn(seed=2**53), "seed 9007199254740992 is not in"),
    "a seed that is no number": (change_drawn(seed="7"), "is not a whole number"),
    "another law": (change_drawn(law="normal"), "in a way that this release does not know"),
    "a field more": (change_drawn(gain=2), "in a way that this release does not know"),
    "no seed": (lambda meta, _: meta.pop("drawn"), "names no seed that draws them"),
    "no dense": (lambda meta, _: meta.pop("dense"), "wrong or incomplete"),
    "groups": (change_tensor("w8", group=5), "`w8` is drawn, with groups of 5"),
    "a width that is none": (change_tensor("w8", bits=5), "with groups of 37 and 5 bits"),
    "no width": (change_tensor("w8", bits=0), "with groups of 37 and 0 bits"),
    "a number that no float holds": (change_tensor("w8", scale=10**400), "no finite number"),
    "a zero code": (change_tensor("w2", zero_free=False), "`w2` is drawn, with groups of 37"),
    "no rows": (change_tensor("w8", shape=[0, 37]), "has the shape"),
    "more than there is": (change_tensor("w8", shape=[2**40, 37]), "has the shape"),
    "no float16": (change_tensor("w8", scale=0.1), "which float16 does not hold"),
    "a text": (change_tensor("w8", scale="1"), "which is no finite number"),
    "a negative scale": (change_tensor("w8", scale=-1.0), "a scale is negative"),
    "too large": (change_tensor("w8", scale=1e6), "which float16 does not hold"),
    "value and scale": (change_dense("p", shape=[2, 3, 5], value=0, scale=1), "described with"),
    "no shape": (change_dense("p", value=0), "wrong or incomplete"),
    "no dimension": (change_dense("p", shape=[], value=0), "has the shape"),
    "an infinite value": (change_dense("one", shape=[7], value=1e400), "no finite number"),
    "stored too": (
        lambda meta, arrays: arrays.update(one=np.ones(7, np.float16)),
        "`one` of the backbone is stored, and described",
    ),
    "codes stored too": (
        lambda meta, arrays: arrays.update({"w8.codes": np.ones((12, 37), np.uint8)}),
        "is not finite float16",
    ),
    "twice": (change_dense("w8", shape=[7], value=0), "stored twice"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_wrong_header_is_refused_by_both_readers(folder, change, message):
    edit_backbone(folder, change)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        open_artifact(folder).backbone  # noqa: B018
    (finding,) = check_artifact(folder)
    assert message in finding


@pytest.mark.parametrize("name", ["another digest", "another law", "groups", "no seed"])
def test_the_reader_written_from_the_page_refuses_too(folder, name):
    edit_backbone(folder, BROKEN[name][0])
    with pytest.raises((RefusedError, KeyError)):
        read_artifact(folder)


def test_the_feature_must_be_named_exactly_where_there_is_a_seed(folder, tmp_path):
    edit_manifest(folder, lambda tree: tree.pop("requires"))
    with pytest.raises(ArtifactError, match="feature `drawn`, which `requires` does not name"):
        open_artifact(folder).backbone  # noqa: B018
    edit_manifest(folder, lambda tree: tree.update(requires=["drawn"]))
    plain = replace(drawn_backbone(), seed=None)
    made = create_artifact(
        tmp_path / "plain",
        plain,
        source=Source("some/model", None, "bert", "12" * 32),
        scheme=Scheme(1, None, "drawn", 8),
        files={},
    )
    assert made.manifest.requires == ()
    edit_manifest(made.path, lambda tree: tree.update(requires=["drawn"]))
    with pytest.raises(ArtifactError, match="the backbone names no seed"):
        open_artifact(made.path).backbone  # noqa: B018


def test_a_reader_of_the_first_release_names_the_feature_that_it_lacks(folder, monkeypatch):
    known = maskpack.formats.schema.FEATURES - {"drawn"}
    monkeypatch.setattr("maskpack.formats.schema.FEATURES", known)
    with pytest.raises(ArtifactError, match="requires the feature `drawn`") as caught:
        open_artifact(folder)
    assert "upgrade" in caught.value.hint


def test_a_seed_out_of_range_makes_no_backbone():
    for seed in (-1, LARGEST_SEED + 1):
        with pytest.raises(ArtifactError, match=f"the seed {seed} is not in 0"):
            replace(drawn_backbone(), seed=seed)


def test_the_examples_of_the_header_are_canonical_json():
    text = block("json").replace("\n", "")
    tree = json.loads(text)
    assert json.dumps(tree, sort_keys=True, separators=(",", ":")) == text
    assert set(tree) == {"dense", "drawn", "kind", "tensors"}
