"""Values that look almost right: each of these once got through."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import (
    SCHEME,
    SOURCE,
    edit_backbone,
    edit_manifest,
    edit_patch,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
)

from maskpack.formats import (
    ArtifactError,
    Patch,
    add_task,
    check_artifact,
    create_artifact,
    is_artifact,
    open_artifact,
)
from maskpack.formats.codec import encode_backbone
from maskpack.formats.schema import check_task_name


@pytest.fixture
def folder(tmp_path):
    return make_artifact(tmp_path / "artifact").path


def add(folder, name, **options):
    patch = make_patch(2)
    return add_task(folder, make_entry(name, patch), patch, **options)


def test_long_integer_in_manifest(folder):
    f = folder / "maskpack.json"
    f.write_text(f.read_text().replace('"max_length": 16', '"max_length": ' + "1" * 5000))
    assert check_artifact(folder)


@pytest.mark.parametrize("field", ["bits", "group", "shape"])
def test_infinity_in_backbone_header(folder, field):
    v = [6, float("inf")] if field == "shape" else float("inf")
    edit_backbone(folder, lambda m, _: m["tensors"]["layer.a.weight"].update({field: v}))
    assert check_artifact(folder)


def test_infinity_in_patch_header(folder):
    edit_patch(
        folder, "first", lambda m, _: m["masks"].update({"layer.a.weight": [6, float("inf")]})
    )
    assert check_artifact(folder)


def test_task_name_of_a_replacement(folder):
    with pytest.raises(ArtifactError):
        check_task_name("mood.r1")


def test_missing_patch_of_another_task(folder):
    (folder / "tasks/first.safetensors").unlink()
    before = (folder / "maskpack.json").read_bytes()
    try:
        add(folder, "second")
    except ArtifactError:
        assert (folder / "maskpack.json").read_bytes() == before


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6])
def test_error_says_nothing_changed_so_nothing_changed(folder, monkeypatch, nth):
    real, n = os.fsync, [0]

    def bad(h):
        n[0] += 1
        if n[0] == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(h)

    monkeypatch.setattr(os, "fsync", bad)
    try:
        add(folder, "second")
    except ArtifactError as e:
        if "nothing that was there before has changed" in e.hint:
            assert list(open_artifact(folder).manifest.tasks) == ["first"]


@pytest.mark.parametrize(
    "name", ["maskpack.json", "README.md", "backbone.safetensors", "tasks", "readme.md"]
)
def test_reserved_copied_file(tmp_path, name):
    with pytest.raises(ArtifactError, match="not allowed"):
        create_artifact(
            tmp_path / "a", make_backbone(), source=SOURCE, scheme=SCHEME, files={name: b"x"}
        )
    assert not (tmp_path / "a").exists()


def test_unfit_first_patch(tmp_path):
    p = make_patch()
    stray = Patch({"x": p.masks["layer.a.weight"]}, p.head)
    for unfit, message in (
        (Patch({}, p.head), "holds 0 zeros"),
        (stray, "has no `x` for the mask"),
    ):
        with pytest.raises(ArtifactError, match=message):
            create_artifact(
                tmp_path / "a",
                make_backbone(),
                source=SOURCE,
                scheme=SCHEME,
                files={},
                first=(make_entry("t", p), unfit),
            )
    assert not (tmp_path / "a").exists()


TYPES = [
    (["source", "model"], 5),
    (["source", "model_type"], [1]),
    (["source", "revision"], 1),
    (["source", "model"], "\ud800"),
    (["scheme", "bits"], "x"),
    (["scheme", "group"], {}),
    (["backbone", "file"], "/etc/passwd"),
    (["files"], [1]),
    (["format_version"], 1.0),
]
TASK = [
    ("labels", "ab"),
    ("labels", [1, 2]),
    ("metric", 3),
    ("zeros", True),
    ("zeros", 16.5),
    ("max_length", -1),
    ("max_length", 1.5),
    ("data", []),
    ("training", "x"),
    ("scores", {"accuracy": float("nan")}),
    ("scores", {"accuracy": True}),
]


@pytest.mark.parametrize(("path", "value"), TYPES + [(["tasks", "first", k], v) for k, v in TASK])
def test_types_of_the_manifest(folder, path, value):
    def ch(t):
        for k in path[:-1]:
            t = t[k]
        t[path[-1]] = value

    edit_manifest(folder, ch)
    with pytest.raises(ArtifactError):
        open_artifact(folder)


def test_nan_is_not_written(folder):
    p = make_patch(2)
    with pytest.raises(ArtifactError):
        add_task(folder, make_entry("second", p, value=float("nan")), p)


@pytest.mark.parametrize(
    ("field", "value"), [("bits", "4"), ("bits", 4.9), ("group", "5"), ("group", 5.9)]
)
def test_header_types(folder, field, value):
    edit_backbone(folder, lambda m, _: m["tensors"]["layer.a.weight"].update({field: value}))
    assert check_artifact(folder)


@pytest.mark.parametrize("value", [[6, 13, 9], [6.7, 13.2]])
def test_mask_shape_types(folder, value):
    edit_patch(folder, "first", lambda m, _: m["masks"].update({"layer.a.weight": value}))
    assert check_artifact(folder)


def test_a_scalar_is_refused():
    with pytest.raises(ArtifactError, match="one dimension"):
        replace(make_backbone(), dense={"s": np.array(2, np.float16)})


def test_key_collision():
    b = replace(make_backbone(), dense={"layer.a.weight.scales": np.ones((6, 3), np.float16)})
    with pytest.raises(ArtifactError):
        encode_backbone(b)


def test_interrupt_leaves_no_temporary(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda h: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        add(folder, "second")
    assert not list(folder.rglob(".*"))


def test_long_path():
    assert not is_artifact(Path("/tmp/" + "x" * 300))


def test_long_path_create(tmp_path):
    with pytest.raises(ArtifactError):
        make_artifact(tmp_path / ("x" * 300))


def test_wrong_counts(folder):
    p = make_patch(2)
    with pytest.raises(ArtifactError):
        add_task(folder, replace(make_entry("second", p), zeros=1), p)
