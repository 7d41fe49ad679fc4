"""Whole units in files: what is stored, how small it is, and what is refused."""

from __future__ import annotations

import doctest
import random
from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    assert_same_patch,
    edit_manifest,
    edit_patch,
    make_backbone,
    make_entry,
    make_tensor,
    meta_of,
    rebuild,
    tree,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from maskpack.formats import (
    ArtifactError,
    Backbone,
    BitMask,
    MaskCount,
    Patch,
    add_task,
    check_artifact,
    create_artifact,
    difference,
    merge_tasks,
    open_artifact,
    overlaps,
    pack_task,
    remove_task,
    rename_task,
    unit_bits,
    units,
    unpack_task,
)
from maskpack.formats.codec import decode_patch, decode_units, encode_patch
from maskpack.formats.packed import decode_packed, without_idle_bits
from maskpack.formats.unit_bits import (
    count_beside_units,
    cut_units,
    mask_bytes,
    template_of,
    unit_bytes,
)
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, Units, joined

DIGEST = "5a" * 32
UP, DOWN, POOL = "layer.{}.up.weight", "layer.{}.down.weight", "pooler.weight"
LAYERS, NEURONS, HIDDEN = (0, 1, 2), 11, 6


def neurons(layer):
    parts = UnitPart(UP.format(layer), ROWS, 0, 1), UnitPart(DOWN.format(layer), COLUMNS, 0, 1)
    return UnitGroup("neurons", layer, NEURONS, parts)


GROUPS = tuple(neurons(layer) for layer in LAYERS)
SHAPES = {
    **{UP.format(layer): (NEURONS, HIDDEN) for layer in LAYERS},
    **{DOWN.format(layer): (HIDDEN, NEURONS) for layer in LAYERS},
    POOL: (HIDDEN, HIDDEN),
}


def unit_backbone():
    """Layers of neurons and a linear without; some codes are 0."""
    linears = {
        name: make_tensor(*shape, bits=4, group=shape[1], seed=n)
        for n, (name, shape) in enumerate(SHAPES.items())
    }
    return Backbone(linears, {}, {"norm.weight": np.ones(HIDDEN, np.float16)})


