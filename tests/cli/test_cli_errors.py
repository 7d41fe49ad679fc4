"""Everything a user can do wrong: exit 1, the fact, the next step, and nothing half written."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from maskpack.formats import open_artifact, pack_task
from maskpack.formats.codec import encode_patch
from maskpack.runtime.task import TaskConfig


@pytest.fixture
def place(work, tiny_model, sentiment, tiny_artifact):
    """The current folder with a model, data and an artifact to spoil."""
    shutil.copytree(tiny_model, work / "model")
    shutil.copytree(sentiment, work / "data")
    shutil.copytree(tiny_artifact, work / "art")
    return work


@pytest.fixture
def refused(main, place, snapshot):
    """`refused(*args)`: the words of a call that must fail with 1 and change nothing."""

    def call(*args, hint=True):
        before = snapshot(place)
        found = main(*args)
        assert snapshot(place) == before
        assert found.code == 1
        assert found.out == ""
        lines = found.err.splitlines()
        assert lines[0].startswith("error: ")
        assert "Traceback" not in found.err
        if hint:
            assert len(lines) == 2
            assert lines[1].startswith("hint: ")
        return found.err

    return call


def fit(model="model", data="data", out="new", *more):
    return ["fit", model, "-t", "sst2", "--data", data, "-o", out, "--steps", "1", *more]


def edit(path, change):
    """Rewrite a text file."""
    path.write_text(change(path.read_text()))


def edit_json(path, **changes):
    edit(path, lambda text: json.dumps({**json.loads(text), **changes}))


def test_a_model_that_is_not_there(refused):
    words = refused(*fit(model="nowhere"))
    assert "cannot load a model from `nowhere`" in words
    assert "hint: give a folder with `config.json`" in words


def test_a_folder_without_a_model(refused, place):
    (place / "void").mkdir()
    assert "`void` has no `config.json`" in refused(*fit(model="void"))


def test_a_folder_without_a_model_whose_name_holds_the_name_of_one(refused, place):
    (place / "empty").mkdir()
    assert "`empty` has no `config.json`" in refused(*fit(model="empty"))


def test_a_model_that_is_no_encoder_we_know(refused, place):
    edit_json(place / "model" / "config.json", model_type="t5")
    words = refused(*fit())
    assert (
        "`t5` is not an architecture this release supports: it is an encoder with a decoder"
        in words
    )
    assert "hint: `compress families` says which are supported" in words


def test_a_model_without_its_tokenizer(refused, place):
    for file in (place / "model").iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            file.unlink()
    words = refused(*fit())
    assert "`model` has no " in words
    assert "tokenizer" in words


def test_a_model_whose_weights_are_cut_off(refused, place):
    weights = place / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20000])
    assert "cannot load a model from `model`" in refused(*fit())


def test_a_model_with_a_weight_that_is_not_a_number(refused, place):
    from safetensors.numpy import load_file, save_file

    weights = place / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    words = refused(*fit())
    assert f"{name}` of `model` holds a value that is not finite" in words
    assert "give an earlier checkpoint" in words


def test_an_alias_and_a_task_that_nobody_knows(refused):
    words = refused("fit", "model", "-t", "nope", "-o", "new")
    assert "no task `nope`" in words
    assert "known: cola" in words


def test_data_that_is_not_there(refused):
    words = refused(*fit(data="nowhere"))
    assert "no such file or folder: `nowhere`" in words
    assert "--data" in words


def test_a_folder_without_a_training_file(refused, place):
    (place / "data" / "train.tsv").unlink()
    assert "`data` has no file `train`" in refused(*fit())


def test_a_column_of_another_name(refused, place):
    edit(place / "data" / "train.tsv", lambda text: text.replace("sentence", "text", 1))
    words = refused(*fit())
    assert "train.tsv` has no column `sentence`" in words
    assert "its columns: text, label" in words


def test_a_label_that_the_task_does_not_have_is_named_with_its_row(refused, place):
    edit(place / "data" / "train.tsv", lambda text: text + "the film\tmaybe\n")
    words = refused(*fit())
    assert "data row 97 of the training split of `sst2` has the unknown label `maybe`" in words
    assert "hint: labels: 0, 1" in words


def test_bytes_that_are_not_utf8_are_named_with_their_row(refused, place):
    lines = (place / "data" / "dev.tsv").read_bytes().split(b"\n")
    lines[4] = b"caf\xe9 was good\t1"
    (place / "data" / "dev.tsv").write_bytes(b"\n".join(lines))
    words = refused(*fit())
    assert "line 5 of `data/dev.tsv` is not UTF-8: byte 0xe9 at offset" in words
    assert "iconv" in words


def test_a_row_that_is_too_short_is_named(refused, place):
    edit(place / "data" / "train.tsv", lambda text: text + "no label here\n")
    assert "row 98 of `data/train.tsv` has 1 fields, not 2" in refused(*fit(), hint=False)


@pytest.mark.parametrize(("file", "split"), [("train", "training"), ("dev", "evaluation")])
def test_an_empty_split(refused, place, file, split):
    (place / "data" / f"{file}.tsv").write_text("sentence\tlabel\n")
    assert f"the {split} split of `sst2` is empty" in refused(*fit(), hint=False)


def test_a_task_that_is_already_there(refused):
    words = refused(*fit(out="art"))
    assert "`art` already has a task `sst2`" in words
    assert "--replace" in words


def test_a_backbone_of_another_model(refused, place, tiny_models):
    shutil.copytree(tiny_models["roberta"], place / "other")
    words = refused(*fit(model="other", out="art"), "--name", "new")
    assert "`art` was made from `bert` with other weights than `other` has" in words


def test_bits_that_the_backbone_does_not_have(refused):
    words = refused(*fit(out="art"), "--name", "new", "--bits", "8")
    assert "the backbone of `art` has 4 bits, 8 were asked for" in words


def test_a_place_that_holds_something_else(refused, place):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    assert "`mine` already exists" in refused(*fit(out="mine"), "--max-length", "16", "-q")


def test_a_place_inside_a_file(refused, place):
    (place / "file").write_text("")
    words = refused(*fit(out="file/new"), "--max-length", "16", "-q")
    assert "cannot write `file/new`" in words


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", ["fit", "export"])
def test_a_place_without_permission(refused, place, command):
    (place / "locked").mkdir()
    (place / "locked").chmod(0o500)
    args = [*fit(out="locked/new"), "--max-length", "16", "-q"]
    if command == "export":
        args = ["export", "art", "-t", "sst2", "--onnx", "-o", "locked/new"]
    words = refused(*args)
    assert "cannot write `locked/new`: Permission denied" in words
    assert "check free space and permissions" in words


def flip_a_byte(art):
    file = art / "backbone.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def cut_the_patch(art):
    file = art / "tasks" / "sst2.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def remove_the_backbone(art):
    (art / "backbone.safetensors").unlink()


def cut_the_manifest(art):
    edit(art / "maskpack.json", lambda text: text[:200])


def change_the_version(art):
    edit_json(art / "maskpack.json", format_version=99)


def change_the_format(art):
    edit_json(art / "maskpack.json", format="other")


def change_the_backbones_digest(art):
    edit_json(art / "maskpack.json", backbone={"file": "backbone.safetensors", "sha256": "0" * 64})


def use_a_patch_of_another_backbone(art):
    from hashlib import sha256

    data = encode_patch(open_artifact(art).patch("sst2"), task="sst2", backbone_sha256="f" * 64)
    (art / "tasks" / "sst2.safetensors").write_bytes(data)
    tasks = json.loads((art / "maskpack.json").read_text())["tasks"]
    tasks["sst2"]["sha256"] = sha256(data).hexdigest()
    edit_json(art / "maskpack.json", tasks=tasks)


DAMAGE = {
    flip_a_byte: "art/backbone.safetensors` is damaged",
    cut_the_patch: "art/tasks/sst2.safetensors` is damaged",
    remove_the_backbone: "cannot read `art/backbone.safetensors`: No such file",
    cut_the_manifest: "`maskpack.json` is not valid JSON",
    change_the_version: "format version 99 is not readable, this release reads 1",
    change_the_format: "does not describe an artifact of this tool",
    change_the_backbones_digest: "art/backbone.safetensors` is damaged",
    use_a_patch_of_another_backbone: "the patch of `sst2` was made for backbone ffffffffffff",
}
READERS = {
    "eval": ["eval", "art", "-t", "sst2", "--data", "data"],
    "export": ["export", "art", "-t", "sst2", "--onnx", "-o", "graph"],
}


@pytest.mark.parametrize("command", ["eval", "export"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_a_damaged_artifact_is_refused_by_every_command_that_reads_it(
    refused, place, damage, command
):
    damage(place / "art")
    assert DAMAGE[damage] in refused(*READERS[command])


@pytest.mark.parametrize(
    "damage",
    [cut_the_patch, flip_a_byte, cut_the_manifest, change_the_version],
    ids=lambda f: f.__name__,
)
def test_a_damaged_artifact_is_not_described(refused, place, damage):
    damage(place / "art")
    assert DAMAGE[damage] in refused("inspect", "art", "--json")


def test_an_artifact_without_its_backbone_is_not_inspected(refused, place):
    remove_the_backbone(place / "art")
    assert DAMAGE[remove_the_backbone] in refused("inspect", "art", "--json")


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_check_finds_the_damage_and_exits_with_1(main, place, damage):
    damage(place / "art")
    found = main("check", "art")
    assert found.code == 1
    assert found.out.startswith("wrong: ")
    assert DAMAGE[damage] in found.out
    told = main("check", "art", "--json")
    assert told.code == 1
    assert told.json["ok"] is False
    assert DAMAGE[damage] in told.json["findings"][0]


@pytest.mark.parametrize("damage", [flip_a_byte, change_the_version], ids=lambda f: f.__name__)
def test_no_task_is_added_to_a_damaged_artifact(refused, place, damage):
    damage(place / "art")
    words = refused(*fit(out="art"), "--name", "new", "--max-length", "16", "-q")
    assert DAMAGE[damage] in words


def test_a_folder_that_is_no_artifact(refused):
    for command in ("inspect", "tasks", "eval"):
        words = refused(command, "data", *(["-t", "sst2"] if command == "eval" else []))
        assert "`data` is not an artifact" in words
        assert "compress fit -o" in words


@pytest.fixture
def wrong(place, tiny_artifact):
    """Things that are no artifacts, in the current folder."""
    (place / "export").mkdir()
    (place / "export" / "model.onnx").write_bytes(b"")
    (place / "x.patch").write_bytes(pack_task(open_artifact(tiny_artifact), "sst2"))
    (place / "x.zip").write_bytes(b"PK\3\4")
    (place / "rows.csv").write_text("body,queue\n")
    return place


@pytest.mark.parametrize(
    ("path", "fact", "hint"),
    [
        ("export", "it is an exported task", "`compress predict export` answers with it"),
        ("export/model.onnx", "it is a single graph", "`compress predict export` answers"),
        ("x.patch", "it is a packed task", "`compress unpack x.patch ARTIFACT`"),
        ("x.zip", "it is an archive", "unpack it"),
        ("rows.csv", "it is a file of rows", "`compress fit demo --data rows.csv -o artifact`"),
        ("model", "it is a plain model", "`compress fit model --task TASK -o artifact`"),
        ("none", "there is no such file or folder", "compress fit -o"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "X"],
        ["eval", "X", "-t", "sst2"],
        ["export", "X", "-t", "sst2", "--onnx", "-o", "new"],
        ["pack", "X", "-t", "sst2"],
    ],
    ids=lambda command: command[0],
)
def test_what_is_given_instead_of_an_artifact_is_named(refused, wrong, command, path, fact, hint):
    words = refused(*(path if word == "X" else word for word in command))
    assert f"error: `{path}` is not an artifact: cannot read its `maskpack.json`\n" in words
    assert f"hint: {fact}; " in words
    assert hint in words


@pytest.mark.parametrize(
    ("path", "fact"),
    [("x.zip", "it is an archive"), ("art", "it is an artifact"), ("none", "there is no such")],
)
def test_what_is_no_packed_task_is_not_unpacked(refused, wrong, path, fact):
    words = refused("unpack", path, "art")
    assert f"`{path}` is not a packed task: {fact}" in words
    assert "hint: give the file that `compress pack` wrote" in words


@pytest.mark.parametrize(
    ("path", "fact", "hint"),
    [
        ("art", "it is an artifact", "`compress export art --onnx --task TASK -o OUT`"),
        ("export/model.onnx", "it is a single graph", "`export`"),
        ("x.patch", "it is a packed task", "`compress unpack x.patch ARTIFACT`"),
        ("x.zip", "it is an archive", "unpack it"),
        ("rows.csv", "it is a file of rows", "compress export --onnx -o"),
        ("model", "it is a plain model", "`compress fit model`"),
        ("none", "there is no such file or folder", "compress export --onnx -o"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "X"],
        ["verify", "X", "-a", "art", "-t", "sst2"],
        ["package", "X", "-o", "new", "--target", "ort"],
        ["materialize", "X", "-o", "new"],
    ],
    ids=lambda command: command[0],
)
def test_what_is_given_instead_of_an_export_is_named(refused, wrong, command, path, fact, hint):
    words = refused(*(path if word == "X" else word for word in command))
    assert f"error: no exported task at `{path}`\n" in words
    assert f"hint: {fact}; " in words
    assert hint in words


def test_a_task_that_the_artifact_does_not_hold(refused):
    words = refused("eval", "art", "-t", "nope", "--data", "data")
    assert "`art` has no task `nope`" in words
    assert "tasks in it: sst2" in words


def test_an_evaluation_without_data(refused):
    words = refused("eval", "art", "-t", "sst2")
    assert "the evaluation data of `sst2` is not at hand" in words
    assert "--data" in words


def test_an_export_without_a_task_of_several_names_them(refused, main):
    assert main("pack", "art", "-o", "a.patch").code == 0
    assert main("unpack", "a.patch", "art", "--name", "two").code == 0
    words = refused("export", "art", "--onnx", "-o", "graph")
    assert "several tasks are in `art`" in words
    assert (
        "name one with `--task`: sst2, two; `--layout shared`, `swap` and `trunk` take all" in words
    )
    words = refused("export", "art", "--onnx", "-o", "graph", "-t", "sst2", "-t", "two")
    assert "expected one `--task`, 2 are given: sst2, two" in words
    assert "`model` is not an artifact" in refused("export", "model", "--onnx", "-o", "graph")


def test_an_export_without_a_format(refused):
    words = refused("export", "art", "-t", "sst2", "-o", "graph")
    assert "expected one format" in words
    assert "--onnx" in words


def test_an_export_to_a_place_that_is_taken(refused):
    words = refused("export", "art", "-t", "sst2", "--onnx", "-o", "data")
    assert "`data` already exists" in words


def test_a_verification_without_a_graph(refused):
    words = refused("verify", "data", "-a", "art", "-t", "sst2")
    assert "no exported task at `data`" in words
    assert "compress export" in words


def test_a_verification_of_garbage(refused, place):
    (place / "graph").mkdir()
    (place / "graph" / "model.onnx").write_bytes(b"garbage")
    card = TaskConfig("sst2", "classification", ("bad", "good"), 16, (0, "[PAD]"))
    (place / "graph" / "task.json").write_text(card.to_json())
    words = refused("verify", "graph", "-a", "art", "-t", "sst2")
    assert "cannot load `graph/model.onnx`" in words


def test_options_that_cannot_be_saved(refused):
    words = refused(*fit(), "--save-config", "nowhere/run.yaml", hint=False)
    assert "cannot write `nowhere/run.yaml`: No such file" in words


def test_a_checkpoint_of_another_run(main, place, refused, tiny_model):
    from maskpack.compressor.training.checkpoint import FolderCheckpoints

    folder = place / ".new.sst2.unfinished"
    folder.mkdir()
    import torch
    from safetensors.torch import save_file

    meta = {"maskpack": json.dumps({"step": 1, "key": "another", "eps": []})}
    save_file({"parameter/score": torch.zeros(1)}, folder / "state.safetensors", metadata=meta)
    assert FolderCheckpoints(folder, 1, "another", True).found()
    words = refused(*fit(), "--max-length", "16", "-q", "--resume")
    assert "belongs to a run with other options or data" in words
    assert "without `--resume`" in words
