"""`compress fit --snapshots` and `compress vote`."""

from __future__ import annotations

import json

from maskpack.formats import open_artifact


def test_a_run_with_snapshots_and_their_vote(main, tiny_model, sentiment, work):
    options = "--steps 30 --batch-size 16 --max-length 16 --bits 4 --teacher none --margin 0.5"
    cycles = "--schedule restarts --cycles 2 --snapshots"
    args = ["fit", tiny_model, "--task", "sst2", "--data", sentiment, "-o", "artifact"]
    found = main(*args, *options.split(), *cycles.split())
    assert found.code == 0, found.err
    assert "snapshots" in found.out
    assert "sst2-1" in found.out
    args = ["vote", "artifact", "sst2-1", "sst2", "--name", "voted", "--data", sentiment]
    told = main(*args, "--json")
    assert told.code == 0, told.err
    tree = json.loads(told.out)
    assert tree["task"] == "voted"
    assert tree["members"].keys() == {"sst2-1", "sst2"}
    assert tree["zeros"] == open_artifact(work / "artifact").entry("voted").zeros
    again = main(*args, "--replace")
    assert "evaluation rows" in again.out
    assert "`voted` is in artifact" in again.err
    wrong = main("vote", "artifact", "sst2", "--name", "x", "--data", sentiment)
    assert (wrong.code, "two different tasks" in wrong.err) == (1, True)


def test_json_of_a_run_names_its_snapshots(main, tiny_model, sentiment, work):
    options = "--steps 20 --batch-size 16 --max-length 16 --bits 4 --teacher none --json"
    cycles = "--schedule triangular --cycles 2 --snapshots"
    args = ["fit", tiny_model, "--task", "sst2", "--data", sentiment, "-o", "artifact"]
    tree = main(*args, *options.split(), *cycles.split()).json
    (one,) = tree["snapshots"]
    assert (one["task"], one["step"]) == ("sst2-1", 10)
    assert one["scores"].keys() == tree["scores"].keys()