def some_units(seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return joined(GROUPS, {(g.kind, g.layer): rng.random(g.count) < share for g in GROUPS})


def unit_patch(seed=0, *, zeros=0.0, without=()):
    """Units, and where `zeros` are given single weights beside them; idle bits are set."""
    rng, units, linears = np.random.default_rng(seed), some_units(seed), unit_backbone().linears
    masks = {
        name: BitMask.from_bool((rng.random(shape) >= zeros) | (linears[name].codes == 0))
        for name, shape in SHAPES.items()
        if name not in without
    }
    head = {"out.weight": rng.normal(size=(2, HIDDEN)).astype(np.float16)}
    return Patch(cut_units(masks, units), head, units=units)


def make_units_artifact(path, patch, task="first"):
    return create_artifact(
        path,
        unit_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files=FILES,
        first=(make_entry(task, patch), patch),
    )


def encode(patch):
    return encode_patch(patch, task="t", backbone_sha256=DIGEST)


def decode(data, shapes=SHAPES):
    return decode_patch(data, task="t", backbone_sha256=DIGEST, shapes=shapes)


@pytest.fixture
def folder(tmp_path):
    """An artifact whose task `first` has units and single zeros."""
    return make_units_artifact(tmp_path / "artifact", unit_patch(zeros=0.2)).path


def minilm():
    """Groups and shapes of all-MiniLM-L6-v2: 6 layers of 12 heads of 32 and of 1,536 neurons."""
    groups, shapes = [], {"pooler.dense.weight": (384, 384)}
    for layer in range(6):
        base = f"encoder.layer.{layer}."
        inner = [f"{base}attention.self.{name}.weight" for name in ("query", "key", "value")]
        out = f"{base}attention.output.dense.weight"
        up, down = f"{base}intermediate.dense.weight", f"{base}output.dense.weight"
        shapes |= {**dict.fromkeys([*inner, out], (384, 384)), up: (1536, 384), down: (384, 1536)}
        heads = [UnitPart(name, ROWS, 0, 32) for name in inner]
        groups.append(UnitGroup("heads", layer, 12, (*heads, UnitPart(out, COLUMNS, 0, 32))))
        parts = UnitPart(up, ROWS, 0, 1), UnitPart(down, COLUMNS, 0, 1)
        groups.append(UnitGroup("neurons", layer, 1536, parts))
    return groups, shapes


def minilm_patch(head):
    groups, shapes = minilm()
    rng = np.random.default_rng(0)
    units = joined(groups, {(g.kind, g.layer): rng.random(g.count) < 0.5 for g in groups})
    masks = {name: BitMask.from_bool(np.ones(shape, bool)) for name, shape in shapes.items()}
    return Patch(cut_units(masks, units), head, units=units)


def test_units_of_minilm_are_small():
    """Bounds are what was measured: 3,704 bytes with the head, 2,004 without; 1,164 of them are bits."""
    head = {
        "classifier.weight": np.ones((2, 384), np.float16),
        "classifier.bias": np.ones(2, "<f2"),
    }
    whole = encode_patch(minilm_patch(head), task="sst2", backbone_sha256=DIGEST)
    bare = encode_patch(minilm_patch({}), task="sst2", backbone_sha256=DIGEST)
    assert unit_bytes(minilm_patch({}).units) == 1164
    assert len(whole) <= 3704
    assert len(bare) <= 2004
    _, shapes = minilm()
    found = decode_patch(whole, task="sst2", backbone_sha256=DIGEST, shapes=shapes)
    assert_same_patch(found, minilm_patch(head))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sets(st.sampled_from([*SHAPES])),
)
def test_units_and_single_zeros_survive_a_round_trip(seed, zeros, share, without):
    units = some_units(seed, share)
    bare = {name for name in without if not units.removes_from(name)}
    masks = unit_patch(seed, zeros=zeros, without=bare).masks
    patch = Patch(cut_units(masks, units), {"w": np.ones(2, np.float16)}, units=units)
    data = encode(patch)
    found = decode(data)
    assert_same_patch(found, patch)
    assert encode(found) == data
    assert_same_patch(decode(encode(replace(patch, units=None))), replace(patch, units=None))
    found_units = decode_units(data)
    assert found_units.removed_units() == units.removed_units()


def test_a_mask_is_stored_only_where_it_removes_something_beside_the_units():
    patch = unit_patch()
    data = encode(patch)
    assert set(load(data)) == {"head.out.weight", "units.0"}
    assert meta_of(data)["masks"] == {POOL: [HIDDEN, HIDDEN]}
    assert mask_bytes(patch) == 0
    bits = patch.masks[UP.format(1)].to_bool()
    bits[np.flatnonzero(patch.units.by_place()["neurons", 1])[0], 0] = False
    one = replace(patch, masks={**patch.masks, UP.format(1): BitMask.from_bool(bits)})
    data = encode(one)
    assert set(load(data)) == {"head.out.weight", "units.0", f"{UP.format(1)}.mask"}
    assert mask_bytes(one) == NEURONS
    assert_same_patch(decode(data), one)


def test_layers_that_are_alike_are_described_once_whatever_the_order_of_the_groups():
    patch = unit_patch()
    (entry,) = meta_of(encode(patch))["units"]
    assert entry == {
        "kind": "neurons",
        "count": NEURONS,
        "layers": [0, 1, 2],
        "parts": [[UP, ROWS, 0, 1], [DOWN, COLUMNS, 0, 1]],
    }
    turned = Units(patch.units.groups[::-1], patch.units.kept[::-1])
    assert encode(replace(patch, units=turned)) == encode(patch)


