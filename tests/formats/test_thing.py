"""What lies at a path, for hints: by names and first bytes, and never an error of its own."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from maskpack.formats import open_artifact, pack_task
from maskpack.formats.thing import Thing, instead_of_artifact, instead_of_export, what_is


@pytest.fixture
def things(tmp_path, tiny_artifact, tiny_model):
    """Thing -> a path where it lies."""
    for folder, file in (("export", "model.onnx"), ("shared", "a.onnx"), ("phone", "model.ort")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(b"")
    (tmp_path / "several").mkdir()
    (tmp_path / "export").rename(tmp_path / "several" / "a")
    (tmp_path / "x.patch").write_bytes(pack_task(open_artifact(tiny_artifact), "sst2"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "rows.csv.gz").write_bytes(b"")
    (tmp_path / "rows.JSON").write_bytes(b"")
    (tmp_path / "note").write_text("packed-patch? no, a note")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "void").mkdir()
    return [
        (Thing.NOTHING, tmp_path / "none"),
        (Thing.ARTIFACT, tiny_artifact),
        (Thing.EXPORT, tmp_path / "several" / "a"),
        (Thing.EXPORT, tmp_path / "several"),
        (Thing.EXPORT, tmp_path / "shared"),
        (Thing.MOBILE, tmp_path / "phone"),
        (Thing.MODEL, tiny_model),
        (Thing.ARCHIVE, tmp_path / "x.zip"),
        (Thing.PATCH, tmp_path / "x.patch"),
        (Thing.GRAPH, tmp_path / "shared" / "a.onnx"),
        (Thing.TABLE, tmp_path / "rows.csv.gz"),
        (Thing.TABLE, tmp_path / "rows.JSON"),
        (Thing.OTHER, tmp_path / "empty"),
        (Thing.OTHER, tmp_path / "void"),
        (Thing.OTHER, tmp_path / ("x" * 300)),
    ]


def test_each_thing_is_recognised(things):
    assert [what_is(path) for _, path in things] == [thing for thing, _ in things]
    assert {thing for thing, _ in things} == set(Thing)


def test_an_archive_is_known_by_its_first_bytes(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    (tmp_path / "package").write_bytes(data.getvalue())
    assert what_is(tmp_path / "package") is Thing.ARCHIVE


def test_an_artifact_that_lost_its_manifest_is_no_plain_model(tmp_path, tiny_artifact):
    (tmp_path / "config.json").write_bytes((tiny_artifact / "config.json").read_bytes())
    (tmp_path / "backbone.safetensors").write_bytes(b"")
    assert what_is(tmp_path) is Thing.OTHER


def test_every_wrong_thing_has_a_next_step_that_names_the_path(things):
    for thing, path in things:
        for told, right in (
            (instead_of_artifact(path), Thing.ARTIFACT),
            (instead_of_export(path), Thing.EXPORT),
        ):
            if thing in {right, Thing.OTHER}:
                assert told is None
                continue
            assert told is not None
            assert told[0] == thing
            assert "`" in told[1] or "unpack it" in told[1] or "predict.py" in told[1]
            assert "{" not in told[1]


@pytest.mark.parametrize("size", [0, 7, 2**63])
def test_a_file_that_promises_much_is_read_little(tmp_path, size):
    (tmp_path / "x").write_bytes(size.to_bytes(8, "little") + b"packed")
    assert what_is(tmp_path / "x") is Thing.OTHER
