"""Tables with rows of two widths, and of 3 bits, that every later release must read."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from formats_kit import assert_same_backbone, assert_same_patch, tree

from maskpack.formats import check_artifact, open_artifact
from maskpack.formats.mixed_rows import MixedRows

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "v1-rows"
DIGESTS = {
    "README.md": "9ba64a67bb469f089e66dea233244c0052475addb0f27ece5c68917793c44499",
    "backbone.safetensors": "0d950e79613e7fbedad873fbabf1a2ff6ecadbbf21cd16e179be0fbdf9a259c1",
    "config.json": "665939e0da5aa211ec9832ffe5dcba176d1bbac8a95c899c270ec29082853c51",
    "maskpack.json": "3948d360613110dae756ecce3e0a5bc09401fa514731b9320f24309e7b7a3450",
    "tasks/only.safetensors": "6c3057dd9a9e23156c7acd7d94d661ea002861b308683d81823c62ab6e46bcd9",
}


@pytest.fixture(scope="module")
def maker():
    """The script that made the artifact, as a module."""
    path = GOLDEN / "make_v1_rows.py"
    spec = importlib.util.spec_from_file_location("make_v1_rows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_golden_files_were_never_rewritten():
    found = {name: hashlib.sha256(data).hexdigest() for name, data in tree(FOLDER).items()}
    assert found == DIGESTS


def test_the_golden_artifact_is_sound_and_still_holds_its_values(maker):
    assert check_artifact(FOLDER) == []
    artifact = open_artifact(FOLDER)
    assert artifact.manifest.requires == ("embedding-3", "embedding-rows")
    assert artifact.manifest.embedding_bits == "4 and 2"
    assert_same_backbone(artifact.backbone, maker.golden_backbone())
    assert_same_patch(artifact.patch("only"), maker.golden_patch())


def test_the_golden_rows_are_the_products_of_the_lists_in_the_script(maker):
    tables = open_artifact(FOLDER).backbone.embeddings
    for name, (_, _, codes, marks) in maker.ROWS.items():
        assert isinstance(tables[name], MixedRows) == ("0" in marks)
        scales = np.array(maker.SCALES[name], np.float16).astype(np.float32)[:, None]
        wanted = np.array(codes, np.float32) * scales
        np.testing.assert_array_equal(tables[name].dequantize(), wanted)


def test_the_golden_artifact_can_still_be_made_and_has_the_same_bytes(maker, tmp_path):
    maker.make_golden(tmp_path / "again")
    again = tree(tmp_path / "again")
    readme = "README.md"  # its words may change
    assert {name: data for name, data in again.items() if name != readme} == {
        name: data for name, data in tree(FOLDER).items() if name != readme
    }
