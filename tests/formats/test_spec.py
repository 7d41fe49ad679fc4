"""SPEC.md is true: a second reader written from it agrees, and so does every example in it.

The reader in this file shares no code with `maskpack.formats`. If it and the package disagree, one of
them is wrong or the page is.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from formats_kit import make_artifact, make_entry, make_patch, tree
from safetensors.numpy import load

import maskpack.formats
from maskpack.formats import Manifest, Scheme, Source, TaskEntry, add_task, open_artifact, schema

SPEC = (Path(maskpack.formats.__file__).parent / "SPEC.md").read_text("utf-8")
GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


class RefusedError(Exception):
    """The second reader's only error."""


def need(condition, what):
    if not condition:
        raise RefusedError(what)


def no_key_twice(pairs):
    need(len(dict(pairs)) == len(pairs), "a key twice")
    return dict(pairs)


def read_file(folder, name, digest):
    """Section 6: the digest first. Tensors and metadata of one file."""
    data = (folder / name).read_bytes()
    need(hashlib.sha256(data).hexdigest() == digest, f"digest of {name}")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["maskpack"])


def read_fields(row, width, bits):
    """Section 3: unsigned fields of one row of bytes, bit by bit."""
    need(len(row) == -(-width * bits // 8), "bytes of a row")
    stream = [row[n // 8] >> (n % 8) & 1 for n in range(len(row) * 8)]
    need(not any(stream[width * bits :]), "padding")
    return [sum(stream[k * bits + n] << n for n in range(bits)) for k in range(width)]


def read_codes(packed, width, bits):
    half, full = 2 ** (bits - 1), 2**bits
    rows = [read_fields(row.tolist(), width, bits) for row in packed]
    signed = [[field - full if field >= half else field for field in row] for row in rows]
    need(all(code != -half for row in signed for code in row), "code out of range")
    return signed


def read_weights(codes, scales, group):
    """Section 4: one multiplication in float32 a weight."""
    return np.array(
        [
            [np.float32(code) * np.float32(scales[r, c // group]) for c, code in enumerate(row)]
            for r, row in enumerate(codes)
        ],
        dtype=np.float32,
    )


def read_backbone(folder, manifest):
    arrays, meta = read_file(folder, "backbone.safetensors", manifest["backbone"]["sha256"])
    need(meta["kind"] == "backbone", "kind")
    weights = {"linear": {}, "embedding": {}}
    for name, spec in meta["tensors"].items():
        (rows, width), bits, group = spec["shape"], spec["bits"], spec["group"]
        packed, scales = arrays.pop(f"{name}.codes"), arrays.pop(f"{name}.scales")
        need(bits in {4, 8} and 1 <= group <= width, "layout")
        need(packed.dtype == np.uint8 and len(packed) == rows, "codes")
        need(scales.dtype in (np.float16, np.float32), "dtype of scales")
        need(scales.shape == (rows, -(-width // group)), "shape of scales")
        need(np.isfinite(scales).all() and (scales >= 0).all(), "scales")
        weights[spec["role"]][name] = read_weights(read_codes(packed, width, bits), scales, group)
    need(weights["linear"], "no linear")
    need(all(a.dtype == np.float16 and np.isfinite(a).all() for a in arrays.values()), "dense")
    return weights["linear"], weights["embedding"], arrays


def read_patch(folder, manifest, task, linears):
    entry = manifest["tasks"][task]
    arrays, meta = read_file(folder, entry["file"], entry["sha256"])
    need(meta["kind"] == "patch" and meta["task"] == task, "another task")
    need(meta["backbone_sha256"] == manifest["backbone"]["sha256"], "another backbone")
    need(set(meta["masks"]) == set(linears), "masks")
    masks = {}
    for name, (rows, width) in meta["masks"].items():
        packed = arrays.pop(f"{name}.mask")
        need(packed.dtype == np.uint8 and (rows, width) == linears[name].shape, "mask")
        masks[name] = np.array([read_fields(row.tolist(), width, 1) for row in packed], dtype=bool)
    need(all(name.startswith("head.") for name in arrays), "stray tensor")
    need(all(a.dtype == np.float16 and np.isfinite(a).all() for a in arrays.values()), "head")
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    need(
        (entry["zeros"], entry["weights"]) == (zeros, sum(m.size for m in masks.values())), "zeros"
    )
    return masks, {name.removeprefix("head."): value for name, value in arrays.items()}


def read_artifact(folder):
    """Everything in an artifact, by SPEC.md alone."""
    text = (folder / "maskpack.json").read_bytes().decode("utf-8")
    manifest = json.loads(text, object_pairs_hook=no_key_twice)
    version = manifest["format_version"]
    need(manifest["format"] == "maskpack" and type(version) is int and version == 1, "version")
    for name, digest in manifest["files"].items():
        need(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name), "name")
        need(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name)
    for task, entry in manifest["tasks"].items():
        match = re.fullmatch(
            r"tasks/([a-z0-9][a-z0-9._-]{0,63}?)(\.r[1-9][0-9]*)?\.safetensors", entry["file"]
        )
        need(match and match[1] == task, "file of a task")
    linears, embeddings, dense = read_backbone(folder, manifest)
    patches = {task: read_patch(folder, manifest, task, linears) for task in manifest["tasks"]}
    return linears, embeddings, dense, patches


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artifact with two tasks, one of them replaced."""
    folder = make_artifact(tmp_path_factory.mktemp("spec") / "artifact").path
    for seed, options in ((5, {}), (6, {"replacing": True})):
        patch = make_patch(seed)
        add_task(folder, make_entry("second", patch), patch, **options)
    return folder


@pytest.mark.parametrize("which", ["made", "golden"])
def test_a_reader_written_from_the_page_agrees_on_every_weight_and_bit(made, which):
    folder = made if which == "made" else GOLDEN
    linears, embeddings, dense, patches = read_artifact(folder)
    artifact = open_artifact(folder)
    backbone = artifact.backbone
    for ours, theirs in ((linears, backbone.linears), (embeddings, backbone.embeddings)):
        assert set(ours) == set(theirs)
        assert ours
        for name, weights in ours.items():
            assert weights.tobytes() == theirs[name].dequantize().tobytes()
    assert {name: value.tobytes() for name, value in dense.items()} == {
        name: value.tobytes() for name, value in backbone.dense.items()
    }
    assert set(patches) == set(artifact.manifest.tasks)
    assert len(patches) == 2
    for task, (masks, head) in patches.items():
        patch = artifact.patch(task)
        assert set(masks) == set(patch.masks)
        for name, keep in masks.items():
            np.testing.assert_array_equal(keep, patch.masks[name].to_bool())
            masked = patch.masks[name].apply(backbone.linears[name]).dequantize()
            np.testing.assert_array_equal(np.where(keep, linears[name], 0), masked)
        assert {name: value.tobytes() for name, value in head.items()} == {
            name: value.tobytes() for name, value in patch.head.items()
        }


@pytest.mark.parametrize("name", ["backbone.safetensors", "tasks/second.r1.safetensors"])
def test_the_reader_written_from_the_page_refuses_damage(made, tmp_path, name):
    for file, data in tree(made).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(data[:-1] + b"\xff" if file == name else data)
    with pytest.raises(RefusedError, match=f"digest of {name}"):
        read_artifact(tmp_path)


def blocks(language):
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", SPEC, re.DOTALL)


def examples(language):
    """Numbers and bytes of the worked examples `1 0 1 -> 05` of a language."""
    (block,) = blocks(language)
    lines = block.splitlines()
    assert len(lines) >= 1
    for line in lines:
        numbers, arrow, data = line.partition(" -> ")
        assert arrow, line
        yield [int(number) for number in numbers.split()], bytes.fromhex(data)


EXAMPLES = [
    (bits, numbers, data)
    for language, bits in (("bits", 1), ("codes4", 4), ("codes8", 8))
    for numbers, data in examples(language)
]


@pytest.mark.parametrize(("bits", "numbers", "data"), EXAMPLES)
def test_every_example_of_a_row_is_true(bits, numbers, data):
    array, packed = np.array([numbers]), np.frombuffer(data, np.uint8).reshape(1, -1)
    if bits == 1:
        assert maskpack.formats.bits.pack_bits(array.astype(bool)).tobytes() == data
        assert read_fields(list(data), len(numbers), 1) == numbers
    else:
        assert maskpack.formats.bits.pack_codes(array.astype(np.int8), bits).tobytes() == data
        assert read_codes(packed, len(numbers), bits) == [numbers]


def test_every_arrow_on_the_page_is_an_example_that_is_checked():
    assert SPEC.count("->") == len(EXAMPLES)
    assert len(EXAMPLES) >= 8
    known = {"bits", "codes4", "codes8", "json", "backbone-header", "backbone-data", "patch-data"}
    assert set(re.findall(r"^```(.+)$", SPEC, re.MULTILINE)) == known


def worked_backbone():
    """The file that section 4 spells out."""
    (header,), (data,) = blocks("backbone-header"), blocks("backbone-data")
    length = re.search(r"header length \(`([0-9a-f ]+)`\)", SPEC).group(1)
    spaces = int(re.search(r"(\d+) spaces", SPEC).group(1))
    text = header.replace("\n", "").encode() + b" " * spaces
    assert len(text) == int.from_bytes(bytes.fromhex(length), "little")
    return bytes.fromhex(length) + text + bytes.fromhex(data)


def half(*values):
    return np.array(values, dtype=np.float16)


def test_the_worked_backbone_is_what_the_writer_writes():
    tensor = maskpack.formats.QuantTensor
    backbone = maskpack.formats.Backbone(
        {"l": tensor(np.array([[1, -1, 7]], np.int8), half([0.5, 2.0]), 4, 2)},
        {"e": tensor(np.array([[127, -127]], np.int8), half([1.0]), 8, 2)},
        {"b": half(-1.0)},
    )
    assert maskpack.formats.codec.encode_backbone(backbone) == worked_backbone()


def test_the_worked_weights_and_the_worked_mask_are_true(tmp_path):
    (tmp_path / "backbone.safetensors").write_bytes(worked_backbone())
    digest = hashlib.sha256(worked_backbone()).hexdigest()
    linears, embeddings, dense = read_backbone(tmp_path, {"backbone": {"sha256": digest}})
    assert linears["l"].tolist() == [[0.5, -0.5, 14.0]]
    assert embeddings["e"].tolist() == [[127.0, -127.0]]
    assert dense["b"].tolist() == [-1.0]
    assert "`0.5 -0.5 14.0`" in SPEC
    keep = read_fields([0x05], 3, 1)
    assert keep == [1, 0, 1]
    assert (linears["l"] * keep).tolist() == [[0.5, 0.0, 14.0]]
    assert "`1 0 1` over `l` of section 4 is `05` and gives `0.5 0.0 14.0`" in SPEC


def test_the_worked_patch_is_what_the_writer_writes():
    mask = maskpack.formats.BitMask.from_bool(np.array([[True, False, True]]))
    patch = maskpack.formats.Patch({"l": mask}, {"w": half([1.0, -2.0])})
    written = maskpack.formats.codec.encode_patch(patch, task="t", backbone_sha256="0" * 64)
    (data,) = blocks("patch-data")
    end = 8 + int.from_bytes(written[:8], "little")
    assert written[end:] == bytes.fromhex(data)
    assert "a head `[[1.0, -2.0]]`" in SPEC


def table_fields(start, end):
    """First cells, in back quotes, of the table rows between two headings."""
    part = SPEC[SPEC.index(start) : SPEC.index(end)]
    return re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)


def test_the_page_names_exactly_the_fields_of_the_manifest():
    entry = [field.name for field in fields(TaskEntry) if field.name != "name"]
    expected = {
        "format",
        "format_version",
        *(f"source.{field.name}" for field in fields(Source)),
        *(f"scheme.{field.name}" for field in fields(Scheme)),
        "backbone.file",
        "backbone.sha256",
        "files.<file>",
        *(f"tasks.<name>.{name}" for name in entry),
    }
    found = table_fields("## 2.", "## 3.")
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_page_names_the_metadata_that_the_writer_writes(made):
    for name, (block,) in (
        ("backbone.safetensors", blocks("json")[:1]),
        ("tasks/first.safetensors", blocks("json")[1:]),
    ):
        written = read_file(made, name, hashlib.sha256((made / name).read_bytes()).hexdigest())[1]
        example = json.loads(block)
        assert json.dumps(example, sort_keys=True, separators=(",", ":")) == block.strip()
        assert set(example) == set(written)
        if name == "backbone.safetensors":
            (spec,) = example["tensors"].values()
            for found in written["tensors"].values():
                assert set(found) == set(spec)


def test_the_names_on_the_page_are_the_names_in_the_code():
    part = SPEC[SPEC.index("| what | expression |") : SPEC.index("## 2.")]
    found = re.findall(r"^\| [a-zA-Z0-9- ]+ \| `(.+)` \|$", part, re.MULTILINE)
    expected = [schema.TASK_NAME, schema.PATCH_FILE, schema.COPIED_FILE, schema.SHA256]
    assert found == [pattern.pattern for pattern in expected]
    assert f"format version {schema.FORMAT_VERSION}" in SPEC.splitlines()[0]
    for name in (schema.MANIFEST, schema.BACKBONE, schema.CARD, schema.CONFIG, schema.TASK_FOLDER):
        assert f"`{name}" in SPEC


def test_the_rules_for_json_on_the_page_are_those_of_the_code(made):
    text = (made / "maskpack.json").read_text("utf-8")
    manifest = json.loads(text)
    assert json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n" == text
    one_line = json.dumps(manifest)
    more = json.dumps({**manifest, "note": 1})
    assert Manifest.from_json(one_line) == Manifest.from_json(more) == Manifest.from_json(text)


def test_the_page_stays_short_and_its_sections_are_numbered_in_order():
    assert len(SPEC.splitlines()) < 220
    numbers = [int(number) for number in re.findall(r"^## (\d)\. ", SPEC, re.MULTILINE)]
    assert numbers[0] == 1
    assert all(two == one + 1 for one, two in pairwise(numbers))
