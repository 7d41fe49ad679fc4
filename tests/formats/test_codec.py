"""Backbone and patch as safetensors bytes: golden bytes, round trips, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    ZERO_SHA,
    assert_same_backbone,
    assert_same_patch,
    header_of,
    make_backbone,
    make_patch,
    meta_of,
    rebuild,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from maskpack.formats import ArtifactError, Backbone, BitMask, Patch, QuantTensor
from maskpack.formats.codec import decode_backbone, decode_patch, encode_backbone, encode_patch

DIGEST = "5a" * 32


def half(*values):
    return np.array(values, dtype=np.float16)


TINY = Backbone(
    linears={"l": QuantTensor(np.array([[1, -1, 7]], dtype=np.int8), half([0.5, 2.0]), 4, 2)},
    embeddings={"e": QuantTensor(np.array([[127, -127]], dtype=np.int8), half([1.0]), 8, 2)},
    dense={"b": half(-1.0)},
)
TINY_PATCH = Patch(
    masks={"l": BitMask.from_bool(np.array([[1, 0, 1]], dtype=bool))},
    head={"w": half([1.0, -2.0])},
)

# 8 bytes of header length, the header, then the tensors: wider types first, then by name.
TINY_BACKBONE_BYTES = (
    bytes.fromhex("0002000000000000")
    + rb'{"__metadata__":{"maskpack":"{\"kind\":\"backbone\",\"tensors\":{'
    + rb"\"e\":{\"bits\":8,\"group\":2,\"role\":\"embedding\",\"shape\":[1,2]},"
    + rb"\"l\":{\"bits\":4,\"group\":2,\"role\":\"linear\",\"shape\":[1,3]}"
    + rb'}}"},'
    + b'"b":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},'
    + b'"e.scales":{"dtype":"F16","shape":[1,1],"data_offsets":[2,4]},'
    + b'"l.scales":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]},'
    + b'"e.codes":{"dtype":"U8","shape":[1,2],"data_offsets":[8,10]},'
    + b'"l.codes":{"dtype":"U8","shape":[1,2],"data_offsets":[10,12]}}      '
    + bytes.fromhex("00bc003c003800407f81f107")
)
TINY_PATCH_BYTES = (
    bytes.fromhex("3001000000000000")
    + rb'{"__metadata__":{"maskpack":"{\"backbone_sha256\":\"'
    + DIGEST.encode()
    + rb"\",\"kind\":\"patch\",\"masks\":{\"l\":[1,3]},\"task\":\"t\"}"
    + rb'"},'
    + b'"head.w":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},'
    + b'"l.mask":{"dtype":"U8","shape":[1,1],"data_offsets":[4,5]}}     '
    + bytes.fromhex("003c00c005")
)


def encode_tiny_patch():
    return encode_patch(TINY_PATCH, task="t", backbone_sha256=DIGEST)


def test_a_backbone_has_the_bytes_of_version_1():
    assert encode_backbone(TINY) == TINY_BACKBONE_BYTES


def test_a_patch_has_the_bytes_of_version_1():
    assert encode_tiny_patch() == TINY_PATCH_BYTES


def test_the_bytes_of_version_1_still_decode_to_their_values():
    assert_same_backbone(decode_backbone(TINY_BACKBONE_BYTES), TINY)
    found = decode_patch(TINY_PATCH_BYTES, task="t", backbone_sha256=DIGEST)
    assert_same_patch(found, TINY_PATCH)


@st.composite
def tensors(draw):
    bits = draw(st.sampled_from((8, 4)))
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 19))
    group, limit = draw(st.integers(1, width)), 2 ** (bits - 1) - 1
    dtype, digits = draw(st.sampled_from([(np.float16, 16), (np.float32, 32)]))
    scale = st.floats(0, 6.0e4, width=digits)
    return QuantTensor(
        draw(arrays(np.int8, (rows, width), elements=st.integers(-limit, limit))),
        draw(arrays(dtype, (rows, -(-width // group)), elements=scale)),
        bits,
        group,
    )


dense = arrays(np.float16, st.tuples(st.integers(0, 5)), elements=st.floats(-9, 9, width=16))
names = st.lists(
    st.sampled_from('a b.weight bert.encoder.0.w Größe with"quote x/y head.a'.split()),  # noqa: SIM905
    min_size=4,
    max_size=4,
    unique=True,
)


@settings(deadline=None, max_examples=80)
@given(names, tensors(), tensors(), tensors(), dense)
def test_a_backbone_survives_a_round_trip(keys, one, two, three, vector):
    backbone = Backbone({keys[0]: one, keys[1]: two}, {keys[2]: three}, {keys[3]: vector})
    data = encode_backbone(backbone)
    found = decode_backbone(data)
    assert_same_backbone(found, backbone)
    assert encode_backbone(found) == data


@settings(deadline=None, max_examples=80)
@given(names, st.data())
def test_a_patch_survives_a_round_trip(keys, data):
    shape = st.tuples(st.integers(1, 4), st.integers(1, 19))
    masks = {
        name: BitMask.from_bool(data.draw(arrays(np.bool_, data.draw(shape)))) for name in keys[:2]
    }
    patch = Patch(masks, {name: data.draw(dense) for name in keys[2:]})
    encoded = encode_patch(patch, task="t", backbone_sha256=DIGEST)
    found = decode_patch(encoded, task="t", backbone_sha256=DIGEST)
    assert_same_patch(found, patch)
    assert encode_patch(found, task="t", backbone_sha256=DIGEST) == encoded


def test_the_order_in_which_parameters_come_does_not_change_the_bytes():
    sound, patch = make_backbone(), make_patch()

    def backwards(mapping):
        return dict(reversed(mapping.items()))

    turned = Backbone(backwards(sound.linears), backwards(sound.embeddings), backwards(sound.dense))
    assert encode_backbone(turned) == encode_backbone(sound)
    turned = Patch(backwards(patch.masks), backwards(patch.head))
    one, two = (encode_patch(value, task="t", backbone_sha256=DIGEST) for value in (patch, turned))
    assert one == two


def test_the_memory_layout_of_arrays_does_not_change_the_bytes():
    sound = make_backbone()
    linears = {
        name: replace(
            tensor,
            codes=np.asfortranarray(tensor.codes),
            scales=np.asfortranarray(tensor.scales),
        )
        for name, tensor in sound.linears.items()
    }
    apart = {name: np.repeat(tensor, 2)[::2] for name, tensor in sound.dense.items()}
    turned = replace(sound, linears=linears, dense=apart)
    assert not all(tensor.flags.c_contiguous for tensor in apart.values())
    assert encode_backbone(turned) == encode_backbone(sound)


SAME_BYTES = """
import hashlib, sys
from pathlib import Path
from dataclasses import replace
from formats_kit import *
from maskpack.formats import add_task

