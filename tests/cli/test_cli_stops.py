"""A run that is cut off from outside: signals, a full disk, a closed pipe, a bug of ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers

from maskpack.formats import MaskpackError

SCRIPT = str(Path(sys.executable).parent / "compress")


@pytest.fixture
def place(work, tiny_model, sentiment, tiny_artifact):
    shutil.copytree(tiny_model, work / "model")
    shutil.copytree(sentiment, work / "data")
    shutil.copytree(tiny_artifact, work / "art")
    return work


def fit(out, *more):
    options = [
        "--batch-size",
        "16",
        "--max-length",
        "16",
        "--precision",
        "fp32",
        "--teacher",
        "none",
        "--bits",
        "4",
        "--group",
        "16",
        "-q",
    ]
    return ["fit", "model", "-t", "sst2", "--data", "data", "-o", out, *options, *more]


def wait_for(path, process):
    """Wait until a file is there; a process that ends before that has failed."""
    end = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_ctrl_c_keeps_the_checkpoint_and_resume_ends_in_the_same_bytes(
    place, environment, main, snapshot
):
    before = snapshot(place)
    run = fit("new", "--steps", "120", "--checkpoint-every", "20")
    process = subprocess.Popen(
        [SCRIPT, *run], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    state = place / ".new.sst2.unfinished" / "state.safetensors"
    wait_for(state, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[0].startswith("error: stopped; the checkpoint is kept in `")
    assert "--resume" in err.splitlines()[1]
    left = snapshot(place)
    assert {name: left[name] for name in before} == before
    assert "new" not in left

    again = main(*run, "--resume", "--json")
    assert again.code == 0
    assert not state.parent.exists()
    whole = main(*fit("whole", "--steps", "120", "--checkpoint-every", "20"), "--json")
    assert again.json["zeros"] == whole.json["zeros"] > 0
    assert snapshot(place / "new") == snapshot(place / "whole")


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing(main, place, snapshot, failing):
    failing(KeyboardInterrupt())
    before = snapshot(place)
    found = main(*fit("new", "--steps", "3"))
    assert found.code == 1
    assert found.err == "error: stopped before the first checkpoint; nothing was written\n"
    assert snapshot(place) == before


EVAL = ["eval", "art", "-t", "sst2", "--data", "data"]


def test_ctrl_c_outside_of_training_exits_with_1_and_a_word(main, place, failing):
    failing(KeyboardInterrupt())
    found = main(*EVAL)
    assert found.code == 1
    assert found.err.startswith("error: stopped")


@pytest.mark.parametrize("command", ["fit", "export"])
def test_a_full_disk_exits_with_1_and_leaves_nothing(main, place, snapshot, full_disk, command):
    args = fit("new", "--steps", "2")
    if command == "export":
        args = ["export", "art", "-t", "sst2", "--onnx", "-o", "new"]
    before = snapshot(place)
    with full_disk():
        found = main(*args)
    assert found.code == 1
    fact, hint = found.err.splitlines()
    assert fact.startswith("error: cannot write `")
    assert fact.endswith(": File too large")
    assert hint.startswith("hint: check free space and permissions")
    assert found.out == ""
    assert snapshot(place) == before


def test_a_full_temporary_folder_is_not_called_a_bug(main, place, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", full)
    found = main(*fit("new", "--steps", "1"))
    assert found.code == 1
    assert "No space left on device" in found.err.splitlines()[0]


def test_a_bug_exits_with_70_and_asks_for_a_report(main, place, failing):
    failing(RuntimeError("an unexpected thing"))
    found = main(*EVAL)
    assert found.code == 70
    assert found.err.startswith("this is a bug in maskpack; please report it")
    assert "RuntimeError: an unexpected thing" in found.err
    assert "in answers" in found.err
    assert found.out == ""


def test_an_error_of_ours_is_never_called_a_bug(main, place, failing):
    failing(MaskpackError("the fact"))
    found = main(*EVAL)
    assert (found.code, found.out, found.err) == (1, "", "error: the fact\n")


@pytest.mark.parametrize(
    "args", [["tasks"], ["tasks", "--json"], ["inspect", "art", "--json"], ["--help"]]
)
def test_a_reader_that_went_away_is_no_traceback(place, environment, args):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [SCRIPT, *args], env=environment, stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


def test_the_head_of_a_listing_can_be_taken(place, environment):
    line = f"set -o pipefail; '{SCRIPT}' tasks | head -1"
    done = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
