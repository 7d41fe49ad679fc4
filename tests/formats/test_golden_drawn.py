"""The artifact with drawn weights that every later release must read."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import ZERO_SHA, assert_same_backbone, assert_same_patch, meta_of, tree

from maskpack.formats import check_artifact, open_artifact, pack_task
from maskpack.formats.codec import encode_backbone
from maskpack.formats.packed import decode_packed

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "v1-drawn"
DIGESTS = {
    "README.md": "9e2016320776a9b109dc1c6e35d6a11aa696616fb948cbfac6bb87e239a9e86d",
    "backbone.safetensors": "3fe5fabc895e379fbe6f8e6770c104cc15a5734a652769b72af2bd73f4549944",
    "hidden.patch": "4354635da34456772fda06cacd75b9d03e3357827b57876a491661c7d6c12c08",
    "maskpack.json": "ee5fd67e92664ddbe5d257de0edf3f1bc75163327c9d894d1d28113989caee6f",
    "tasks/hidden.safetensors": "018736ca3ef22f21626b903a350a6d0baae0d81b56eeea9922fefa7c978a81ce",
}


@pytest.fixture(scope="module")
def maker():
    """The script that made the artifact, as a module."""
    spec = importlib.util.spec_from_file_location("make_v1_drawn", GOLDEN / "make_v1_drawn.py")
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
    assert artifact.backbone.seed == maker.SEED
    assert artifact.manifest.requires == ("drawn", "embedding-3")
    patch = maker.golden_patch()
    assert_same_patch(artifact.patch("hidden"), patch)
    entry = replace(artifact.entry("hidden"), sha256=ZERO_SHA)
    assert entry == maker.golden_entry(patch)


def test_what_the_seed_does_not_draw_is_stored_and_nothing_else(maker):
    data = (FOLDER / "backbone.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert len(data) - 8 - length == 2 * 2 + 2 + 4, "codes, scales and the bias of one linear"
    meta = meta_of(data)
    drawn = {name for name, spec in meta["tensors"].items() if "scale" in spec}
    assert drawn == set(meta["tensors"]) - {maker.STORED}
    assert set(meta["dense"]) == {"layer.signs.bias", "norm.weight", "places"}
    assert encode_backbone(open_artifact(FOLDER).backbone) == data


def test_a_task_packs_to_its_golden_bytes():
    artifact, data = open_artifact(FOLDER), (FOLDER / "hidden.patch").read_bytes()
    assert pack_task(artifact, "hidden") == data
    _, patch = decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)
    for name, mask in artifact.patch("hidden").masks.items():
        np.testing.assert_array_equal(patch.masks[name].packed, mask.packed)


def test_the_golden_artifact_can_still_be_made_and_has_the_same_bytes(maker, tmp_path):
    maker.make_golden(tmp_path / "again")
    found = tree(tmp_path / "again")
    assert set(found) == set(DIGESTS)
    for name, data in found.items():
        if name.endswith((".safetensors", ".patch")):
            assert hashlib.sha256(data).hexdigest() == DIGESTS[name], name
