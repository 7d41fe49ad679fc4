"""Damaged, foreign and malicious artifacts: refused by name, never with another exception."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
from formats_kit import (
    assert_same_backbone,
    assert_same_patch,
    edit_backbone,
    edit_manifest,
    edit_patch,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    reseal,
    tree,
)
from safetensors.numpy import save

from maskpack.formats import ArtifactError, add_task, check_artifact, open_artifact
from maskpack.formats.codec import decode_backbone, decode_patch

BACKBONE, PATCH = "backbone.safetensors", "tasks/first.safetensors"


@pytest.fixture
def folder(tmp_path):
    """An artifact with the task `first`."""
    return make_artifact(tmp_path / "artifact").path


def read_all(folder):
    """Read every part that holds values."""
    artifact = open_artifact(folder)
    backbone = artifact.backbone
    return backbone, {task: artifact.patch(task) for task in artifact.manifest.tasks}


def assert_refused(folder, message):
    """Reading and checking both refuse, and the message says what is wrong."""
    with pytest.raises(ArtifactError, match=message):
        read_all(folder)
    findings = check_artifact(folder)
    assert len(findings) == 1
    with pytest.raises(ArtifactError, match=message):
        raise ArtifactError(findings[0])


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "extended": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped at the end": flip,
    "flipped at the start": lambda path: flip(path, 0),
    "overwritten": lambda path: path.write_bytes(b"<html>404</html>"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", [BACKBONE, PATCH])
def test_a_damaged_file_is_refused_by_its_name_and_digests(folder, name, damage):
    damage(folder / name)
    assert_refused(folder, rf"{name}` is damaged: its SHA-256 is [0-9a-f]{{12}}, the manifest says")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_copied_file_is_found(folder, damage):
    damage(folder / "config.json")
    (finding,) = check_artifact(folder)
    assert "config.json` is damaged" in finding


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "extended"])
def test_a_damaged_manifest_is_refused(folder, damage):
    DAMAGE[damage](folder / "maskpack.json")
    if damage == "truncated":  # only the final line feed is gone
        assert check_artifact(folder) == []
    else:
        assert_refused(folder, r"maskpack\.json")


@pytest.mark.parametrize("name", [BACKBONE, PATCH])
def test_a_missing_file_is_refused_with_the_way_out(folder, name):
    (folder / name).unlink()
    assert_refused(folder, rf"cannot read .*{name}`: No such file")
    with pytest.raises(ArtifactError) as got:
        read_all(folder)
    assert "restore" in got.value.hint


def test_a_missing_copied_file_is_found(folder):
    (folder / "vocab.txt").unlink()
    (finding,) = check_artifact(folder)
    assert "vocab.txt" in finding
    assert "No such file" in finding


@pytest.mark.parametrize("name", [BACKBONE, PATCH, "maskpack.json"])
def test_a_folder_in_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert_refused(folder, r"cannot read")


def test_a_folder_without_a_manifest_is_no_artifact(folder):
    (folder / "maskpack.json").unlink()
    assert_refused(folder, r"is not an artifact: cannot read its `maskpack\.json`")
    with pytest.raises(ArtifactError) as got:
        open_artifact(folder)
    assert "folder of an artifact" in got.value.hint


@pytest.mark.parametrize("data", [b"\xff\xfe\0\0", b"\x80", b'{"format": "\xe9"}'])
def test_a_manifest_that_is_not_utf8_is_refused(folder, data):
    (folder / "maskpack.json").write_bytes(data)
    assert_refused(folder, r"cannot read its `maskpack\.json`")


@pytest.mark.parametrize("version", [0, 2, "1", True, None])
def test_an_artifact_of_another_version_is_refused(folder, version):
    edit_manifest(folder, lambda tree: tree.update(format_version=version))
    assert_refused(folder, rf"format version {version!r} is not readable")


def test_a_key_twice_in_the_manifest_is_refused(folder):
    path = folder / "maskpack.json"
    text = path.read_text("utf-8")
    line = '"format_version": 1,'
    assert line in text
    path.write_text(text.replace(line, line + line), "utf-8")
    assert_refused(folder, "key twice")


@pytest.mark.parametrize("part", ["source", "scheme", "backbone", "files", "tasks"])
def test_a_manifest_without_one_of_its_parts_is_refused(folder, part):
    edit_manifest(folder, lambda tree: tree.pop(part))
    assert_refused(folder, f"lacks a field.*{part}")


@pytest.mark.parametrize(
    "file", ["../first.safetensors", "/etc/passwd", "tasks/../../x.safetensors", BACKBONE]
)
def test_a_patch_outside_the_artifact_is_never_opened(folder, file, monkeypatch):
    edit_manifest(folder, lambda tree: tree["tasks"]["first"].update(file=file))
    opened = []
    monkeypatch.setattr(type(folder), "read_bytes", lambda path: opened.append(path) or b"")
    assert_refused(folder, "task `first` names the file")
    assert opened == []


def test_a_digest_of_other_content_is_refused(folder):
    edit_manifest(folder, lambda tree: tree["backbone"].update(sha256="0" * 64))
    assert_refused(folder, rf"{BACKBONE}` is damaged: .* the manifest says 000000000000")


def test_a_patch_of_another_backbone_is_refused_even_with_its_digest_right(folder, tmp_path):
    other = make_artifact(tmp_path / "other").path
    edit_backbone(other, lambda _, arrays: arrays.update({"norm.weight": np.zeros(6, np.float16)}))
    assert check_artifact(other) == []
    shutil.copy(other / PATCH, folder / PATCH)
    reseal(folder, "first")
    assert_refused(folder, "the patch of `first` was made for backbone [0-9a-f]{12}, this one is")


def test_a_patch_of_another_task_is_refused_even_with_its_digest_right(folder):
    patch = make_patch(5)
    add_task(folder, make_entry("second", patch), patch)
    shutil.copy(folder / "tasks/second.safetensors", folder / PATCH)
    reseal(folder, "first")
    assert_refused(folder, "the patch of `first` says it is for `second`")


def with_value(name, value):
    """Put a value into the last element of an array."""

    def change(_, arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = value

    return change


# One case a rule: test_codec.py has the rest. The digests are right in all of them.
BAD_BACKBONES = {
    "NaN scale": (with_value("layer.a.weight.scales", np.nan), "a scale is negative"),
    "infinite scale": (with_value("words.weight.scales", np.inf), "a scale is negative"),
    "negative scale": (with_value("layer.b.weight.scales", -1), "a scale is negative"),
    "code outside 8 bits": (with_value("layer.b.weight.codes", 0x80), r"outside \+-127"),
    "padding of codes": (with_value("layer.a.weight.codes", 0x11), "a padding field"),
    "NaN bias": (with_value("layer.a.bias", np.nan), "`layer.a.bias` of the backbone"),
    "a mask over an embedding": (
        lambda meta, _: meta["tensors"]["layer.b.weight"].update(role="embedding"),
        "the backbone has no `layer.b.weight` for the mask of that name",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_BACKBONES.values(), ids=BAD_BACKBONES)
def test_a_bad_backbone_is_refused_even_with_its_digest_right(folder, change, message):
    edit_backbone(folder, change)
    assert_refused(folder, message)


BAD_PATCHES = {
    "padding of a mask": (with_value("layer.a.weight.mask", 0xFF), "a padding bit"),
    "NaN head": (with_value("head.out.bias", np.nan), "`out.bias` of the head"),
    "mask of nothing": (
        lambda meta, arrays: (
            meta["masks"].update({"layer.c.weight": meta["masks"].pop("layer.b.weight")}),
            arrays.update({"layer.c.weight.mask": arrays.pop("layer.b.weight.mask")}),
        ),
        "the backbone has no `layer.c.weight` for the mask of that name",
    ),
    "mask of as many bytes": (
        lambda meta, _: meta["masks"].update({"layer.a.weight": [6, 14]}),
        r"the mask of `layer.a.weight` is \(6, 14\), the backbone wants \(6, 13\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_PATCHES.values(), ids=BAD_PATCHES)
def test_a_bad_patch_is_refused_even_with_its_digest_right(folder, change, message):
    edit_patch(folder, "first", change)
    assert_refused(folder, message)


def test_a_mask_that_was_dropped_is_found_by_the_counts_of_the_manifest(folder):
    def drop(meta, arrays):
        meta["masks"].pop("layer.b.weight")
        arrays.pop("layer.b.weight.mask")

    count = make_patch(0).count
    edit_patch(folder, "first", drop)
    (finding,) = check_artifact(folder)
    assert f"the manifest says {count.zeros} of {count.weights}" in finding
    left = open_artifact(folder).patch("first").count
    assert 0 < left.weights < count.weights
    edit_manifest(
        folder,
        lambda tree: tree["tasks"]["first"].update(zeros=left.zeros, weights=left.weights),
    )
    assert check_artifact(folder) == []


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"maskpack": "{}"}])
def test_a_safetensors_file_of_another_tool_is_refused_even_with_its_digest_right(folder, metadata):
    data = save({"weight": np.ones(4, dtype=np.float32)}, metadata=metadata)
    (folder / PATCH).write_bytes(data)
    reseal(folder, "first")
    assert_refused(folder, r"not a patch of this format|expected a patch")


def mutate(rng, data):
    """One to three small changes: bits, bytes, cuts, copies."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) or 1)
        length = rng.choice((1, 2, 3, 8, 40))
        match rng.randrange(6) if data else 2:
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice(b'\0\xff0129-.eE{}[]",: \n/')
            case 2:
                data[at:at] = rng.randbytes(length)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case _:
                del data[at:]
    return bytes(data)


