"""The second artifact that every later release must read: low bits, and all that a task may own."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import ZERO_SHA, assert_same_backbone, assert_same_patch, tree

from maskpack.formats import check_artifact, open_artifact

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "v1-low-bits"
DIGESTS = {
    "README.md": "121b77fb36b2e4788171c06b0011a2a04978f34603d8c9f4588d1844d31b8828",
    "backbone.safetensors": "8c2e1da986932008a6c05bf45a297c2db274b1836ccb4f3519535244e95a0283",
    "config.json": "665939e0da5aa211ec9832ffe5dcba176d1bbac8a95c899c270ec29082853c51",
    "maskpack.json": "f06f8b342abaad64393fd6b0b6c9ff1f5dbd8e3a96352926947a848f2f68c995",
    "tasks/all.safetensors": "3025ed54f4dc9ce576e61afee0edd32fe40e7f1082db7078aa0ffe00c46aadff",
    "tasks/bare.safetensors": "aa6fd1008bb7133220353d4a8f588ac0f73a970bd68658e56cc8386cda767729",
    "tasks/some.safetensors": "8c26dfac8ff96e6147051e4c64c04e9dc9313a41b9aa270d2071bfaaad3b3e3a",
}


@pytest.fixture(scope="module")
def maker():
    """The script that made the artifact, as a module."""
    path = GOLDEN / "make_v1_low_bits.py"
    spec = importlib.util.spec_from_file_location("make_v1_low_bits", path)
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
    patches = maker.golden_patches()
    assert list(artifact.manifest.tasks) == list(patches) == ["all", "bare", "some"]
    for task, patch in patches.items():
        assert_same_patch(artifact.patch(task), patch)


def test_the_golden_manifest_still_says_what_it_said(maker):
    manifest = open_artifact(FOLDER).manifest
    assert (manifest.source, manifest.scheme) == (maker.SOURCE, maker.SCHEME)
    assert manifest.scheme.overrides == {"odds": 2, "threes": 2, "wide": 8}
    for task, entry in maker.golden_entries().items():
        assert replace(manifest.tasks[task], sha256=ZERO_SHA) == entry
    assert (manifest.tasks["bare"].zeros, manifest.tasks["bare"].weights) == (0, 0)
    assert (manifest.tasks["some"].zeros, manifest.tasks["some"].weights) == (4, 15)


@pytest.mark.parametrize("task", ["all", "bare", "some"])
def test_the_golden_weights_are_the_products_of_the_lists_in_the_script(maker, task):
    artifact = open_artifact(FOLDER)
    own = artifact.patch(task).over(artifact.backbone)
    keeps = {"all": maker.KEEP_ALL, "bare": {}, "some": maker.KEEP_SOME}[task]
    gains = {"all": {}, "bare": maker.GAINS_BARE, "some": maker.GAINS_SOME}[task]
    for name, tensor in own.linears.items():
        weights, group = tensor.dequantize(), maker.WIDTHS[name][1]
        stored = np.float32 if name == "wide.weight" else np.float16
        for row, codes in enumerate(maker.CODES[name]):
            gain = np.float16(gains[name][row]) if name in gains else np.float16(1)
            for column, code in enumerate(codes):
                scale = np.float32(stored(maker.SCALES[name][row][column // group]))
                wanted = np.float32(code) * (scale * np.float32(gain))
                kept = name not in keeps or keeps[name][row][column]
                assert weights[row, column] == (wanted if kept else 0)


def test_the_golden_artifact_can_still_be_made_and_has_the_same_bytes_of_tensors(maker, tmp_path):
    maker.make_golden(tmp_path / "again")
    found = tree(tmp_path / "again")
    assert set(found) == set(DIGESTS)
    for name, data in found.items():
        if name.endswith(".safetensors"):
            assert hashlib.sha256(data).hexdigest() == DIGESTS[name], name


def test_fields_on_disk_are_those_the_page_describes(maker):
    arrays = {
        name: open_artifact(FOLDER).backbone.linears[name].codes
        for name in ("signs.weight", "odds.weight", "threes.weight")
    }
    data = (FOLDER / "backbone.safetensors").read_bytes()
    for name, codes in arrays.items():
        bits, _, zero_free = maker.WIDTHS[name]
        rows = b""
        for row in codes.tolist():
            fields = [(c + 2**bits - 1) // 2 if zero_free else c % 2**bits for c in row]
            number = sum(field << (bits * place) for place, field in enumerate(fields))
            rows += number.to_bytes(-(-len(row) * bits // 8), "little")
        assert rows in data, name