@pytest.mark.parametrize(
    ("name", "layer", "template"),
    [
        ("h.3.mlp.3.weight", 3, "h.3.mlp.{}.weight"),
        ("h.13.weight", 3, "h.13.weight"),
        ("groups.0.layers.0.ffn.weight", 0, "groups.0.layers.{}.ffn.weight"),
        ("l", 0, "l"),
    ],
)
def test_a_template_is_the_name_again(name, layer, template):
    assert template_of(name, layer) == template
    assert template.replace("{}", str(layer)) == name


def test_a_name_that_would_be_taken_for_a_template_is_not_written():
    group = UnitGroup("neurons", 0, 3, (UnitPart("a{}", COLUMNS, 0, 1),))
    masks = {"a{}": BitMask.from_bool(np.ones((1, 3), dtype=bool))}
    patch = Patch(masks, {}, units=joined([group], {}))
    with pytest.raises(ArtifactError, match=r"`a\{\}` holds `\{\}`"):
        encode(patch)


def test_a_mask_that_keeps_a_removed_unit_is_not_written(tmp_path):
    patch = unit_patch()
    name = DOWN.format(2)
    gone = int((~patch.units.mask(name, SHAPES[name])).sum())
    whole = BitMask.from_bool(np.ones(SHAPES[name], dtype=bool))
    kept = replace(patch, masks={**patch.masks, name: whole})
    with pytest.raises(ArtifactError, match=f"mask of `{name}` keeps {gone} weights of units"):
        make_units_artifact(tmp_path / "a", kept)
    masks = {n: mask for n, mask in patch.masks.items() if n != name}
    with pytest.raises(ArtifactError, match=f"units of `{name}` are removed, and it has no mask"):
        make_units_artifact(tmp_path / "b", replace(patch, masks=masks))
    assert list(tmp_path.iterdir()) == []


def test_counts_beside_units_leave_their_weights_out():
    patch = unit_patch(3, zeros=0.3)
    count = count_beside_units(patch)
    alone = patch.units.masks(SHAPES)
    kept = HIDDEN * HIDDEN + sum(int(mask.sum()) for mask in alone.values())
    zeros = sum(int((~patch.masks[n].to_bool() & alone[n]).sum()) for n in alone)
    assert count == MaskCount(kept, zeros + patch.masks[POOL].zeros)
    bare = replace(patch, units=None)
    assert count_beside_units(bare) == patch.count
    assert unit_bytes(None) == 0
    assert mask_bytes(bare) == sum(mask.packed.nbytes for mask in patch.masks.values())


def test_the_writer_names_the_feature_and_takes_it_back(folder):
    assert open_artifact(folder).entry("first").requires == ("units",)
    assert check_artifact(folder) == []
    patch = replace(unit_patch(1), units=None)
    entry = replace(make_entry("first", patch), requires=("units",))
    added = add_task(folder, entry, patch, replacing=True)
    assert added.entry("first").requires == ()
    assert check_artifact(folder) == []


def test_a_feature_that_patch_and_entry_do_not_share_is_refused(folder):
    edit_manifest(folder, lambda tree: tree["tasks"]["first"].pop("requires"))
    (finding,) = check_artifact(folder)
    assert finding == (
        "the patch of `first` has units, `requires` of its entry does not name `units`"
    )
    patch = replace(unit_patch(1), units=None)
    add_task(folder, make_entry("second", patch), patch)
    edit_manifest(folder, lambda tree: tree["tasks"]["second"].update(requires=["units"]))
    with pytest.raises(ArtifactError, match="`second` has no units, `requires` of its entry names"):
        open_artifact(folder).patch("second")


def test_a_feature_of_the_artifact_that_is_no_text_is_refused(folder):
    edit_manifest(folder, lambda tree: tree.update(requires=[["units"]]))
    with pytest.raises(ArtifactError, match=r"the artifact requires the feature `\['units'\]`"):
        open_artifact(folder)


def test_the_examples_in_docstrings_are_true():
    for module in (units, unit_bits):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted > 2