def test_no_mutation_of_a_file_goes_unnoticed_or_changes_a_value(folder):
    patch = make_patch(1)
    add_task(folder, make_entry("second", patch), patch)
    sound, rng, found = tree(folder), random.Random(20240229), 0
    for step in range(400):
        name = sorted(sound)[step % len(sound)]
        changed = mutate(rng, sound[name])
        (folder / name).write_bytes(changed)
        findings = check_artifact(folder)
        if findings:
            found += 1
            assert all(len(line) > 20 for line in findings)
        else:
            assert changed == sound[name] or name in {"README.md", "maskpack.json"}, name
            backbone, patches = read_all(folder)
            assert_same_backbone(backbone, make_backbone())
            assert_same_patch(patches["first"], make_patch(0))
            assert_same_patch(patches["second"], make_patch(1))
        (folder / name).write_bytes(sound[name])
    assert check_artifact(folder) == []
    assert 300 < found < 400  # most mutations, and some left the values alone


def test_no_mutation_below_the_digests_ends_in_another_exception(folder):
    sound, rng, refused = tree(folder), random.Random(7), 0
    digest = open_artifact(folder).manifest.backbone_sha256
    for step in range(600):
        name = (BACKBONE, PATCH)[step % 2]
        data = mutate(rng, sound[name])
        try:
            if name == BACKBONE:
                decode_backbone(data)
            else:
                decode_patch(data, task="first", backbone_sha256=digest)
        except ArtifactError:
            refused += 1
    assert 300 < refused < 600
