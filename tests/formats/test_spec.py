"""SPEC.md is true: a second reader written from it agrees, and so does every example in it.

The reader is `spec_reader.py`, which shares no code with `maskpack.formats`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from formats_kit import make_artifact, make_entry, make_patch, meta_of, tree
from safetensors.numpy import load
from spec_reader import (
    Linear,
    RefusedError,
    read_artifact,
    read_backbone,
    read_codes,
    read_fields,
    read_file,
    read_masks,
    read_units,
    weights_of_task,
)

import maskpack.formats
from maskpack.formats import (
    ArtifactError,
    Manifest,
    Scheme,
    Source,
    TaskEntry,
    add_task,
    checks,
    open_artifact,
    schema,
)
from maskpack.formats.units import COLUMNS, UnitGroup, UnitPart, Units

SPEC = (Path(maskpack.formats.__file__).parent / "SPEC.md").read_text("utf-8")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artifact with two tasks, one of them replaced."""
    folder = make_artifact(tmp_path_factory.mktemp("spec") / "artifact").path
    for seed, options in ((5, {}), (6, {"replacing": True})):
        patch = make_patch(seed)
        add_task(folder, make_entry("second", patch), patch, **options)
    return folder


def bytes_of(tensors):
    return {name: value.tobytes() for name, value in tensors.items()}


def folder_of(which, made):
    return made if which == "made" else GOLDEN / which


FOLDERS = {
    "made": 2,
    "v1": 2,
    "v1-low-bits": 3,
    "v1-units": 2,
    "v1-rows": 1,
    "v1-drawn": 1,
}


@pytest.mark.parametrize("which", FOLDERS)
def test_a_reader_written_from_the_page_agrees_on_every_weight_of_the_backbone(made, which):
    linears, embeddings, dense, _ = read_artifact(folder_of(which, made))
    backbone = open_artifact(folder_of(which, made)).backbone
    for ours, theirs in ((linears, backbone.linears), (embeddings, backbone.embeddings)):
        assert set(ours) == set(theirs)
        assert linears
        for name, linear in ours.items():
            assert linear.weights.tobytes() == theirs[name].dequantize().tobytes()
    assert bytes_of(dense) == bytes_of(backbone.dense)


@pytest.mark.parametrize(("which", "tasks"), FOLDERS.items())
def test_a_reader_written_from_the_page_agrees_on_every_weight_and_bit_of_a_task(
    made, which, tasks
):
    linears, _, dense, patches = read_artifact(folder_of(which, made))
    artifact = open_artifact(folder_of(which, made))
    assert set(patches) == set(artifact.manifest.tasks)
    assert len(patches) == tasks
    for task, (masks, head, own_dense, gains) in patches.items():
        patch = artifact.patch(task)
        assert set(masks) == set(patch.masks)
        for name, keep in masks.items():
            np.testing.assert_array_equal(keep, patch.masks[name].to_bool())
        assert bytes_of(head) == bytes_of(patch.head)
        own = patch.over(artifact.backbone)
        assert bytes_of({**dense, **own_dense}) == bytes_of(own.dense)
        for name, linear in linears.items():
            weights = weights_of_task(linear, masks.get(name), gains.get(name))
            np.testing.assert_array_equal(weights, own.linears[name].dequantize())


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


def code_examples():
    """Width, whether zero-free, numbers and bytes of the rows `2 zero-free: -3 1 -> 08`."""
    (block,) = blocks("codes")
    for line in block.splitlines():
        kind, colon, row = line.partition(": ")
        assert colon, line
        numbers, data = row.split(" -> ")
        bits, *free = kind.split()
        assert free in ([], ["zero-free"])
        yield int(bits), bool(free), [int(n) for n in numbers.split()], bytes.fromhex(data)


def examples(language):
    """Numbers and bytes of the worked examples `1 0 1 -> 05` of a language."""
    (block,) = blocks(language)
    lines = block.splitlines()
    assert len(lines) >= 1
    for line in lines:
        numbers, arrow, data = line.partition(" -> ")
        assert arrow, line
        yield [int(number) for number in numbers.split()], bytes.fromhex(data)


MASK_ROWS = list(examples("bits"))
CODE_ROWS = list(code_examples())


@pytest.mark.parametrize(("numbers", "data"), MASK_ROWS)
def test_every_example_of_a_row_of_mask_bits_is_true(numbers, data):
    assert maskpack.formats.bits.pack_bits(np.array([numbers], dtype=bool)).tobytes() == data
    assert read_fields(list(data), len(numbers), 1) == numbers


@pytest.mark.parametrize(("bits", "zero_free", "numbers", "data"), CODE_ROWS)
def test_every_example_of_a_row_of_codes_is_true(bits, zero_free, numbers, data):
    packed = np.frombuffer(data, np.uint8).reshape(1, -1)
    codes = np.array([numbers], dtype=np.int8)
    written = maskpack.formats.bits.pack_codes(codes, bits, zero_free=zero_free)
    assert written.tobytes() == data
    assert read_codes(packed, len(numbers), bits, zero_free) == [numbers]