def first(change):
    """Change the first entry of `units` in a header."""
    return lambda meta, _: change(meta["units"][0])


def bits_of(value):
    return lambda _, arrays: arrays.update({"units.0": value})


def or_bits(row, column, bit):
    def change(_, arrays):
        arrays["units.0"] = arrays["units.0"].copy()
        arrays["units.0"][row, column] |= bit

    return change


def keep_whole(name):
    def change(meta, arrays):
        meta["masks"][name] = list(SHAPES[name])
        arrays[f"{name}.mask"] = BitMask.from_bool(np.ones(SHAPES[name], bool)).packed

    return change


BAD = {
    "no list": (lambda meta, _: meta.update(units={}), "header of patch `t` is wrong.*not a list"),
    "an entry of another type": (lambda meta, _: meta.update(units=[3]), "`3` describes no units"),
    "a field more": (first(lambda unit: unit.update(more=1)), "describes no units"),
    "a field less": (first(lambda unit: unit.pop("kind")), "describes no units"),
    "an unknown kind": (
        first(lambda unit: unit.update(kind="experts")),
        "`experts` of layer 0 are no units that this release knows, which are heads and neurons",
    ),
    "a kind that is no text": (first(lambda unit: unit.update(kind=[1])), "is not a text"),
    "another count": (
        first(lambda unit: unit.update(count=17)),
        r"`units.0` is uint8 \(3, 2\), expected uint8 \(3, 3\) for 17 neurons in 3 layers",
    ),
    "a count of as many bytes": (first(lambda unit: unit.update(count=12)), "reach beyond"),
    "a smaller count": (first(lambda unit: unit.update(count=9)), "a padding bit"),
    "a huge count": (first(lambda unit: unit.update(count=2**62)), "expected uint8"),
    "a count below 0": (first(lambda unit: unit.update(count=-5)), "expected uint8"),
    "a count that is no number": (first(lambda unit: unit.update(count=True)), "not a whole"),
    "a layer less": (
        first(lambda unit: unit["layers"].pop()),
        r"\(3, 2\), expected uint8 \(2, 2\)",
    ),
    "a layer twice": (
        first(lambda unit: unit.update(layers=[0, 1, 1])),
        "the neurons of layer 1 are there twice",
    ),
    "a layer below 0": (first(lambda unit: unit.update(layers=[0, 1, -2])), "of layer -2 are no"),
    "an unknown layer": (
        first(lambda unit: unit.update(layers=[0, 1, 7])),
        "the backbone has no `layer.7.up.weight` for the neurons in it",
    ),
    "no layers": (first(lambda unit: unit.update(layers=[])), "`units.0` are of no layer"),
    "no parts": (first(lambda unit: unit.update(parts=[])), "neurons of layer 0 have no weights"),
    "a part of three": (first(lambda unit: unit["parts"][0].pop()), "header of patch `t` is wrong"),
    "another axis": (
        first(lambda unit: unit["parts"][0].__setitem__(1, 2)),
        "units of width 1 from 0 in axis 2 of `layer.0.up.weight`",
    ),
    "a part before its linear": (
        first(lambda unit: unit["parts"][0].__setitem__(2, -1)),
        "width 1 from -1 in axis 0",
    ),
    "a part beyond its linear": (
        first(lambda unit: unit["parts"][0].__setitem__(2, 1)),
        r"the neurons of layer 0 reach beyond `layer.0.up.weight`, which is \(11, 6\)",
    ),
    "a part far beyond": (
        first(lambda unit: unit["parts"][0].__setitem__(2, 2**70)),
        "reach beyond `layer.0.up.weight`",
    ),
    "wider units": (
        first(lambda unit: unit["parts"][1].__setitem__(3, 2)),
        r"reach beyond `layer.0.down.weight`",
    ),
    "units of no width": (first(lambda unit: unit["parts"][0].__setitem__(3, 0)), "of width 0"),
    "a row of two units": (
        first(lambda unit: unit["parts"].append([UP, 0, 0, 1])),
        "row 0 of `layer.0.up.weight` belongs to two units",
    ),
    "a column of two units": (
        lambda meta, arrays: (
            meta["units"].append(
                {"kind": "heads", "count": 2, "layers": [4], "parts": [[DOWN.format(1), 1, 10, 1]]}
            ),
            arrays.update({"units.1": np.array([[3]], np.uint8)}),
        ),
        "column 10 of `layer.1.down.weight` belongs to two units",
    ),
    "a name in place of a template": (
        first(lambda unit: unit["parts"][0].__setitem__(0, UP.format(0))),
        "row 0 of `layer.0.up.weight` belongs to two units",
    ),
    "no bits": (lambda _, arrays: arrays.pop("units.0"), "header of patch `t` is wrong.*units.0"),
    "bits in floats": (bits_of(np.ones((3, 2), np.float16)), r"`units.0` is float16 \(3, 2\)"),
    "bits in a row": (bits_of(np.ones(6, np.uint8)), r"`units.0` is uint8 \(6,\)"),
    "padding": (or_bits(0, 1, 0x80), "a padding bit"),
    "bits of no entry": (
        lambda _, arrays: arrays.update({"units.1": np.ones((3, 2), np.uint8)}),
        "unknown tensor `units.1`",
    ),
    "units without their description": (
        lambda meta, _: meta.pop("units"),
        "header of patch `t` is wrong",
    ),
    "a mask that keeps a removed unit": (
        keep_whole(UP.format(0)),
        "the mask of `layer.0.up.weight` keeps [0-9]+ weights of units that are removed",
    ),
    "a mask of another shape that keeps all": (
        lambda meta, _: meta["masks"].update({POOL: [2**40, 2**40]}),
        r"the mask of `pooler.weight` is \(1099511627776, 1099511627776\), the backbone wants",
    ),
    "a mask of nothing that keeps all": (
        lambda meta, _: meta["masks"].update({"x": [1, 1]}),
        "the backbone has no `x` for the mask of that name",
    ),
    "a linear that loses units without a mask": (
        lambda meta, _: meta.update(unmasked=[UP.format(0)]),
        "units of `layer.0.up.weight` are removed, and it has no mask",
    ),
    "a linear without units without a mask": (
        lambda meta, _: meta.update(unmasked=[POOL]),
        "`pooler.weight` is no linear of units without a mask",
    ),
    "linears without a mask as a text": (lambda meta, _: meta.update(unmasked="l"), "not a list"),
    "linears without a mask as numbers": (lambda meta, _: meta.update(unmasked=[3]), "not a text"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_units_with_a_broken_rule_are_refused(change, message):
    data = encode(unit_patch())
    assert_same_patch(decode(data), unit_patch())
    with pytest.raises(ArtifactError, match=message):
        decode(rebuild(data, change))


def test_units_need_the_shapes_of_their_backbone():
    data = encode(unit_patch())
    with pytest.raises(ArtifactError, match="the backbone has no `layer.0.up.weight`"):
        decode_patch(data, task="t", backbone_sha256=DIGEST)
    with pytest.raises(ArtifactError, match="expected a patch"):
        decode_units(pack_data())
    with pytest.raises(ArtifactError, match="header of a patch is wrong"):
        decode_units(rebuild(data, lambda meta, _: meta.update(units=3)))


def pack_data():
    from maskpack.formats.codec import encode_backbone

    return encode_backbone(make_backbone())


def test_changed_bits_of_units_are_found_by_the_counts_of_the_manifest(folder):
    name = UP.format(0)
    gone = np.flatnonzero(~open_artifact(folder).patch("first").units.by_place()["neurons", 0])

    def add_unit(meta, arrays):
        bits = arrays["units.0"].copy()
        bits[0, gone[0] // 8] |= 1 << (gone[0] % 8)
        arrays["units.0"] = bits
        for key in (f"{name}.mask", f"{DOWN.format(0)}.mask"):
            arrays.pop(key)
        for linear in (name, DOWN.format(0)):
            meta["masks"].pop(linear)

    edit_patch(folder, "first", add_unit)
    (finding,) = check_artifact(folder)
    assert "the manifest says" in finding


def decode_file(folder, data):
    artifact = open_artifact(folder)
    return decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5]))
