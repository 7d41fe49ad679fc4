"""`compress export --cut-positions`, and what `inspect` says that no task reads."""

from __future__ import annotations

import json

import pytest


def test_the_verdict_tells_what_is_left_out(main, tiny_artifact, sentiment, tmp_path):
    call = ("export", tiny_artifact, "--onnx", "--compute", "fp32", "--data", sentiment)
    done = main(*call, "--cut-positions", "--max-drop", 100, "-o", tmp_path / "less")
    assert done.code == 0, done.err
    assert "up to 16 tokens" in done.out
    whole = main(*call, "--json", "--max-drop", 100, "-o", tmp_path / "all").json["graph"]
    assert (whole["longest"], whole["cut_bytes"]) == (None, 0)
    less = json.loads((tmp_path / "less" / "maskpack_report.json").read_text())["graph"]
    assert less["longest"] == 16
    assert 0 < whole["bytes"] - less["bytes"] <= less["cut_bytes"]
    done = main("verify", tmp_path / "less", "-a", tiny_artifact, "--data", sentiment, "--json")
    assert done.json["graph"] == less


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (("--onnx", "--layout", "shared"), "`--cut-positions` is for `--layout folded`"),
        (("--hf",), "`--cut-positions` is for `--onnx`"),
    ],
)
def test_other_forms_have_no_such_option(main, tiny_artifact, tmp_path, more, fact):
    done = main("export", tiny_artifact, *more, "--cut-positions", "-o", tmp_path / "x")
    assert done.code == 1
    assert fact in done.err
    assert not (tmp_path / "x").exists()


def test_a_pooler_that_no_task_reads_is_shown(main, tiny_model, tiny_artifact, write, tmp_path):
    rows = [{"query": f"the word{n % 18}", "document": f"word{n % 18} film"} for n in range(40)]
    data = write("pages.jsonl", "\n".join(map(json.dumps, rows)))
    words = ("--data", data, "--type", "sentence-similarity", "--teacher", "none")
    sizes = ("--steps", 2, "--bits", 8, "--batch-size", 8, "--max-length", 16)
    done = main("fit", tiny_model, *words, *sizes, "-o", tmp_path / "a", "-q")
    assert done.code == 0, done.err
    assert "pooler that no task reads" in main("inspect", tmp_path / "a").out
    found = main("inspect", tmp_path / "a", "--json").json["unread_pooler_bytes"]
    assert found > 32 * 32  # a byte a weight, and scales and a bias
    assert main("inspect", tiny_artifact, "--json").json["unread_pooler_bytes"] == 0
