"""`compress pack` and its kin, typed as a user types them."""

from __future__ import annotations

import shutil

import pytest


def call(main, *args, code=0):
    """What a call printed; it must end with this code."""
    outcome = main(*args)
    assert outcome.code == code, outcome.err
    return outcome


@pytest.fixture
def artifact(tiny_artifact, tmp_path):
    """A copy of an artifact with the task `sst2`."""
    return shutil.copytree(tiny_artifact, tmp_path / "artifact")


def test_pack_remove_unpack_is_a_way_there_and_back(main, artifact, tiny_artifact, tmp_path):
    packed = tmp_path / "sst2.patch"
    found = call(main, "pack", artifact, "-t", "sst2", "-o", packed, "--json").json
    assert found["bytes"] == packed.stat().st_size < found["stored_bytes"] + 2000
    assert "holds the tasks: none" in call(main, "remove", artifact, "-t", "sst2").out
    tree = call(main, "unpack", packed, artifact, "--json").json
    assert tree == {"artifact": str(artifact), "tasks": ["sst2"]}
    assert "byte for byte" in call(main, "diff", artifact, tiny_artifact).out
    assert "is sound" in call(main, "check", artifact).out


def test_a_file_that_is_there_is_not_overwritten_unasked(main, artifact, tmp_path):
    packed = tmp_path / "x.patch"
    packed.write_text("mine")
    found = call(main, "pack", artifact, "-t", "sst2", "-o", packed, code=1)
    assert "already exists" in found.err
    assert packed.read_text() == "mine"
    call(main, "pack", artifact, "-t", "sst2", "-o", packed, "--replace")
    assert packed.read_bytes() != b"mine"


def test_unpack_names_what_is_wrong(main, artifact, tmp_path):
    assert (
        "there is no such file" in call(main, "unpack", tmp_path / "absent", artifact, code=1).err
    )
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    assert "not a packed-patch" in call(main, "unpack", tmp_path / "noise", artifact, code=1).err
    packed = tmp_path / "p"
    call(main, "pack", artifact, "-t", "sst2", "-o", packed)
    found = call(main, "unpack", packed, artifact, code=1)
    assert "already has a task `sst2`" in found.err
    assert "holds the tasks: other, sst2" in (
        call(main, "unpack", packed, artifact, "--name", "other").out
    )


def test_rename_and_merge(main, artifact, tiny_artifact):
    assert "both artifacts have a task `sst2`" in (
        call(main, "merge", artifact, tiny_artifact, code=1).err
    )
    assert "holds the tasks: mood" in (
        call(main, "rename", artifact, "-t", "sst2", "--name", "mood").out
    )
    assert "holds the tasks: mood, sst2" in call(main, "merge", artifact, tiny_artifact).out
    pairs = call(main, "overlap", artifact, "--json").json
    assert [(pair["first"], pair["second"], pair["jaccard"]) for pair in pairs] == [
        ("mood", "sst2", 1.0)
    ]
    assert "mood, sst2" in call(main, "overlap", artifact).out


def test_a_difference_is_exit_1_and_says_which(main, artifact, tiny_artifact):
    call(main, "rename", artifact, "-t", "sst2", "--name", "mood")
    found = call(main, "diff", artifact, tiny_artifact, code=1).out
    assert f"only in {artifact}: mood" in found
    assert f"only in {tiny_artifact}: sst2" in found
    tree = call(main, "diff", artifact, tiny_artifact, "--json", code=1).json
    assert (tree["same"], tree["same_backbone"], tree["only_a"]) == (False, True, ["mood"])


def test_a_task_is_exported_as_a_plain_model(main, artifact, tmp_path):
    found = call(main, "export", artifact, "--hf", "-t", "sst2", "-o", tmp_path / "hf", "--json")
    assert found.json["zeros"] > 0
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    again = call(main, "export", artifact, "--hf", "-t", "sst2", "-o", tmp_path / "hf", code=1)
    assert "already exists" in again.err
    both = ("export", artifact, "--hf", "--onnx", "-t", "sst2", "-o", tmp_path / "x")
    assert "expected one format" in call(main, *both, code=1).err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hf", "--data", "rows.csv"), "`--data` is for `--onnx`"),
        (("--hf", "--compute", "int8"), "`--compute` is for `--onnx`"),
        (("--hf", "--no-verify"), "`--no-verify` is for `--onnx`"),
        (("--hf", "--plain-attention"), "`--plain-attention` is for `--onnx`"),
        (("--onnx", "--no-verify", "--data", "rows.csv"), "`--data` is for the comparison"),
        (("--onnx", "--no-verify", "--max-drop", "1"), "`--max-drop` is for the comparison"),
        (
            ("--onnx", "--packed"),
            "`--packed` is for layouts of several tasks, such as `--layout shared`",
        ),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(main, artifact, tmp_path, options, said):
    found = call(main, "export", artifact, "-t", "sst2", *options, "-o", tmp_path / "x", code=1)
    assert said in found.err
    assert not (tmp_path / "x").exists()