def test_what_is_packed_is_unpacked(tmp_path_factory, seed, zeros):
    patch = unit_patch(seed, zeros=zeros)
    folder = make_units_artifact(tmp_path_factory.mktemp("packed") / "a", patch).path
    data = pack_task(open_artifact(folder), "first")
    entry, found = decode_file(folder, data)
    assert_same_patch(found, patch)
    assert entry.requires == ("units",)
    before = tree(folder)
    remove_task(folder, "first")
    unpack_task(folder, data)
    assert tree(folder) == before


def test_units_remove_codes_of_0_too_when_idle_bits_are_set():
    backbone, patch = unit_backbone(), unit_patch(zeros=0.4)
    idle = {
        name: BitMask.from_bool(mask.to_bool() & (backbone.linears[name].codes != 0))
        for name, mask in patch.masks.items()
    }
    found = without_idle_bits(replace(patch, masks=idle), backbone)
    assert_same_patch(found, patch)
    assert sum(mask.zeros for mask in idle.values()) > patch.count.zeros


def test_units_cost_a_packed_file_their_bits_and_their_description_only(tmp_path):
    patch = unit_patch()
    folder = make_units_artifact(tmp_path / "a", patch).path
    data = pack_task(open_artifact(folder), "first")
    meta = meta_of(data)
    assert (meta["codings"], meta["lanes"], meta["gaps"]) == ("k" * len(SHAPES), 0, [])
    assert set(load(data)) == {"head.out.weight", "units.0"}


