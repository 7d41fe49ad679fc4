"""What a patch may hold beside full masks and a head: masks over some, own values, gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    assert_same_backbone,
    assert_same_patch,
    edit_patch,
    header_of,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    make_tensor,
    meta_of,
    tree,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskpack.formats import (
    ArtifactError,
    Backbone,
    BitMask,
    Manifest,
    Patch,
    Scheme,
    add_task,
    check_artifact,
    create_artifact,
    open_artifact,
)
from maskpack.formats.card import render_card
from maskpack.formats.codec import decode_patch, encode_patch

DIGEST = "5a" * 32
A, B = "layer.a.weight", "layer.b.weight"


def half(*values):
    return np.array(values, dtype=np.float16)


def make_own(seed=0):
    """A mask over one linear, gains over the other, one dense tensor of the task's own."""
    sound = make_patch(seed)
    return Patch(
        {A: sound.masks[A]},
        sound.head,
        dense={"norm.weight": half(1, 2, 3, 4, 5, 6)},
        gains={B: half(0.5, 1.0, 1.7, 6.0e-8)},
    )


def decode(data):
    return decode_patch(data, task="t", backbone_sha256=DIGEST)


def encode(patch):
    return encode_patch(patch, task="t", backbone_sha256=DIGEST)


names = st.lists(
    st.sampled_from('a b.weight bert.0.w Größe with"quote head.a dense.b x.mask gains'.split()),  # noqa: SIM905
    min_size=4,
    max_size=4,
    unique=True,
)
vectors = arrays(np.float16, st.tuples(st.integers(1, 5)), elements=st.floats(-9, 9, width=16))
factors = arrays(
    np.float16,
    st.tuples(st.integers(1, 5)),
    elements=st.floats(0, 9, width=16, exclude_min=True, allow_subnormal=True),
)


@settings(deadline=None, max_examples=80)
@given(names, st.data())
def test_every_part_of_a_patch_survives_a_round_trip(keys, data):
    shape = st.tuples(st.integers(1, 4), st.integers(1, 19))

    def some(values):
        chosen = data.draw(st.lists(st.sampled_from(keys), unique=True))
        return {name: data.draw(values) for name in chosen}

    masks = {k: BitMask.from_bool(v) for k, v in some(arrays(np.bool_, shape)).items()}
    patch = Patch(masks, some(vectors), some(vectors), some(factors))
    stored = [
        *(f"{name}.mask" for name in patch.masks),
        *(f"head.{name}" for name in patch.head),
        *(f"dense.{name}" for name in patch.dense),
        *(f"gains.{name}" for name in patch.gains),
    ]
    assert len(set(stored)) == len(stored)  # no name here makes two keys one
    found = decode(encode(patch))
    assert_same_patch(found, patch)
    assert encode(found) == encode(patch)


@pytest.mark.parametrize("part", ["head", "dense", "gains"])
def test_two_tensors_of_one_key_are_not_written(part):
    mask = BitMask.from_bool(np.ones((1, 2), dtype=bool))
    patch = replace(Patch({f"{part}.x": mask}, {}), **{part: {"x.mask": half(1.0)}})
    with pytest.raises(ArtifactError, match=rf"would be called `{part}\.x\.mask`"):
        encode(patch)


def test_the_keys_of_a_patch_say_what_each_tensor_is():
    data = encode(make_own())
    header = header_of(data)
    header.pop("__metadata__")
    assert {name: (spec["dtype"], spec["shape"]) for name, spec in header.items()} == {
        "layer.a.weight.mask": ("U8", [6, 2]),
        "head.out.weight": ("F16", [2, 6]),
        "head.out.bias": ("F16", [2]),
        "dense.norm.weight": ("F16", [6]),
        "gains.layer.b.weight": ("F16", [4]),
    }
    assert meta_of(data)["masks"] == {A: [6, 13]}


def test_a_patch_over_a_backbone_is_a_backbone_with_its_own_values():
    backbone, patch = make_backbone(), make_own()
    before = make_backbone()
    own = patch.over(backbone)
    keep = patch.masks[A].to_bool()
    np.testing.assert_array_equal(own.linears[A].codes, backbone.linears[A].codes * keep)
    assert own.linears[A].scales is backbone.linears[A].scales
    np.testing.assert_array_equal(own.linears[B].codes, backbone.linears[B].codes)
    assert own.linears[B].scales.dtype == np.float32
    for row, gain in enumerate(patch.gains[B]):
        wanted = np.float32(backbone.linears[B].scales[row, 0]) * np.float32(gain)
        assert own.linears[B].scales[row, 0] == wanted
    assert own.dense["norm.weight"].tolist() == [1, 2, 3, 4, 5, 6]
    assert own.dense["layer.a.bias"] is backbone.dense["layer.a.bias"]
    assert own.embeddings == backbone.embeddings
    assert_same_backbone(backbone, before)  # not touched


