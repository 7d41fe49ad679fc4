"""The artifact of format version 1 that every later release must read."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from formats_kit import ZERO_SHA, assert_same_backbone, assert_same_patch, tree

from maskpack.formats import ArtifactError, Manifest, check_artifact, open_artifact

GOLDEN = Path(__file__).parents[1] / "golden"
DIGESTS = {
    "README.md": "f38e693c3097f658361efc9cebb3f83a6d7a31568d1d6ca35afdae11e6bb58c0",
    "backbone.safetensors": "792751fa58730243d915cba09de41bb298e263a837b59c6b3aa79022c18b7ab5",
    "config.json": "665939e0da5aa211ec9832ffe5dcba176d1bbac8a95c899c270ec29082853c51",
    "maskpack.json": "0b832803e82c535b0678921b0d2ca5ee8bfc96c52084f7794ffeaa949a63538c",
    "tasks/mood.safetensors": "96778984c6ab3e777f9bac5c987462870a42ca3e915b547f535ae8f5a581ca93",
    "tasks/stars.r1.safetensors": "18c364903722d0354a2195bbbe4b39e917f082083d5a3c5c4f433cd0d46905b0",
    "vocab.txt": "a408b71c997c5b5e99786c1e415a64f635825dbaabcb6de1913d7a7963a2f956",
}


@pytest.fixture(scope="module")
def maker():
    """The script that made the golden artifact, as a module."""
    spec = importlib.util.spec_from_file_location("make_v1", GOLDEN / "make_v1.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_golden_files_were_never_rewritten():
    found = {name: hashlib.sha256(data).hexdigest() for name, data in tree(GOLDEN / "v1").items()}
    assert found == DIGESTS


def test_the_golden_artifact_is_sound():
    assert check_artifact(GOLDEN / "v1") == []


def test_the_golden_artifact_still_holds_its_values(maker):
    artifact = open_artifact(GOLDEN / "v1")
    assert_same_backbone(artifact.backbone, maker.golden_backbone())
    patches = maker.golden_patches()
    assert list(artifact.manifest.tasks) == list(patches) == ["mood", "stars"]
    for task, patch in patches.items():
        assert_same_patch(artifact.patch(task), patch)


def test_the_golden_manifest_still_says_what_it_said(maker):
    manifest = open_artifact(GOLDEN / "v1").manifest
    assert (manifest.source, manifest.scheme) == (maker.SOURCE, maker.SCHEME)
    files = {"mood": "tasks/mood.safetensors", "stars": "tasks/stars.r1.safetensors"}
    for task, entry in maker.golden_entries().items():
        found = manifest.tasks[task]
        assert replace(found, sha256=ZERO_SHA) == replace(entry, file=files[task])


def test_the_golden_weights_are_the_products_of_the_lists_in_the_script(maker):
    backbone = open_artifact(GOLDEN / "v1").backbone
    weights = backbone.linears["layer.0.weight"].dequantize()
    for row, codes in enumerate(maker.CODES_4):
        for column, code in enumerate(codes):
            assert weights[row, column] == code * maker.SCALES_4[row][column // 2]
    for task, keep in (("mood", maker.KEEP_MOOD), ("stars", maker.KEEP_STARS)):
        masks = open_artifact(GOLDEN / "v1").patch(task).masks
        for name, rows in keep.items():
            assert masks[name].to_bool().astype(int).tolist() == rows


def test_the_golden_artifact_can_still_be_made_and_lies_in_the_same_files(maker, tmp_path):
    maker.make_golden(tmp_path / "v1")
    assert check_artifact(tmp_path / "v1") == []
    assert set(tree(tmp_path / "v1")) == set(DIGESTS)
    made, golden = (open_artifact(path / "v1") for path in (tmp_path, GOLDEN))
    assert_same_backbone(made.backbone, golden.backbone)
    for task in golden.manifest.tasks:
        assert_same_patch(made.patch(task), golden.patch(task))


def test_a_feature_that_this_release_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(GOLDEN / "v1", folder)
    text = (folder / "maskpack.json").read_text()
    tree = json.loads(text)
    name = next(iter(tree["tasks"]))
    tree["tasks"][name] |= {"requires": ["smell"], "config": {"smell": [1, 2]}}
    (folder / "maskpack.json").write_text(json.dumps(tree))
    artifact = open_artifact(folder)  # other tasks of the artifact are readable
    assert Manifest.from_json(artifact.manifest.to_json()) == artifact.manifest
    with pytest.raises(ArtifactError, match=f"task `{name}` requires the feature `smell`"):
        artifact.patch(name)
    other = next(task for task in tree["tasks"] if task != name)
    artifact.patch(other)
    assert any("`smell`" in line for line in check_artifact(folder))
    tree["requires"] = ["vocab"]
    (folder / "maskpack.json").write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="the artifact requires the feature `vocab`"):
        open_artifact(folder)
