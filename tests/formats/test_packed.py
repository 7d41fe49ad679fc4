"""Packed patches: one small file is the whole task, or nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    assert_same_patch,
    make_backbone,
    make_entry,
    make_patch,
    meta_of,
    rebuild,
    run,
    tree,
)
from packed_reader import read_gaps, read_packed
from safetensors.numpy import load
from spec_reader import read_artifact

import maskpack.formats
from maskpack.formats import (
    ArtifactError,
    BitMask,
    Patch,
    create_artifact,
    difference,
    open_artifact,
    pack_task,
    remove_task,
    unpack_task,
)
from maskpack.formats.packed import decode_packed, encode_packed, without_idle_bits

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "v1-packed"
DIGESTS = {
    "README.md": "5125891e573f4b217c7bbd5cdaa8221752d92c4c48743189bb370bdcdc414e02",
    "backbone.safetensors": "46b40fa048acdb7e6750979f0ab705868f5ec327f85e3db59851f4435fa78ebc",
    "follows.patch": "68e20791b300076e96e7daa0f8bf24ee51f18a87819575185e02a5edf9598b76",
    "maskpack.json": "bad9e4756e986d8dee691be72ff3acffd74027d495da7356ccc0020d93bb88a1",
    "plain.patch": "589135f9fe54a821c418b34589b6f2f81fca4add223ef82b821ba8040dfd7635",
    "tasks/follows.safetensors": "8f0063efff7cb2b61d3c544ef47742de774041e0e074d17c09f4e78b9ab327f6",
    "tasks/plain.safetensors": "33b031863320f9c56c00caded0618ed3594a8604098620ed24aed5cd82a2d205",
}
TASKS = ("follows", "plain")


def test_the_golden_files_were_never_rewritten():
    found = {name: hashlib.sha256(data).hexdigest() for name, data in tree(FOLDER).items()}
    assert found == DIGESTS


@pytest.mark.parametrize("task", TASKS)
def test_a_task_packs_to_its_golden_bytes_and_unpacks_to_its_values(task):
    artifact, data = open_artifact(FOLDER), (FOLDER / f"{task}.patch").read_bytes()
    assert pack_task(artifact, task) == data
    entry, patch = decode(FOLDER, data)
    assert_same_patch(patch, artifact.patch(task))
    assert replace(entry, sha256=artifact.entry(task).sha256) == artifact.entry(task)


def test_every_coding_is_among_the_golden_files():
    letters = [meta_of((FOLDER / f"{task}.patch").read_bytes())["codings"] for task in TASKS]
    assert set("".join(letters)) == set("-kgrm")


@pytest.mark.parametrize("task", TASKS)
def test_a_reader_written_from_the_page_agrees_on_every_bit(task):
    linears, _, _, _ = read_artifact(FOLDER)
    manifest = open_artifact(FOLDER).manifest
    data = (FOLDER / f"{task}.patch").read_bytes()
    meta, keep, rest = read_packed(data, linears, manifest.backbone_sha256, dict(manifest.files))
    patch = open_artifact(FOLDER).patch(task)
    assert meta["task"] == task
    assert set(keep) == set(patch.masks)
    assert all(np.array_equal(patch.masks[name].to_bool(), rows) for name, rows in keep.items())
    assert {name: value.tobytes() for name, value in rest.items()} == {
        f"{prefix}.{name}": value.tobytes()
        for prefix in ("head", "dense", "gains")
        for name, value in getattr(patch, prefix).items()
    }


def test_the_page_s_gaps_are_those_of_the_second_reader():
    spec = (Path(maskpack.formats.__file__).parent / "SPEC.md").read_text("utf-8")
    lines = spec.partition("```gaps\n")[2].partition("```")[0].splitlines()
    assert len(lines) == 3
    for line in lines:
        told, coded = line.split(" -> ")
        rice, gaps = told.split(": ")
        positions = np.cumsum([int(gap) + 1 for gap in gaps.split()]) - 1
        data = np.frombuffer(bytes.fromhex(coded.replace(" ", "")), np.uint8)
        gone = read_gaps(data, len(positions), int(rice), [[1] * 20])
        assert np.array_equal(np.flatnonzero(gone[0]), positions)


def make_clean(folder):
    """An artifact with one task, whose mask has no 0 over a code that is 0."""
    backbone = make_backbone()
    patch = without_idle_bits(make_patch(), backbone)
    first = (make_entry("first", patch), patch)
    return create_artifact(folder, backbone, source=SOURCE, scheme=SCHEME, files=FILES, first=first)


@pytest.fixture
def pair(tmp_path):
    """An artifact with a task, and its only task packed."""
    return tmp_path / "a", pack_task(make_clean(tmp_path / "a"), "first")


def test_what_was_packed_and_removed_comes_back_byte_for_byte(pair, tmp_path):
    folder, data = pair
    before = make_clean(tmp_path / "b")
    remove_task(folder, "first")
    assert open_artifact(folder).manifest.tasks == {}
    assert difference(unpack_task(folder, data), before).empty
    assert tree(folder) == tree(tmp_path / "b")


def test_a_task_can_come_back_under_another_name(pair):
    folder, data = pair
    artifact = unpack_task(folder, data, name="again")
    assert_same_patch(artifact.patch("again"), artifact.patch("first"))
    assert artifact.entry("again").scores == artifact.entry("first").scores
    with pytest.raises(ArtifactError, match="already has a task `again`"):
        unpack_task(folder, data, name="again")
    unpack_task(folder, data, name="again", replacing=True)


def decode(folder, data):
    artifact = open_artifact(folder)
    return decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)


def test_idle_bits_are_set_before_anything_is_counted(pair):
    folder, _ = pair
    artifact = open_artifact(folder)
    name = "layer.a.weight"
    idle = artifact.backbone.linears[name].codes == 0
    assert idle.any()
    patch = artifact.patch("first")
    masks = {**patch.masks, name: BitMask.from_bool(~idle)}
    entry = replace(artifact.entry("first"), zeros=Patch(masks, {}).count.zeros)
    data = encode_packed(
        replace(patch, masks=masks), entry, backbone=artifact.backbone, manifest=artifact.manifest
    )
    found, read = decode(folder, data)
    assert read.masks[name].zeros == 0
    assert found.zeros == read.count.zeros < entry.zeros


def test_another_backbone_is_refused(pair):
    _, data = pair
    with pytest.raises(ArtifactError, match="was made for backbone") as caught:
        decode(FOLDER, data)
    assert "same backbone" in caught.value.hint


def with_meta(**changes):
    return lambda meta, _: meta.update(changes)


WRONG = {
    "a later version": (with_meta(version=3), "version 3 of packed patches"),
    "the version of other masks": (
        with_meta(version=2),
        "has version 2, its masks are those of version 1",
    ),
    "a version that is no number": (with_meta(version=True), "version True"),
    "another kind": (with_meta(kind="patch"), "expected a packed-patch"),
    "no entry": (lambda meta, _: meta.pop("entry"), "lacks the field `entry`"),
    "one field more": (with_meta(more=1), "the field `more`"),
    "other files": (with_meta(files_sha256="0" * 64), "another tokenizer or configuration"),
    "an entry with a file": (
        lambda meta, _: meta["entry"].update(file="tasks/first.safetensors"),
        "describes its task wrongly",
    ),
    "a task that is a number": (with_meta(task=5), "describes its task wrongly"),
    "codings as a list": (with_meta(codings=["g", "g"]), "`codings` is no text"),
    "gaps as an object": (with_meta(gaps={}), "`gaps` no list"),
    "a number that is none": (
        lambda meta, _: meta["entry"]["training"].update(lr=float("nan")),
        "not finite",
    ),
    "a score beyond all numbers": (
        lambda meta, _: meta["entry"]["scores"].update(accuracy=10**400),
        "not a finite number",
    ),
    "half a letter": (
        lambda meta, _: meta["entry"]["data"].update(name="\ud800"),
        "is not a text",
    ),
    "data nested too deep": (
        lambda meta, _: meta["entry"].update(data=json.loads('{"a":' * 30 + "1" + "}" * 30)),
        "nested more than 20 deep",
    ),
    "an entry with a wrong type": (
        lambda meta, _: meta["entry"].update(zeros="1"),
        "`tasks.first.zeros` is not a whole number",
    ),
    "a changed label": (lambda meta, _: meta["entry"].update(labels=["a", "b"]), "is damaged"),
    "no digest": (lambda meta, _: meta.pop("sha256"), "lacks the field `sha256`"),
    "a head of another shape": (
        lambda _, arrays: arrays.update(
            {"head.out.weight": arrays["head.out.weight"].reshape(-1, 1)}
        ),
        "is damaged",
    ),
    "too few codings": (with_meta(codings="g"), "1 codings"),
    "an unknown coding": (with_meta(codings="xx", gaps=[]), "header of packed patch"),
    "a task that may not be named so": (with_meta(task="../x"), "cannot name a task"),
    "lanes without a stream": (with_meta(lanes=128), "does not go with its masks"),
    "lanes that are not allowed": (with_meta(lanes=3), "does not go with its masks"),
    "gaps of another number": (with_meta(gaps=[[1, 1]] * 7), "do not describe"),
    "an unknown tensor": (
        lambda _, arrays: arrays.update(more=np.zeros(1, np.float16)),
        "unknown tensor `more`",
    ),
    "a head that is not finite": (
        lambda _, arrays: arrays.update({"head.out.bias": np.full(2, np.nan, np.float16)}),
        "not finite",
    ),
    "a changed head": (
        lambda _, arrays: arrays.update({"head.out.bias": np.ones(2, np.float16)}),
        "is damaged",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_by_name(pair, name):
    folder, data = pair
    change, message = WRONG[name]
    with pytest.raises(ArtifactError, match=message):
        decode(folder, rebuild(data, change))


def test_a_damaged_byte_of_a_coded_mask_is_noticed():
    """Each of the first bytes, and of the rest one in a prime number of them."""
    data = (FOLDER / "follows.patch").read_bytes()
    start = len(data) - load(data)["masks.stream"].nbytes
    for place in [*range(start, start + 48), *range(start, len(data), 211)]:
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(ArtifactError):
            decode(FOLDER, bytes(damaged))


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.99])
def test_half_a_file_is_refused(pair, keep):
    folder, data = pair
    cut = keep if isinstance(keep, int) else int(keep * len(data))
    with pytest.raises(ArtifactError):
        decode(folder, data[:cut])


def test_the_same_task_packs_to_the_same_bytes_whatever_the_hash_seed_and_threads():
    script = """
import sys, hashlib
from pathlib import Path
from maskpack.formats import open_artifact, pack_task
print(hashlib.sha256(pack_task(open_artifact(Path(sys.argv[1])), "follows")).hexdigest())
"""
    found = {
        run(script, FOLDER, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads)
        for seed, threads in (("0", "1"), ("77", "2"))
    }
    assert found == {DIGESTS["follows.patch"] + "\n"}


def test_the_header_holds_nothing_but_what_the_page_names():
    meta = meta_of((FOLDER / "plain.patch").read_bytes())
    spec = (Path(maskpack.formats.__file__).parent / "SPEC.md").read_text("utf-8")
    example = spec.partition("## 9.")[2].partition("```json\n")[2].partition("```")[0]
    assert set(json.loads(example)) == set(meta)
