"""`compress refit`: an artifact and another backbone in, tasks and a table out."""

from __future__ import annotations

import shutil

import pytest

from maskpack.formats import open_artifact

SHORT = [
    *("--steps", "20", "--batch-size", "16", "--precision", "fp32", "--margin", "0.5"),
    *("--bits", "8"),
]


@pytest.fixture
def place(work, tiny_artifact, sentiment):
    """An artifact and lines of text in a working directory."""
    shutil.copytree(tiny_artifact, work / "old")
    lines = (sentiment / "train.tsv").read_text().splitlines()[1:]
    (work / "texts.txt").write_text("".join(f"{line.split(chr(9))[0]}\n" for line in lines))
    return work


def test_tasks_are_carried_over_and_shown_beside_their_old_selves(main, place, tiny_model):
    asked = ("refit", "old", "--onto", tiny_model, "--texts", "texts.txt", "-o", "new", *SHORT)
    found = main(*asked, "--json")
    assert found.code == 0, found.err
    (task,) = found.json["tasks"]
    assert (task["name"], task["labelled"], found.json["bits"]) == ("sst2", False, 8)
    assert found.json["backbone_bytes"] > found.json["backbone_bytes_before"]
    assert open_artifact(place / "new").manifest.scheme.bits == 8
    again = main(*asked, "--resume")
    assert again.code == 0, again.err
    assert "there already" in again.out
    there = main(*asked)
    assert there.code == 1
    assert "already" in there.err
    shown = main(*asked, "--replace")
    assert shown.code == 0, shown.err
    assert "same answers" in shown.out
    assert "tasks over `bert` in 8 bits: 1" in shown.out


def test_what_is_missing_is_said_in_options(main, place, tiny_model):
    found = main("refit", "old", "--onto", tiny_model)
    assert found.code == 1
    assert "is no artifact that could take the tasks" in found.err
    assert "hint: name the artifact to write with `--out`" in found.err
    found = main("refit", "old", "--onto", tiny_model, "-o", "new")
    assert found.code == 1
    assert "hint: give its rows with `--data TASK=PATH`, with labels or without" in found.err
    found = main(
        "refit", "old", "--onto", tiny_model, "-o", "new", "--texts", "texts.txt", "-t", "nope"
    )
    assert found.code == 1
    assert "`old` has no task `nope`" in found.err