def test_gains_and_a_mask_over_the_same_linear_both_hold():
    tensor = make_tensor(4, 6, bits=8, group=4, seed=3)
    keep = np.random.default_rng(0).random((4, 6)) < 0.5
    gains = half(0.1, 2.0, 3.0, 0.7)
    patch = Patch({"l": BitMask.from_bool(keep)}, {}, gains={"l": gains})
    found = patch.over(Backbone({"l": tensor}, {}, {})).linears["l"].dequantize()
    for r in range(4):
        for c in range(6):
            scale = np.float32(tensor.scales[r, c // 4]) * np.float32(gains[r])
            wanted = np.float32(tensor.codes[r, c]) * scale if keep[r, c] else 0
            assert found[r, c] == wanted


def test_an_empty_patch_is_the_backbone():
    patch = Patch({}, {})
    assert_same_backbone(patch.over(make_backbone()), make_backbone())
    assert (patch.count.weights, patch.count.zeros) == (0, 0)
    assert_same_patch(decode(encode(patch)), patch)


def test_the_order_in_which_parts_come_does_not_change_the_bytes():
    vectors = {"a": half(1.0), "b": half(2.0)}
    turned = dict(reversed(vectors.items()))
    assert encode(Patch({}, {}, vectors, vectors)) == encode(Patch({}, {}, turned, turned))


UNFIT = {
    "mask over an embedding": (
        {"masks": {"words.weight": make_patch().masks[A]}},
        "the backbone has no `words.weight` for the mask of that name",
    ),
    "mask of another shape": (
        {"masks": {B: make_patch().masks[A]}},
        r"the mask of `layer.b.weight` is \(6, 13\), the backbone wants \(4, 6\)",
    ),
    "gains of nothing": (
        {"gains": {"layer.c.weight": half(1, 1)}},
        "the backbone has no `layer.c.weight` for the gains of that name",
    ),
    "gains of an embedding": (
        {"gains": {"words.weight": half(*[1] * 7)}},
        "the backbone has no `words.weight` for the gains of that name",
    ),
    "gains of a bias": (
        {"gains": {"layer.a.bias": half(*[1] * 6)}},
        "the backbone has no `layer.a.bias` for the gains of that name",
    ),
    "too few gains": (
        {"gains": {B: half(1, 1, 1)}},
        r"the gains of `layer.b.weight` is \(3,\), the backbone wants \(4,\)",
    ),
    "gains of columns": (
        {"gains": {B: half(*[[1]] * 4)}},
        r"the gains of `layer.b.weight` is \(4, 1\), the backbone wants \(4,\)",
    ),
    "dense of nothing": (
        {"dense": {"layer.b.bias": half(1)}},
        "the backbone has no `layer.b.bias` for the value of that name",
    ),
    "dense of a linear": (
        {"dense": {B: np.ones((4, 6), np.float16)}},
        "the backbone has no `layer.b.weight` for the value of that name",
    ),
    "dense of another shape": (
        {"dense": {"norm.weight": half(1, 1)}},
        r"the value of `norm.weight` is \(2,\), the backbone wants \(6,\)",
    ),
}


@pytest.mark.parametrize(("parts", "message"), UNFIT.values(), ids=UNFIT)
def test_a_patch_that_does_not_fit_is_refused_with_the_name_and_both_shapes(parts, message):
    patch = replace(make_own(), **parts)
    with pytest.raises(ArtifactError, match=message):
        patch.check_fits(make_backbone())
    with pytest.raises(ArtifactError, match=message):
        patch.over(make_backbone())


@pytest.mark.parametrize("gain", [0.0, -0.0, -1.0])
def test_a_gain_is_above_0(gain):
    with pytest.raises(ArtifactError, match=r"a gain of `layer\.b\.weight` is not above 0"):
        replace(make_own(), gains={B: half(1, 1, 1, gain)})


@pytest.mark.parametrize("bad", [half(np.nan), half(np.inf), np.ones(1, np.float32), half(1)[0]])
def test_gains_and_own_values_are_finite_float16(bad):
    with pytest.raises(ArtifactError, match="`b` of the gains is not finite float16"):
        Patch({}, {}, gains={"b": np.asarray(bad)})
    with pytest.raises(ArtifactError, match="`b` of the patch is not finite float16"):
        Patch({}, {}, dense={"b": np.asarray(bad)})


def test_a_gain_that_makes_a_scale_infinite_is_refused():
    tensor = make_tensor(1, 3, bits=8, group=3)
    loud = replace(tensor, scales=np.array([[3.0e38]], np.float32))
    backbone, patch = Backbone({"l": loud}, {}, {}), Patch({}, {}, gains={"l": half(2.0)})
    for refused in (patch.check_fits, patch.over):
        with pytest.raises(ArtifactError, match="a scale times its gain is infinite"):
            refused(backbone)
    replace(patch, gains={"l": half(1.0)}).check_fits(backbone)


@pytest.mark.parametrize("count", [1, 3])
def test_gains_for_another_number_of_rows_do_not_spread(count):
    tensor = make_tensor(2, 3, bits=8, group=3)
    with pytest.raises(ArtifactError, match=rf"gains of \({count},\) do not fit weights"):
        tensor.with_gains(np.ones(count, np.float16))


@pytest.fixture
def folder(tmp_path):
    """An artifact whose task `first` has its own values and masks over one linear of two."""
    patch = make_own()
    first = (make_entry("first", patch), patch)
    made = create_artifact(
        tmp_path / "own", make_backbone(), source=SOURCE, scheme=SCHEME, files=FILES, first=first
    )
    return made.path


def test_an_artifact_with_such_a_patch_is_sound_and_reads_back(folder):
    assert check_artifact(folder) == []
    artifact = open_artifact(folder)
    assert_same_patch(artifact.patch("first"), make_own())
    assert artifact.entry("first").weights == 6 * 13 < artifact.backbone.maskable
    bare = replace(make_own(), masks={})
    add_task(folder, make_entry("bare", bare), bare)
    assert check_artifact(folder) == []
    assert_same_patch(open_artifact(folder).patch("bare"), bare)


def test_an_unfit_patch_is_not_written(folder):
    before = tree(folder)
    unfit = replace(make_own(), dense={"ghost": half(1)})
    with pytest.raises(ArtifactError, match="the backbone has no `ghost`"):
        add_task(folder, make_entry("second", unfit), unfit)
    assert tree(folder) == before


def holding(key, value):
    return lambda _, arrays: arrays.update({key: value})


HOSTILE = {
    "gain of 0": (holding("gains.layer.b.weight", half(1, 0, 1, 1)), "is not above 0"),
    "negative gain": (holding("gains.layer.b.weight", half(1, -1, 1, 1)), "is not above 0"),
    "NaN gain": (holding("gains.layer.b.weight", half(1, np.nan, 1, 1)), "`layer.b.weight` of the"),
    "wide gains": (
        holding("gains.layer.b.weight", np.ones(4, np.float32)),
        "`layer.b.weight` of the gains is not finite float16",
    ),
    "gains of nothing": (holding("gains.ghost", half(1)), "no `ghost` for the gains"),
    "short gains": (holding("gains.layer.b.weight", half(1)), r"is \(1,\), the backbone wants"),
    "unknown dense": (holding("dense.ghost", half(1)), "no `ghost` for the value"),
    "dense shape": (holding("dense.norm.weight", half(1)), r"is \(1,\), the backbone wants \(6,\)"),
    "dense as a row": (
        holding("dense.norm.weight", np.ones((1, 6), np.float16)),
        r"is \(1, 6\), the backbone wants \(6,\)",
    ),
    "NaN dense": (holding("dense.norm.weight", half(*[np.nan] * 6)), "`norm.weight` of the patch"),
    "integer dense": (
        holding("dense.norm.weight", np.ones(6, np.int8)),
        "`norm.weight` of the patch is not finite float16",
    ),
    "no parameter": (holding("dense.", half(1)), r"unknown tensor `dense\.`"),
    "no prefix": (holding("dense", half(1)), "unknown tensor `dense`"),
    "other prefix": (holding("bias.norm.weight", half(1)), r"unknown tensor `bias\.norm\.weight`"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_patch_is_refused_even_with_its_digest_right(folder, change, message):
    edit_patch(folder, "first", change)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(folder).patch("first")
    (finding,) = check_artifact(folder)
    with pytest.raises(ArtifactError, match=message):
        raise ArtifactError(finding)


def manifest_with(tmp_path, **fields):
    """The manifest of an artifact, with another scheme."""
    manifest = make_artifact(tmp_path / "artifact").manifest
    return replace(manifest, scheme=replace(SCHEME, **fields))


def test_overrides_survive_in_the_manifest_and_their_absence_leaves_no_trace(tmp_path):
    manifest = manifest_with(tmp_path, overrides={"*.output.*": 8, "layer.0": 2})
    assert '"*.output.*": 8' in manifest.to_json()
    assert Manifest.from_json(manifest.to_json()) == manifest
    plain = replace(manifest, scheme=SCHEME)
    assert "overrides" not in plain.to_json()
    assert Manifest.from_json(plain.to_json()).scheme.overrides == {}
    spelled = plain.to_json().replace('"bits": 4,', '"bits": 4, "overrides": {},')
    assert Manifest.from_json(spelled) == plain


@pytest.mark.parametrize(
    "overrides",
    [[], None, 8, {"a": "8"}, {"a": 8.0}, {"a": True}, {"a": -1}, {1: 8}, {"\ud800": 8}],
)
def test_overrides_of_another_type_are_refused(overrides):
    with pytest.raises(ArtifactError, match=r"`scheme\.overrides"):
        Scheme(4, None, "minmax", 8, overrides)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Backbone of 4 bits a weight"),
        ({"bits": 1}, "Backbone of 1 bit a weight"),
        ({"bits": 2, "overrides": {"a": 8, "b": 1}}, "Backbone of 1 to 8 bits a weight"),
        ({"overrides": {"a": 4}}, "Backbone of 4 bits a weight"),
    ],
)
def test_the_card_gives_the_widths_of_a_mixed_backbone(tmp_path, fields, words):
    manifest = manifest_with(tmp_path, **fields)
    sizes = {"backbone.safetensors": 5, manifest.tasks["first"].file: 7}
    assert words in render_card(manifest, sizes)