def test_every_arrow_on_the_page_is_an_example_that_is_checked():
    gaps = blocks("gaps")[0].strip().splitlines()  # checked in test_packed.py
    assert SPEC.count("->") == len(MASK_ROWS) + len(CODE_ROWS) + len(gaps)
    assert len(MASK_ROWS) >= 4
    kinds = {(8, False), (4, False), (3, True), (2, False), (2, True), (1, True)}
    assert {(bits, zero_free) for bits, zero_free, _, _ in CODE_ROWS} == kinds
    known = {"bits", "codes", "json", "backbone-header", "backbone-data", "patch-data", "gaps"}
    known |= {"units-header", "units-data"}
    assert set(re.findall(r"^```(.+)$", SPEC, re.MULTILINE)) == known


def test_a_field_that_the_page_calls_no_code_is_refused_by_both_readers():
    for bits, field in ((2, 2), (4, 8), (8, 128)):
        packed = np.array([[field]], dtype=np.uint8)
        with pytest.raises(RefusedError, match="code out of range"):
            read_codes(packed, 1, bits, zero_free=False)
        codes = maskpack.formats.bits.unpack_codes(packed, bits, 1)
        with pytest.raises(ArtifactError, match="lies outside"):
            maskpack.formats.QuantTensor(codes, half([1.0]), bits, 1)
        assert f"{int(codes[0, 0])} of {bits} bits" in SPEC


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
    weights = linears["l"].weights
    assert weights.tolist() == [[0.5, -0.5, 14.0]]
    assert embeddings["e"].weights.tolist() == [[127.0, -127.0]]
    assert dense["b"].tolist() == [-1.0]
    assert "`0.5 -0.5 14.0`" in SPEC
    keep = read_fields([0x05], 3, 1)
    assert keep == [1, 0, 1]
    assert (weights * keep).tolist() == [[0.5, 0.0, 14.0]]
    own = weights_of_task(linears["l"], np.array([keep], bool), half(3.0))
    assert own.tolist() == [[1.5, 0.0, 42.0]]
    assert "the task's weights are `1.5 0.0 42.0`" in SPEC
    assert "`1 0 1` over `l` of section 4 is `05` and gives `0.5 0.0 14.0`" in SPEC


def test_the_worked_patch_is_what_the_writer_writes():
    mask = maskpack.formats.BitMask.from_bool(np.array([[True, False, True]]))
    plain = maskpack.formats.Patch({"l": mask}, {"w": half([1.0, -2.0])})
    own = replace(plain, dense={"b": half(0.25)}, gains={"l": half(3.0)})
    (lines,) = blocks("patch-data")
    for patch, data in zip((plain, own), lines.splitlines(), strict=True):
        written = maskpack.formats.codec.encode_patch(patch, task="t", backbone_sha256="0" * 64)
        end = 8 + int.from_bytes(written[:8], "little")
        assert written[end:] == bytes.fromhex(data)
    assert re.search(r"With `dense.b`\s`0.25` and `gains.l` `3.0` as well it is the second", SPEC)
    assert "a head `[[1.0, -2.0]]`" in SPEC


def test_the_worked_units_are_what_the_writer_writes_and_both_readers_read(tmp_path):
    mask, part = maskpack.formats.BitMask.from_bool, UnitPart("l", COLUMNS, 0, 1)
    units = Units((UnitGroup("neurons", 0, 3, (part,)),), (np.array([False, True, True]),))
    (header,), (lines,) = blocks("units-header"), blocks("units-data")
    linear = Linear([[1, -1, 7]], half([0.5, 2.0]), 2)
    wanted = (([0, 1, 1], [0.0, -0.5, 14.0]), ([0, 0, 1], [0.0, 0.0, 14.0]))
    for (keep, weights), data in zip(wanted, lines.splitlines(), strict=True):
        masks = {"l": mask(np.array([keep], dtype=bool))}
        patch = maskpack.formats.Patch(masks, {"w": half([1.0, -2.0])}, units=units)
        written = maskpack.formats.codec.encode_patch(patch, task="t", backbone_sha256="0" * 64)
        end = 8 + int.from_bytes(written[:8], "little")
        assert written[end:] == bytes.fromhex(data)
        arrays, meta = load(written), meta_of(written)
        alone, losing = read_units(meta["units"], arrays, {"l": linear})
        found = read_masks(meta, arrays, {"l": linear}, alone, losing)
        assert found["l"].astype(int).tolist() == [keep]
        assert weights_of_task(linear, found["l"], None).tolist() == [weights]
        if keep == [0, 1, 1]:
            told = {**json.loads(header), "backbone_sha256": "0" * 64, "task": "t"}
            assert meta == told
            one_line = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"))
            assert one_line == header.replace("\n", "")
    assert "bits `0 1 1`" in SPEC
    assert "With the mask `0 0 1` as well it is the second" in SPEC
    assert "weights are `0.0 -0.5 14.0`" in SPEC
    assert "they are `0.0 0.0 14.0`" in SPEC


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
        "requires",
    }
    found = table_fields("## 2.", "Version 1 grows")
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_page_names_exactly_the_features():
    assert set(table_fields("Version 1 grows", "`kind` says")) == schema.FEATURES


def test_the_page_names_the_metadata_that_the_writer_writes(made):
    for name, (block,) in (
        ("backbone.safetensors", blocks("json")[:1]),
        ("tasks/first.safetensors", blocks("json")[2:3]),
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
    expected = [schema.TASK_NAME, schema.PATCH_FILE, schema.COPIED_FILE, checks.SHA256]
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
    assert len(SPEC.splitlines()) < 480
    numbers = [int(number) for number in re.findall(r"^## (\d)\. ", SPEC, re.MULTILINE)]
    assert numbers[0] == 1
    assert all(two == one + 1 for one, two in pairwise(numbers))
