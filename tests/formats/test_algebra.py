"""Tasks as things: removed, renamed, merged, compared; never half of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from formats_kit import (
    FILES,
    SCHEME,
    SOURCE,
    assert_same_patch,
    edit_manifest,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    tree,
)

from maskpack.formats import (
    ArtifactError,
    BitMask,
    Patch,
    add_task,
    check_artifact,
    create_artifact,
    difference,
    merge_tasks,
    open_artifact,
    overlaps,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.algebra import overlap


@pytest.fixture
def folder(tmp_path):
    """An artifact with the tasks `first` and `second`."""
    make_artifact(tmp_path / "a")
    patch = make_patch(1)
    add_task(tmp_path / "a", make_entry("second", patch, value=0.75), patch)
    return tmp_path / "a"


def names(artifact):
    return sorted(artifact.manifest.tasks)


def test_a_removed_task_is_gone_and_the_others_stay_as_they_were(folder):
    before = tree(folder)
    assert names(remove_task(folder, "first")) == ["second"]
    after = tree(folder)
    assert check_artifact(folder) == []
    assert "tasks/first.safetensors" not in after
    changed = {name for name, data in after.items() if before[name] != data}
    assert changed == {"maskpack.json", "README.md"}
    with pytest.raises(ArtifactError, match="has no task `first`"):
        remove_task(folder, "first")


def test_the_last_task_can_be_removed_and_come_back(folder):
    before, data = tree(folder), pack_task(open_artifact(folder), "first")
    for task in ("first", "second"):
        remove_task(folder, task)
    assert open_artifact(folder).manifest.tasks == {}
    assert check_artifact(folder) == []
    unpack_task(folder, data)
    assert tree(folder)["backbone.safetensors"] == before["backbone.safetensors"]


def test_a_renamed_task_is_the_same_task(folder):
    before = open_artifact(folder)
    patch, entry = before.patch("first"), before.entry("first")
    artifact = rename_task(folder, "first", "third")
    assert names(artifact) == ["second", "third"]
    assert_same_patch(artifact.patch("third"), patch)
    found = artifact.entry("third")
    assert replace(found, name="first", file=entry.file, sha256=entry.sha256) == entry
    assert check_artifact(folder) == []
    assert sorted(tree(folder / "tasks")) == ["second.safetensors", "third.safetensors"]


def test_there_and_back_again_changes_no_byte(folder):
    before = tree(folder)
    rename_task(folder, "first", "third")
    rename_task(folder, "third", "first")
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("second", "already has a task `second`"),
        ("first", "already has a task `first`"),
        ("../x", "cannot name a task"),
        ("x.r1", "would be a replacement"),
    ],
)
def test_a_name_that_is_taken_or_not_allowed_changes_nothing(folder, name, message):
    before = tree(folder)
    with pytest.raises(ArtifactError, match=message):
        rename_task(folder, "first", name)
    assert tree(folder) == before


def test_a_merge_takes_all_tasks(folder, tmp_path):
    other = make_artifact(tmp_path / "b", "third", seed=4)
    artifact = merge_tasks(folder, other)
    assert names(artifact) == ["first", "second", "third"]
    assert_same_patch(artifact.patch("third"), other.patch("third"))
    assert artifact.entry("third") == other.entry("third")
    assert check_artifact(folder) == []


def test_a_merge_with_a_name_twice_takes_none(folder, tmp_path):
    make_artifact(tmp_path / "b", "a-new-one", seed=4)
    patch = make_patch(5)
    other = add_task(tmp_path / "b", make_entry("second", patch), patch)
    before = tree(folder)
    with pytest.raises(ArtifactError, match="both artifacts have a task `second`"):
        merge_tasks(folder, other)
    assert tree(folder) == before


def other_backbone(path):
    """An artifact whose weights differ in one scale."""
    backbone = make_backbone()
    name = "layer.b.weight"
    scales = backbone.linears[name].scales.copy()
    scales[0, 0] *= 2
    tensor = replace(backbone.linears[name], scales=scales)
    patch = make_patch(4)
    return create_artifact(
        path,
        replace(backbone, linears={**backbone.linears, name: tensor}),
        source=replace(SOURCE, model="another/model"),
        scheme=replace(SCHEME, bits=8),
        files={**FILES, "vocab.txt": b"[UNK]\n"},
        first=(make_entry("third", patch), patch),
    )


def test_tasks_over_another_backbone_are_not_merged(folder, tmp_path):
    before = tree(folder)
    with pytest.raises(ArtifactError, match="has backbone"):
        merge_tasks(folder, other_backbone(tmp_path / "b"))
    assert tree(folder) == before


def test_a_copy_does_not_differ(folder, tmp_path):
    found = difference(open_artifact(folder), open_artifact(folder))
    assert found.empty
    assert [task.bits for task in found.tasks] == [0, 0]


def test_a_difference_counts_the_bits_that_matter(folder, tmp_path):
    make_artifact(tmp_path / "b", "second", seed=7)
    other = add_task(tmp_path / "b", make_entry("new", make_patch(1)), make_patch(1))
    found = difference(open_artifact(folder), other)
    assert not found.empty
    assert (found.only_a, found.only_b) == (("first",), ("new",))
    (task,) = found.tasks
    bits = 0
    for name, tensor in make_backbone().linears.items():
        own, others = (make_patch(seed).masks[name].to_bool() for seed in (1, 7))
        bits += int(((own != others) & (tensor.codes != 0)).sum())
    assert (task.name, task.same_bytes, task.bits) == ("second", False, bits)
    assert task.scores == {"accuracy": (0.75, 0.5)}


def test_a_difference_of_backbones_names_the_fields(folder, tmp_path):
    found = difference(open_artifact(folder), other_backbone(tmp_path / "b"))
    assert not found.same_backbone
    assert found.fields["source.model"] == ("some/model", "another/model")
    assert found.fields["scheme.bits"] == ("4", "8")
    assert set(found.fields) == {"source.model", "scheme.bits", "files.vocab.txt"}


def patch_of(name, keep):
    return Patch({name: BitMask.from_bool(keep)}, {})


def test_an_overlap_counts_what_both_remove():
    backbone, name = make_backbone(), "layer.b.weight"
    live = backbone.linears[name].codes != 0
    first, second = (np.ones(live.shape, dtype=bool) for _ in range(2))
    first[0], second[:2] = False, False
    found = overlap(backbone, ("x", patch_of(name, first)), ("y", patch_of(name, second)))
    row, both = int(live[0].sum()), int(live[:2].sum())
    assert (found.first_zeros, found.second_zeros, found.both) == (row, both, row)
    assert found.either == both
    assert found.jaccard == pytest.approx(row / both)
    assert found.by_chance == pytest.approx(row * both / live.sum())


def test_masks_over_different_layers_do_not_overlap():
    backbone = make_backbone()
    patches = [
        (name, patch_of(name, np.zeros(tensor.shape, dtype=bool)))
        for name, tensor in backbone.linears.items()
    ]
    found = overlap(backbone, *patches)
    assert (found.both, found.by_chance, found.jaccard) == (0, 0.0, 0.0)


def test_an_artifact_tells_of_every_pair(folder):
    patch = make_patch(0)
    artifact = add_task(folder, make_entry("twin", patch), patch)
    found = {(pair.first, pair.second): pair for pair in overlaps(artifact)}
    assert list(found) == [("first", "second"), ("first", "twin"), ("second", "twin")]
    assert found["first", "twin"].jaccard == 1.0
    assert found["first", "second"].jaccard < 0.5


def test_labels_in_another_order_are_a_difference(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "b")
    edit_manifest(tmp_path / "b", lambda tree: tree["tasks"]["first"].update(labels=["yes", "no"]))
    found = difference(open_artifact(folder), open_artifact(tmp_path / "b"))
    assert not found.empty
    assert [task.fields for task in found.tasks] == [("labels",), ()]
    assert all(task.same_bytes for task in found.tasks)


def test_the_same_weights_under_another_configuration_are_not_merged(folder, tmp_path):
    patch = make_patch(4)
    other = create_artifact(
        tmp_path / "b",
        make_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files={**FILES, "config.json": b'{"model_type": "bert", "hidden_act": "relu"}'},
        first=(make_entry("third", patch), patch),
    )
    before, data = tree(folder), pack_task(other, "third")
    with pytest.raises(ArtifactError, match="another tokenizer or configuration"):
        merge_tasks(folder, other)
    with pytest.raises(ArtifactError, match="another tokenizer or configuration"):
        unpack_task(folder, data)
    assert tree(folder) == before


def test_a_patch_is_not_bound_to_a_backbone_that_came_meanwhile(folder):
    patch = make_patch(4)
    with pytest.raises(ArtifactError, match="has another backbone by now"):
        add_task(folder, make_entry("third", patch), patch, backbone_sha256="0" * 64)


def test_lost_patches_stand_in_nobody_s_way(folder):
    for task in ("first", "second"):
        (folder / "tasks" / f"{task}.safetensors").unlink()
    assert names(remove_task(folder, "first")) == ["second"]
    assert "(lost)" in (folder / "README.md").read_text()
    assert names(remove_task(folder, "second")) == []
    assert check_artifact(folder) == []


def test_what_is_no_artifact_is_called_that(tmp_path):
    with pytest.raises(ArtifactError, match="is not an artifact"):
        remove_task(tmp_path / "nope", "first")
