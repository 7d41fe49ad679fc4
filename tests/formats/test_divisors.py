"""Divisors of outlier channels in an artifact: written once, kept by what copies tasks, refused where they are wrong."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    edit_manifest,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    tree,
)
from spec_reader import read_divisors

from maskpack.formats import (
    ArtifactError,
    add_task,
    check_artifact,
    create_artifact,
    difference,
    merge_tasks,
    open_artifact,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.channels import decode_divisors, encode_divisors

FILE = "divisors.safetensors"
DIVISORS = {"layer.a.weight": np.linspace(1.0, 3.0, 13, dtype=np.float32)}
OTHERS = {"layer.b.weight": np.linspace(1.0, 2.0, 6, dtype=np.float32)}
BACKBONE = "ab" * 32
SHAPES = {"layer.a.weight": (6, 13), "layer.b.weight": (4, 6)}


def make_divided(path, divisors=DIVISORS, task="first"):
    """An artifact with divisors and one task that was learned with them."""
    patch = make_patch(0)
    entry = replace(make_entry(task, patch), training={"simulate": "int8"})
    about = {"source": SOURCE, "scheme": SCHEME, "files": FILES}
    create_artifact(path, make_backbone(), **about, first=(entry, patch), divisors=divisors)
    return path


def add(path, name, divisors=None):
    patch = make_patch(1)
    add_task(path, make_entry(name, patch), patch, divisors=divisors)


def assert_kept(path, divisors=DIVISORS):
    assert check_artifact(path) == []
    found = open_artifact(path).divisors
    assert found is not None
    assert set(found) == set(divisors)
    for name, value in divisors.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def test_divisors_are_read_as_they_were_written(tmp_path):
    path = make_divided(tmp_path / "a")
    assert_kept(path)
    stored = json.loads((path / "maskpack.json").read_text())["divisors"]
    digest = hashlib.sha256((path / FILE).read_bytes()).hexdigest()
    assert stored == {"file": FILE, "sha256": digest}


def test_a_reader_written_from_the_page_reads_them(tmp_path):
    read = read_divisors(make_divided(tmp_path / "a"))
    assert set(read) == set(DIVISORS)
    for name, value in DIVISORS.items():
        np.testing.assert_array_equal(read[name], value)
    assert read_divisors(make_artifact(tmp_path / "plain").path) is None


def test_an_artifact_without_them_has_the_bytes_that_it_had(tmp_path):
    """But for the manifest and one file, one with them has the same: backbone, patches and card."""
    plain, divided = (
        tree(make_artifact(tmp_path / "plain").path),
        tree(make_divided(tmp_path / "a")),
    )
    assert "divisors" not in json.loads(plain["maskpack.json"])
    assert divided.keys() - plain.keys() == {FILE}
    changed = {name for name in plain if plain[name] != divided[name]}
    assert changed <= {"maskpack.json", "README.md"}


def test_no_outliers_at_all_are_remembered_too(tmp_path):
    path = make_divided(tmp_path / "a", divisors={})
    assert_kept(path, {})
    assert open_artifact(path).divisors == {}
    add(path, "second", DIVISORS)
    assert_kept(path, {})


def test_a_task_brings_divisors_to_an_artifact_without(tmp_path):
    path = make_artifact(tmp_path / "a").path
    before = tree(path)
    add(path, "second", DIVISORS)
    assert_kept(path)
    after = tree(path)
    assert after["backbone.safetensors"] == before["backbone.safetensors"]
    assert after["tasks/first.safetensors"] == before["tasks/first.safetensors"]


def test_those_that_are_there_stay_and_that_is_said(tmp_path, caplog):
    path = make_divided(tmp_path / "a")
    add(path, "second", DIVISORS)
    add(path, "third")
    assert not caplog.records
    add(path, "fourth", OTHERS)
    assert "keeps its own divisors" in caplog.text
    assert_kept(path)


def test_tasks_come_and_go_and_divisors_stay(tmp_path):
    path = make_divided(tmp_path / "a")
    rename_task(path, "first", "renamed")
    assert_kept(path)
    remove_task(path, "renamed")
    assert_kept(path)


def test_a_merge_brings_them_along_or_keeps_its_own(tmp_path, caplog):
    divided = open_artifact(make_divided(tmp_path / "a", task="other"))
    plain = make_artifact(tmp_path / "plain").path
    merge_tasks(plain, divided)
    assert_kept(plain)
    own = make_divided(tmp_path / "own", OTHERS)
    merge_tasks(own, divided)
    assert_kept(own, OTHERS)
    assert "keeps its own divisors" in caplog.text


def test_a_packed_task_finds_them_in_the_artifact_it_is_unpacked_into(tmp_path, caplog):
    divided = make_divided(tmp_path / "a")
    data = pack_task(open_artifact(divided), "first")
    unpack_task(divided, data, name="again")
    assert_kept(divided)
    assert not caplog.records
    plain = make_artifact(tmp_path / "plain").path
    with caplog.at_level(logging.WARNING):
        unpack_task(plain, data, name="again")
    assert "measures its own" in caplog.text
    assert open_artifact(plain).divisors is None
    assert check_artifact(plain) == []


def test_a_comparison_names_them(tmp_path):
    one, two = (
        open_artifact(make_divided(tmp_path / name, made))
        for name, made in (("a", DIVISORS), ("b", OTHERS))
    )
    first, second = difference(one, two).fields["divisors"]
    assert first == one.manifest.divisors_sha256[:12] != second
    plain = make_artifact(tmp_path / "plain")
    assert difference(plain, one).fields["divisors"] == ("absent", first)
    assert "divisors" not in difference(one, one).fields


@pytest.mark.parametrize(
    ("divisors", "words"),
    [
        ({"layer.c.weight": np.ones(6, np.float32)}, "fits no linear"),
        ({"layer.b.weight": np.ones(7, np.float32)}, "fits no linear"),
        ({"layer.b.weight": np.ones(6, np.float16)}, "fits no linear"),
        ({"layer.b.weight": np.full(6, 0.5, np.float32)}, "below 1 or not finite"),
        ({"layer.b.weight": np.full(6, np.inf, np.float32)}, "below 1 or not finite"),
        ({"layer.b.weight": np.full(6, np.nan, np.float32)}, "below 1 or not finite"),
    ],
)
def test_divisors_that_do_not_fit_are_refused(divisors, words):
    data = encode_divisors(divisors, BACKBONE)
    with pytest.raises(ArtifactError, match=words):
        decode_divisors(data, backbone_sha256=BACKBONE, shapes=SHAPES)


def test_divisors_of_another_backbone_are_refused():
    data = encode_divisors(DIVISORS, BACKBONE)
    with pytest.raises(ArtifactError, match="are of backbone abababababab, this one is cdcd"):
        decode_divisors(data, backbone_sha256="cd" * 32, shapes=SHAPES)


@pytest.mark.parametrize("change", ["bit", "cut", "gone"])
def test_damage_is_found(tmp_path, change):
    path = make_divided(tmp_path / "a")
    data = (path / FILE).read_bytes()
    if change == "gone":
        (path / FILE).unlink()
    else:
        (path / FILE).write_bytes(data[:-1] + (b"\xff" if change == "bit" else b""))
    (finding,) = check_artifact(path)
    assert FILE in finding
    with pytest.raises(ArtifactError, match=FILE):
        _ = open_artifact(path).divisors
    assert open_artifact(path).patch("first"), "what does not need them can be read"


@pytest.mark.parametrize(
    "value",
    [None, 1, {}, {"file": FILE}, {"file": "x.safetensors", "sha256": "0" * 64}, {"sha256": "0"}],
)
def test_a_manifest_that_names_them_wrongly_is_refused(tmp_path, value):
    path = make_divided(tmp_path / "a")
    edit_manifest(path, lambda manifest: manifest.update(divisors=value))
    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_a_copied_file_may_have_their_name_only_where_there_are_none(tmp_path):
    path = make_artifact(tmp_path / "a").path

    def name(manifest):
        manifest["files"][FILE] = "0" * 64

    edit_manifest(path, name)
    assert open_artifact(path).divisors is None
    divided = make_divided(tmp_path / "b")
    edit_manifest(divided, name)
    with pytest.raises(ArtifactError, match="which is not allowed"):
        open_artifact(divided)
