"""Create, open, add, replace: what lies on disk and what a reader gets back."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    ZERO_SHA,
    assert_same_backbone,
    assert_same_patch,
    edit_manifest,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    run,
    tree,
)

from maskpack.formats import (
    ArtifactError,
    BitMask,
    Manifest,
    add_task,
    check_artifact,
    check_vacant,
    create_artifact,
    is_artifact,
    open_artifact,
)


@pytest.fixture
def folder(tmp_path):
    """An artifact with the task `first`."""
    return make_artifact(tmp_path / "artifact").path


def add(folder, name, seed, **options):
    patch = make_patch(seed)
    return add_task(folder, make_entry(name, patch, value=seed / 100), patch, **options)


def test_a_new_artifact_holds_the_named_files_and_no_others(folder):
    assert set(tree(folder)) == {
        "README.md",
        "backbone.safetensors",
        "config.json",
        "maskpack.json",
        "tasks/first.safetensors",
        "vocab.txt",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_a_new_artifact_gives_back_what_went_in(folder):
    artifact = open_artifact(folder)
    assert check_artifact(folder) == []
    assert (artifact.manifest.source, artifact.manifest.scheme) == (SOURCE, SCHEME)
    assert_same_backbone(artifact.backbone, make_backbone())
    assert_same_patch(artifact.patch("first"), make_patch())
    entry = make_entry("first", make_patch())
    assert replace(artifact.entry("first"), sha256=ZERO_SHA) == entry
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content


def test_every_digest_is_the_sha256_of_its_file(folder):
    manifest = json.loads((folder / "maskpack.json").read_text("utf-8"))
    entry = manifest["tasks"]["first"]
    digests = {
        "backbone.safetensors": manifest["backbone"]["sha256"],
        entry["file"]: entry["sha256"],
        **manifest["files"],
    }
    assert set(digests) == set(tree(folder)) - {"README.md", "maskpack.json"}
    for name, digest in digests.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_manifest_on_disk_is_canonical(folder):
    text = (folder / "maskpack.json").read_text("utf-8")
    assert Manifest.from_json(text).to_json() == text


def test_an_artifact_may_start_without_a_task(tmp_path):
    artifact = create_artifact(
        tmp_path / "a", make_backbone(), source=SOURCE, scheme=SCHEME, files={}
    )
    assert artifact.manifest.tasks == {}
    assert "0 tasks" in (artifact.path / "README.md").read_text("utf-8")
    add(artifact.path, "late", 1)
    assert check_artifact(artifact.path) == []


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "deep" / "er" / "a"):
        assert check_artifact(make_artifact(path).path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "artifact"])
def test_what_is_already_there_is_never_overwritten(tmp_path, kind):
    path = tmp_path / "place"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    else:
        make_artifact(path, "mine")
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match="already exists") as got:
        make_artifact(path)
    assert "another place" in got.value.hint
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/b", "..", ".hidden", "a\\b", "", "a\0"]
)
def test_a_copied_file_that_would_leave_the_folder_is_refused_before_anything_is_written(
    tmp_path, name
):
    with pytest.raises(ArtifactError, match="not allowed"):
        create_artifact(
            tmp_path / "a", make_backbone(), source=SOURCE, scheme=SCHEME, files={name: b"x"}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_artifact_obeys_the_umask(tmp_path, mask):
    script = "import os, sys; os.umask(int(sys.argv[2])); from pathlib import Path\n"
    script += "from formats_kit import make_artifact; make_artifact(Path(sys.argv[1]))"
    run(script, tmp_path / "a", mask)
    for path, full in ((tmp_path / "a", 0o777), (tmp_path / "a" / "maskpack.json", 0o666)):
        assert stat.S_IMODE(path.stat().st_mode) == full & ~mask


def test_adding_a_task_touches_nothing_but_manifest_and_card(folder):
    before, backbone = tree(folder), (folder / "backbone.safetensors").stat()
    artifact = add(folder, "second", 2)
    after = tree(folder)
    assert set(after) - set(before) == {"tasks/second.safetensors"}
    assert {name for name in before if after[name] != before[name]} == {
        "README.md",
        "maskpack.json",
    }
    again = (folder / "backbone.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (backbone.st_ino, backbone.st_mtime_ns)
    assert check_artifact(folder) == []
    assert sorted(artifact.manifest.tasks) == ["first", "second"]
    assert_same_patch(artifact.patch("first"), make_patch(0))
    assert_same_patch(artifact.patch("second"), make_patch(2))


def test_replacing_a_task_leaves_the_others_and_drops_the_old_file(folder):
    add(folder, "second", 2)
    before = tree(folder)
    artifact = add(folder, "first", 3, replacing=True)
    after = tree(folder)
    assert set(before) - set(after) == {"tasks/first.safetensors"}
    assert set(after) - set(before) == {"tasks/first.r1.safetensors"}
    assert after["backbone.safetensors"] == before["backbone.safetensors"]
    assert after["tasks/second.safetensors"] == before["tasks/second.safetensors"]
    assert_same_patch(artifact.patch("first"), make_patch(3))
    assert_same_patch(artifact.patch("second"), make_patch(2))
    assert check_artifact(folder) == []


def test_replacing_again_and_again_keeps_one_file_a_task(folder):
    for seed in range(1, 12):
        add(folder, "first", seed, replacing=True)
    assert [path.name for path in (folder / "tasks").iterdir()] == ["first.r11.safetensors"]
    assert_same_patch(open_artifact(folder).patch("first"), make_patch(11))
    assert check_artifact(folder) == []


def test_replacing_a_task_that_is_not_there_adds_it(folder):
    artifact = add(folder, "second", 2, replacing=True)
    assert artifact.entry("second").file == "tasks/second.safetensors"


def test_an_existing_task_is_refused_with_the_option_that_replaces_it(folder):
    before = tree(folder)
    with pytest.raises(ArtifactError, match="already has a task `first`") as got:
        add(folder, "first", 2)
    assert "`replace` it" in got.value.hint
    assert tree(folder) == before
    with pytest.raises(ArtifactError, match="already has a task `first`"):
        check_vacant(open_artifact(folder), "first", replacing=False)
    check_vacant(open_artifact(folder), "first", replacing=True)
    check_vacant(open_artifact(folder), "second", replacing=False)


def test_a_patch_for_other_shapes_is_refused_before_anything_is_written(folder):
    before, patch = tree(folder), make_patch()
    masks = {**patch.masks, "layer.b.weight": BitMask.from_bool(np.ones((4, 5), dtype=bool))}
    with pytest.raises(ArtifactError, match=r"the mask of `layer\.b\.weight` is \(4, 5\)"):
        add_task(folder, make_entry("second", patch), replace(patch, masks=masks))
    assert tree(folder) == before


def test_an_open_reader_keeps_its_view_when_a_task_is_added(folder):
    artifact = open_artifact(folder)
    add(folder, "second", 2)
    assert list(artifact.manifest.tasks) == ["first"]
    assert_same_patch(artifact.patch("first"), make_patch(0))


def test_an_open_reader_is_told_when_its_task_was_replaced(folder):
    artifact = open_artifact(folder)
    add(folder, "first", 2, replacing=True)
    with pytest.raises(ArtifactError, match=r"cannot read .*first\.safetensors"):
        artifact.patch("first")


def test_an_unfinished_replacement_does_not_block_the_next(folder):
    (folder / "tasks" / "first.r1.safetensors").write_bytes(b"half of a pat")
    (folder / "tasks" / ".first.r1.safetensors.99.tmp").write_bytes(b"half")
    assert check_artifact(folder) == []
    add(folder, "first", 2, replacing=True)
    assert check_artifact(folder) == []
    assert_same_patch(open_artifact(folder).patch("first"), make_patch(2))


def test_an_unknown_task_is_refused_with_those_there_are(folder):
    add(folder, "second", 2)
    with pytest.raises(ArtifactError, match="has no task `third`") as got:
        open_artifact(folder).patch("third")
    assert got.value.hint == "tasks in it: first, second"


def test_adding_to_a_folder_that_is_no_artifact_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(ArtifactError, match=r"is not an artifact|cannot write"):
            add(path, "second", 2)
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_only_a_folder_with_a_manifest_is_an_artifact(folder, tmp_path):
    assert is_artifact(folder)
    assert not is_artifact(tmp_path)
    assert not is_artifact(tmp_path / "absent")
    assert not is_artifact(folder / "config.json")


def test_a_copied_file_is_read_by_its_name_and_checked(folder):
    artifact = open_artifact(folder)
    assert artifact.file("config.json") == FILES["config.json"]
    for name in ("absent.json", "maskpack.json", "../artifact/config.json"):
        with pytest.raises(ArtifactError, match=f"has no file `{name}`"):
            artifact.file(name)
    (folder / "config.json").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"config\.json` is damaged"):
        artifact.file("config.json")


def test_the_backbone_is_read_once_and_only_when_asked_for(folder):
    artifact = open_artifact(folder)
    data = (folder / "backbone.safetensors").read_bytes()
    (folder / "backbone.safetensors").unlink()
    assert artifact.entry("first").labels == ("no", "yes")
    with pytest.raises(ArtifactError, match=r"cannot read .*backbone\.safetensors"):
        _ = artifact.backbone
    (folder / "backbone.safetensors").write_bytes(data)
    assert artifact.backbone is artifact.backbone


def test_the_size_of_a_file_is_its_bytes(folder):
    artifact = open_artifact(folder)
    for name, data in tree(folder).items():
        assert artifact.size(name) == len(data)


def test_the_card_follows_the_tasks(folder):
    add(folder, "second", 25)
    card = (folder / "README.md").read_text("utf-8")
    count, size = make_patch(25).count, len(tree(folder)["tasks/second.safetensors"])
    assert (
        f"| second | classification | accuracy | 0.2500 | {count.sparsity:.2%} | {size} |" in card
    )
    assert "| first | classification | accuracy | 0.5000 |" in card
    assert "one integer backbone, 2 tasks" in card
    add(folder, "second", 75, replacing=True)
    card = (folder / "README.md").read_text("utf-8")
    assert "| second | classification | accuracy | 0.7500 |" in card
    assert "0.2500" not in card


def test_the_card_says_where_the_model_came_from(folder):
    lines = (folder / "README.md").read_text("utf-8").splitlines()
    assert lines[0] == "---"
    head = lines[1 : lines.index("---", 1)]
    assert "base_model: some/model" in head
    assert "base_model_relation: quantized" in head
    assert f"{len(tree(folder)['backbone.safetensors']):,} bytes" in "\n".join(lines)


def test_the_check_finds_counts_that_the_masks_do_not_have(folder):
    edit_manifest(folder, lambda tree: tree["tasks"]["first"].update(zeros=1))
    (finding,) = check_artifact(folder)
    zeros = make_patch().count.zeros
    assert finding == f"task `first` holds {zeros} zeros of 102, the manifest says 1 of 102"


def test_the_check_reports_every_damaged_file(folder):
    for name in ("config.json", "vocab.txt", "backbone.safetensors"):
        (folder / name).write_bytes(b"")
    findings = check_artifact(folder)
    assert len(findings) == 3
    for name in ("config.json", "vocab.txt", "backbone.safetensors"):
        assert sum(f"{name}` is damaged" in line for line in findings) == 1


def test_the_check_reports_every_damaged_task(folder):
    add(folder, "second", 2)
    add(folder, "third", 3)
    for name in ("first", "third"):
        (folder / "tasks" / f"{name}.safetensors").write_bytes(b"")
    findings = check_artifact(folder)
    assert [name for name in ("first", "second", "third") if name in str(findings)] == [
        "first",
        "third",
    ]
    assert_same_patch(open_artifact(folder).patch("second"), make_patch(2))


BLOCKED = """
import sys

NAMES = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "typer", "rich",
         "yaml", "datasets", "tokenizers"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    print("blocked")
from pathlib import Path
from maskpack.formats import check_artifact, open_artifact
artifact = open_artifact(Path(sys.argv[1]))
print(artifact.backbone.linears["layer.a.weight"].dequantize().sum().item())
print(artifact.patch("first").count.zeros, check_artifact(artifact.path))
print(sorted(NAMES & {name.partition(".")[0] for name in sys.modules}))
"""


def test_an_artifact_is_read_with_numpy_and_safetensors_alone(folder):
    total = make_backbone().linears["layer.a.weight"].dequantize().sum().item()
    lines = run(BLOCKED, folder).splitlines()
    assert lines == ["blocked", str(total), f"{make_patch().count.zeros} []", "[]"]