BAD_PACKED = {
    "a feature that is no text": (
        lambda meta, _: meta["entry"].update(requires=[{}]),
        r"packed patch `first` requires the feature `\{\}`",
    ),
    "features that are no list": (
        lambda meta, _: meta["entry"].update(requires="units"),
        "`requires` of packed patch `first` is not a list",
    ),
    "an unknown feature": (
        lambda meta, _: meta["entry"].update(requires=["units", "smell"]),
        "packed patch `first` requires the feature `smell`",
    ),
    "units without the feature": (
        lambda meta, _: meta["entry"].pop("requires"),
        "`first` has units, `requires` of its entry does not name `units`",
    ),
    "the feature without units": (
        lambda meta, arrays: (meta.pop("units"), arrays.pop("units.0")),
        "holds [0-9]+ zeros|has no units",
    ),
    "units of another kind": (
        first(lambda unit: unit.update(kind="experts")),
        "`experts` of layer 0 are no units",
    ),
    "units beyond": (
        first(lambda unit: unit["parts"][0].__setitem__(2, 1)),
        "reach beyond `layer.0.up.weight`",
    ),
    "units of an unknown layer": (
        first(lambda unit: unit.update(layers=[0, 1, 7])),
        "the backbone has no `layer.7.up.weight`",
    ),
    "a linear that loses units without a mask": (
        lambda meta, _: meta.update(codings="-" + meta["codings"][1:], gaps=meta["gaps"][1:]),
        "unknown tensor|are removed, and it has no mask|zeros of",
    ),
    "other bits of units": (
        or_bits(0, 0, 0xFF),
        "is damaged|not the gaps|beyond|zeros of|positions",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_PACKED.values(), ids=BAD_PACKED)
@pytest.mark.parametrize("zeros", [0.0, 0.2])
def test_a_packed_file_with_broken_units_is_refused(tmp_path, zeros, change, message):
    folder = make_units_artifact(tmp_path / "a", unit_patch(zeros=zeros)).path
    data = pack_task(open_artifact(folder), "first")
    with pytest.raises(ArtifactError, match=message):
        decode_file(folder, rebuild(data, change))


def mutate(rng, data):
    """One small change: a bit, a byte of JSON, a cut, a copy."""
    data, at = bytearray(data), rng.randrange(len(data))
    length = rng.choice((1, 2, 3, 8, 40))
    match rng.randrange(5):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.choice(b'\0\xff0129-.eE{}[]",: \n/')
        case 2:
            data[at:at] = rng.randbytes(length)
        case 3:
            del data[at : at + length]
        case _:
            data[at:at] = data[at : at + length]
    return bytes(data)


def test_no_mutation_of_units_ends_in_another_exception(folder):
    artifact, rng, refused = open_artifact(folder), random.Random(11), 0
    patch, packed = encode(artifact.patch("first")), pack_task(artifact, "first")
    for step in range(800):
        try:
            if step % 2:
                decode_file(folder, mutate(rng, packed))
            else:
                found = decode(mutate(rng, patch))
                found.check_fits(artifact.backbone)
        except ArtifactError:
            refused += 1
    assert 500 < refused < 800


def test_tasks_with_units_are_renamed_merged_and_compared(folder, tmp_path):
    patch = open_artifact(folder).patch("first")
    artifact = rename_task(folder, "first", "third")
    assert_same_patch(artifact.patch("third"), patch)
    other = make_units_artifact(tmp_path / "b", unit_patch(5), "third")
    apart = difference(artifact, other).tasks[0]
    removed = [one.removed_units() for one in (patch.units, other.patch("third").units)]
    assert apart.units == len(removed[0] ^ removed[1]) > 0
    assert apart.bits > 0
    rename_task(tmp_path / "b", "third", "second")
    merged = merge_tasks(folder, open_artifact(tmp_path / "b"))
    assert check_artifact(folder) == []
    (pair,) = overlaps(merged)
    assert (pair.first, pair.second) == ("second", "third")
    assert pair.units.first_zeros == len(removed[1])
    assert pair.units.second_zeros == len(removed[0])
    assert pair.units.both == len(removed[0] & removed[1])
    chance = [
        sum(layer == own[1] for own in removed[0]) * sum(layer == own[1] for own in removed[1])
        for layer in LAYERS
    ]
    assert pair.units.by_chance == pytest.approx(sum(chance) / NEURONS)


def test_a_task_with_units_and_one_without_share_no_units(folder):
    patch = replace(unit_patch(5), units=None)
    artifact = add_task(folder, make_entry("plain", patch), patch)
    (pair,) = overlaps(artifact)
    assert (pair.units.both, pair.units.by_chance, pair.units.second_zeros) == (0, 0.0, 0)
    assert pair.units.first_zeros == artifact.patch("first").units.removed
    assert pair.both > 0, "the weights of units are in both"


def test_the_card_says_which_units_stay(folder):
    units = open_artifact(folder).patch("first").units
    kept = ", ".join(str(int(kept.sum())) for kept in units.by_place().values())
    text = (folder / "README.md").read_text()
    assert f"* first: neurons {kept} of 11\n" in text
    patch = replace(unit_patch(1), units=None)
    add_task(folder, make_entry("first", patch), patch, replacing=True)
    assert "stay, by layer" not in (folder / "README.md").read_text()


def test_a_lost_patch_with_units_is_in_nobody_s_way(folder):
    (folder / "tasks/first.safetensors").unlink()
    patch = unit_patch(2)
    add_task(folder, make_entry("second", patch), patch)
    text = (folder / "README.md").read_text()
    assert "* second: neurons" in text
    assert "* first: neurons" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": 2}, "in axis 2 of `a`"),
        ({"first": -1}, "from -1"),
        ({"width": 0}, "of width 0"),
    ],
)
def test_a_part_that_holds_nothing_is_refused(change, message):
    with pytest.raises(ArtifactError, match=message):
        replace(UnitPart("a", ROWS, 0, 1), **change)
