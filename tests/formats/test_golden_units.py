"""The artifact with whole units that every later release must read, as patches and packed."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import ZERO_SHA, assert_same_backbone, assert_same_patch, meta_of, tree
from packed_reader import read_packed
from spec_reader import read_artifact

from maskpack.formats import check_artifact, open_artifact, pack_task
from maskpack.formats.packed import decode_packed

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "v1-units"
DIGESTS = {
    "README.md": "ab7148485fba4f96101c065819a5764117694ebca14109f34bd6bf0ca5a2b757",
    "backbone.safetensors": "a6ff9851cedf8d16245ba78902ffa555592e2ca7c10bd14fbdf761c2f311cbe5",
    "both.patch": "7e4cd01f4d05d34a12b9f521ac51700a40e594fcaf2bc050399d61df3cf85ede",
    "maskpack.json": "877ecd72e7a098e1ffe4ceaabeb556b5980f26466224487a56e49bd95f406ce0",
    "only.patch": "37c04fa55b1f6e5673133f487fc619d11c4cea1dfef7c64e699363eac1d76ad2",
    "tasks/both.safetensors": "23f14a4746b3b6684f3505aec22abaf170aca11d240875a37f20825187e683ae",
    "tasks/only.safetensors": "4e3725c94994c2af0ae2e2fe55c2d99ca05d7bb9b5514412358ea7effa8643c1",
}
TASKS = ("both", "only")


@pytest.fixture(scope="module")
def maker():
    """The script that made the artifact, as a module."""
    spec = importlib.util.spec_from_file_location("make_v1_units", GOLDEN / "make_v1_units.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_golden_files_were_never_rewritten():
    found = {name: hashlib.sha256(data).hexdigest() for name, data in tree(FOLDER).items()}
    assert found == DIGESTS


def test_the_golden_artifact_is_sound_and_still_holds_its_values(maker):
    assert check_artifact(FOLDER) == []
    artifact = open_artifact(FOLDER)
    assert_same_backbone(artifact.backbone, maker.golden_backbone())
    patches, manifest = maker.golden_patches(), artifact.manifest
    assert list(manifest.tasks) == list(patches) == list(TASKS)
    for task, patch in patches.items():
        assert_same_patch(artifact.patch(task), patch)
        entry = replace(maker.golden_entry(task, patch), requires=("units",))
        assert replace(manifest.tasks[task], sha256=ZERO_SHA) == entry


def test_the_units_are_those_of_the_lists_in_the_script(maker):
    artifact = open_artifact(FOLDER)
    counts = {(c.kind, c.layer): c.kept for c in artifact.patch("only").units.counts()}
    assert (counts["heads", 0], counts["heads", 1]) == (3, 0)
    for task in TASKS:
        own = artifact.patch(task).over(artifact.backbone).linears
        for layer, bits in maker.KEPT_HEADS.items():
            fused = own[f"layer.{layer}.qkv.weight"].codes.reshape(3, 4, 4, maker.HIDDEN)
            out = own[f"layer.{layer}.out.weight"].codes.reshape(maker.HIDDEN, 4, 4)
            assert fused.any(axis=(0, 2, 3)).tolist() == bits
            assert out.any(axis=(0, 2)).tolist() == bits


@pytest.mark.parametrize("task", TASKS)
def test_a_task_packs_to_its_golden_bytes_and_both_readers_unpack_its_values(task):
    artifact, data = open_artifact(FOLDER), (FOLDER / f"{task}.patch").read_bytes()
    assert pack_task(artifact, task) == data
    entry, patch = decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)
    assert_same_patch(patch, artifact.patch(task))
    assert replace(entry, sha256=artifact.entry(task).sha256) == artifact.entry(task)
    linears, _, _, _ = read_artifact(FOLDER)
    _, keep, rest = read_packed(data, linears, artifact.manifest.backbone_sha256, {})
    assert set(keep) == set(patch.masks)
    assert all(np.array_equal(patch.masks[name].to_bool(), rows) for name, rows in keep.items())
    assert set(rest) == {"head.out.weight"}


def test_every_coding_and_every_way_to_leave_a_mask_out_is_among_the_golden_files():
    letters = [meta_of((FOLDER / f"{task}.patch").read_bytes())["codings"] for task in TASKS]
    assert set("".join(letters)) == set("-kgrm")
    only, both = (
        meta_of((FOLDER / f"tasks/{task}.safetensors").read_bytes()) for task in ("only", "both")
    )
    assert (set(only["masks"]), "unmasked" in only) == ({"pooler.weight"}, False)
    assert both["unmasked"] == ["layer.0.down.weight", "layer.0.up.weight"]
    assert "layer.1.down.weight" not in both["masks"]
    assert "layer.1.up.weight" in both["masks"]


def test_the_golden_artifact_can_still_be_made_and_has_the_same_bytes(maker, tmp_path):
    maker.make_golden(tmp_path / "again")
    found = tree(tmp_path / "again")
    assert set(found) == set(DIGESTS)
    for name, data in found.items():
        if name.endswith((".safetensors", ".patch")):
            assert hashlib.sha256(data).hexdigest() == DIGESTS[name], name