sound = make_backbone()
linears = {name: sound.linears[name] for name in {*sound.linears}}  # the order of a set
patch = make_patch(1)
patch = replace(patch, masks={name: patch.masks[name] for name in {*patch.masks}})
folder = Path(sys.argv[1])
create_artifact(
    folder,
    replace(sound, linears=linears),
    source=SOURCE,
    scheme=SCHEME,
    files={name: FILES[name] for name in {*FILES}},
    first=(make_entry("first", patch), patch),
)
add_task(folder, make_entry("second", patch), patch)
for name, data in tree(folder).items():
    print(name, hashlib.sha256(data).hexdigest())
"""


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path):
    one = run(SAME_BYTES, tmp_path / "one", PYTHONHASHSEED="1")
    two = run(SAME_BYTES, tmp_path / "two", PYTHONHASHSEED="2")
    assert one.count("\n") == 7
    assert one == two


def test_the_keys_of_a_backbone_say_what_each_tensor_is():
    data = encode_backbone(make_backbone())
    header = header_of(data)
    assert list(header.pop("__metadata__")) == ["maskpack"]
    assert {name: (spec["dtype"], spec["shape"]) for name, spec in header.items()} == {
        "layer.a.weight.codes": ("U8", [6, 7]),
        "layer.a.weight.scales": ("F16", [6, 3]),
        "layer.b.weight.codes": ("U8", [4, 6]),
        "layer.b.weight.scales": ("F16", [4, 1]),
        "words.weight.codes": ("U8", [7, 6]),
        "words.weight.scales": ("F16", [7, 1]),
        "layer.a.bias": ("F16", [6]),
        "norm.weight": ("F16", [6]),
    }
    assert meta_of(data)["tensors"]["layer.a.weight"] == {
        "role": "linear",
        "bits": 4,
        "group": 5,
        "shape": [6, 13],
    }


def test_the_keys_of_a_patch_say_what_each_tensor_is():
    data = encode_patch(make_patch(), task="mood", backbone_sha256=DIGEST)
    header = header_of(data)
    assert list(header.pop("__metadata__")) == ["maskpack"]
    assert {name: (spec["dtype"], spec["shape"]) for name, spec in header.items()} == {
        "layer.a.weight.mask": ("U8", [6, 2]),
        "layer.b.weight.mask": ("U8", [4, 1]),
        "head.out.weight": ("F16", [2, 6]),
        "head.out.bias": ("F16", [2]),
    }
    assert meta_of(data) == {
        "kind": "patch",
        "task": "mood",
        "backbone_sha256": DIGEST,
        "masks": {"layer.a.weight": [6, 13], "layer.b.weight": [4, 6]},
    }


def spec_with(**fields):
    return lambda meta, _: meta["tensors"]["layer.a.weight"].update(fields)


def spec_without(field):
    return lambda meta, _: meta["tensors"]["layer.a.weight"].pop(field)


def array_with(name, value):
    return lambda _, arrays: arrays.update({name: value})


def nan_in(name):
    def change(_, arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = np.nan

    return change


def or_last_byte(name, bits):
    """Set bits in the last byte of the first row, where the padding lies."""

    def change(_, arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][0, -1] |= bits

    return change


CODES, SCALES = "layer.a.weight.codes", "layer.a.weight.scales"
BAD_BACKBONES = {
    "no header": (lambda meta, _: meta.pop("tensors"), "header is wrong or incomplete.*tensors"),
    "no bits": (spec_without("bits"), "header is wrong or incomplete.*bits"),
    "no group": (spec_without("group"), "header is wrong or incomplete.*group"),
    "no shape": (spec_without("shape"), "header is wrong or incomplete.*shape"),
    "no role": (spec_without("role"), "header is wrong or incomplete.*role"),
    "unknown role": (spec_with(role="adapter"), "header is wrong or incomplete.*adapter"),
    "2 bits over 4": (spec_with(bits=2), "for 13 fields of 2 bits"),
    "1 bit": (spec_with(bits=1), "codes of 1 bits are not in this format unless zero-free"),
    "3 bits": (spec_with(bits=3), "codes of 3 bits are not in this format"),
    "8 bits over 4": (spec_with(bits=8), "for 13 fields of 8 bits"),
    "group of 0": (spec_with(group=0), "group of 0 weights"),
    "group too wide": (spec_with(group=14), "group of 14 weights in rows of 13"),
    "other group": (spec_with(group=4), "scales are float16"),
    "shape too wide": (spec_with(shape=[6, 15]), "for 15 fields of 4 bits"),
    "shape too high": (spec_with(shape=[7, 13]), r"its header says \[7, 13\]"),
    "shape of 1": (spec_with(shape=[13]), "wrong or incomplete"),
    "shape of 3": (spec_with(shape=[6, 13, 1]), r"\[6, 13, 1\] is not the shape of a matrix"),
    "negative shape": (spec_with(shape=[-6, 13]), r"its header says \[-6, 13\]"),
    "no codes": (lambda _, arrays: arrays.pop(CODES), "wrong or incomplete.*codes"),
    "no scales": (lambda _, arrays: arrays.pop(SCALES), "wrong or incomplete.*scales"),
    "other parameter": (
        lambda meta, _: meta["tensors"].update(ghost=meta["tensors"]["words.weight"]),
        "wrong or incomplete.*ghost",
    ),
    "no linear": (lambda meta, _: meta.update(tensors={}), "no weight that a mask could cover"),
    "tensors in a list": (lambda meta, _: meta.update(tensors=[]), "wrong or incomplete"),
    "kind": (lambda meta, _: meta.update(kind="patch"), "expected a backbone, found"),
    "no kind": (lambda meta, _: meta.pop("kind"), "expected a backbone, found"),
    "NaN scale": (nan_in(SCALES), "a scale is negative, infinite or not a number"),
    "double scales": (array_with(SCALES, np.ones((6, 3))), "scales are float64"),
    "signed codes": (array_with(CODES, np.zeros((6, 7), np.int8)), "packed rows are int8"),
    "flat codes": (array_with(CODES, np.zeros(42, np.uint8)), "packed rows are uint8"),
    "padding": (or_last_byte(CODES, 0x10), "a padding field of packed codes is not zero"),
    "code -8": (array_with(CODES, np.full((6, 7), 0x08, np.uint8)), r"outside \+-7 for 4 bits"),
    "code -128": (
        array_with("words.weight.codes", np.full((7, 6), 0x80, np.uint8)),
        r"outside \+-127 for 8 bits",
    ),
    "NaN dense": (nan_in("norm.weight"), "`norm.weight` of the backbone is not finite float16"),
    "wide dense": (array_with("norm.weight", np.ones(6, np.float32)), "not finite float16"),
}


@pytest.mark.parametrize(("change", "message"), BAD_BACKBONES.values(), ids=BAD_BACKBONES)
def test_a_backbone_with_a_broken_rule_is_refused(change, message):
    data = encode_backbone(make_backbone())
    assert_same_backbone(decode_backbone(rebuild(data, lambda *_: None)), make_backbone())
    with pytest.raises(ArtifactError, match=message):
        decode_backbone(rebuild(data, change))


def meta_with(**fields):
    return lambda meta, _: meta.update(fields)


MASK = "layer.a.weight.mask"
BAD_PATCHES = {
    "backbone": (meta_with(backbone_sha256=ZERO_SHA), "`t` was made for backbone 000000000000"),
    "no backbone": (lambda meta, _: meta.pop("backbone_sha256"), "made for backbone None"),
    "task": (meta_with(task="u"), "the patch of `t` says it is for `u`"),
    "no task": (lambda meta, _: meta.pop("task"), "says it is for `None`"),
    "kind": (meta_with(kind="backbone"), "expected a patch, found"),
    "no masks": (lambda meta, _: meta.pop("masks"), "header of patch `t` is wrong.*masks"),
    "masks in a list": (meta_with(masks=[]), "header of patch `t` is wrong"),
    "mask unlisted": (meta_with(masks={}), "holds the unknown tensor `layer.[ab].weight.mask`"),
    "mask missing": (lambda _, arrays: arrays.pop(MASK), "patch `t` is wrong.*mask"),
    "mask of 1": (meta_with(masks={"layer.a.weight": [6]}), "header of patch `t` is wrong"),
    "mask too wide": (meta_with(masks={"layer.a.weight": [6, 17]}), r"expected uint8 \(6, 3\)"),
    "mask too high": (meta_with(masks={"layer.a.weight": [7, 13]}), r"expected uint8 \(7, 2\)"),
    "mask of int8": (array_with(MASK, np.zeros((6, 2), np.int8)), "packed mask is int8"),
    "padding": (or_last_byte(MASK, 0x20), "a padding bit of a packed mask is set"),
    "stray tensor": (array_with("norm.weight", np.ones(1, np.float16)), "unknown tensor `norm"),
    "wide head": (array_with("head.x", np.ones(1, np.float32)), "`x` of the head is not finite"),
    "NaN head": (nan_in("head.out.bias"), "`out.bias` of the head is not finite float16"),
}


@pytest.mark.parametrize(("change", "message"), BAD_PATCHES.values(), ids=BAD_PATCHES)
def test_a_patch_with_a_broken_rule_is_refused(change, message):
    data = encode_patch(make_patch(), task="t", backbone_sha256=DIGEST)

    def decode(changed):
        return decode_patch(rebuild(data, changed), task="t", backbone_sha256=DIGEST)

    assert_same_patch(decode(lambda *_: None), make_patch())
    with pytest.raises(ArtifactError, match=message):
        decode(change)


def test_a_patch_of_another_backbone_says_what_to_do():
    with pytest.raises(ArtifactError) as got:
        decode_patch(encode_tiny_patch(), task="t", backbone_sha256=ZERO_SHA)
    assert "5a5a5a5a5a5a" in str(got.value)
    assert "the artifact it was learned in" in got.value.hint


FOREIGN = {
    "empty": b"",
    "short": b"\x10\x00",
    "text": b"this is not a safetensors file at all",
    "huge header": b"\xff" * 8 + b"{}",
    "header past the end": (99).to_bytes(8, "little") + b"{}",
    "header not JSON": (4).to_bytes(8, "little") + b"nope",
    "header not UTF-8": (4).to_bytes(8, "little") + b"\xff\xfe{}",
    "no metadata": save({"x": half(1.0)}),
    "metadata of others": save({"x": half(1.0)}, metadata={"format": "pt"}),
    **{
        f"metadata {text[:12]!r}": save({"x": half(1.0)}, metadata={"maskpack": text})
        for text in ("", "{", "[]", "null", "3", "{}", '"backbone"', "[" * 10**5, "9" * 5000)
    },
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_refused(data):
    with pytest.raises(ArtifactError, match=r"not a backbone of this format|expected a backbone"):
        decode_backbone(data)
    with pytest.raises(ArtifactError, match=r"not a patch of this format|expected a patch"):
        decode_patch(data, task="t", backbone_sha256=DIGEST)


def test_a_patch_is_not_taken_for_a_backbone_nor_the_other_way_round():
    with pytest.raises(ArtifactError, match="expected a backbone"):
        decode_backbone(encode_tiny_patch())
    with pytest.raises(ArtifactError, match="expected a patch"):
        decode_patch(encode_backbone(TINY), task="t", backbone_sha256=DIGEST)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "I64", "F64", "BOOL", "XX"])
def test_a_dtype_that_numpy_or_the_format_lacks_is_refused(dtype):
    size = {"BF16": 2, "I64": 8, "F64": 8}.get(dtype, 1)
    header = header_of(encode_backbone(TINY))
    end = max(spec["data_offsets"][1] for key, spec in header.items() if key != "__metadata__")
    header["odd"] = {"dtype": dtype, "shape": [1], "data_offsets": [end, end + size]}
    text = json.dumps(header).encode()
    body = encode_backbone(TINY)[-end:] + bytes(size)
    with pytest.raises(ArtifactError, match=r"not a backbone of this format|`odd` .* not finite"):
        decode_backbone(len(text).to_bytes(8, "little") + text + body)


def test_every_truncation_and_every_extension_is_refused():
    for data, decode in (
        (encode_backbone(TINY), decode_backbone),
        (
            encode_tiny_patch(),
            lambda data: decode_patch(data, task="t", backbone_sha256=DIGEST),
        ),
    ):
        decode(data)
        for end in range(len(data)):
            with pytest.raises(ArtifactError, match="of this format"):
                decode(data[:end])
        with pytest.raises(ArtifactError, match="of this format"):
            decode(data + b"\0")
