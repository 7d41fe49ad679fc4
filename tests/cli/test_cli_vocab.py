"""`compress vocab` and `compress export --vocab`: what is printed, and which option a refusal names."""

from __future__ import annotations

import json

import pytest

from maskpack.formats import check_artifact

TEXTS = "the film was great\nwe and this story\n"


@pytest.fixture
def texts(write):
    return write("texts.txt", TEXTS)


def test_an_artifact_and_its_next_step(main, tiny_artifact, texts, write, tmp_path):
    others = write("others.txt", "the film\nword3 was broken\n")
    out = tmp_path / "small"
    done = main("vocab", tiny_artifact, "--text", texts, "--try", others, "-o", out)
    assert done.code == 0, done.err
    assert check_artifact(out) == []
    rows = [line.split() for line in done.out.splitlines()]
    assert ["texts.txt", "made", "for", "2", "100.00%"] in [row[:5] for row in rows]
    assert ["others.txt", "tried", "2", "50.00%"] in [row[:4] for row in rows]
    assert f"`compress eval {out}` measures again" in done.err
    done = main("inspect", out)
    assert done.code == 0, done.err
    done = main("eval", out, "--task", "sst2", "--json")
    assert done.code == 1  # its data does not ship
    assert "--data" in done.err


def test_eval_and_pack_on_it(main, tiny_artifact, texts, sentiment, tmp_path):
    out = tmp_path / "small"
    assert main("vocab", tiny_artifact, "--text", texts, "-o", out).code == 0
    done = main("vocab", out, "--text", texts, "-o", tmp_path / "again")
    assert done.code == 1
    assert "hint: give less with `--text` or `--script`, or a smaller `--keep`" in done.err
    done = main("vocab", tiny_artifact, "--text", sentiment / "train.tsv", "-o", tmp_path / "all")
    assert done.code == 0, done.err
    done = main("eval", tmp_path / "all", "--data", sentiment, "--json")
    assert done.code == 0, done.err
    before = main("eval", tiny_artifact, "--data", sentiment, "--json")
    assert json.loads(done.out)["scores"] == json.loads(before.out)["scores"]
    done = main("pack", tmp_path / "all", "-o", tmp_path / "sst2.patch")
    assert done.code == 0, done.err
    done = main("unpack", tmp_path / "sst2.patch", tiny_artifact, "--name", "again")
    assert done.code == 1
    assert "backbone" in done.err


def test_a_model_as_json(main, tiny_model, texts, tmp_path):
    out = tmp_path / "small"
    done = main("vocab", tiny_model, "--text", texts, "--json", "-o", out)
    assert done.code == 0, done.err
    told = done.json
    assert told["tokens_before"] == 45
    assert told["rows"] == told["tokens"] == len((out / "vocab.txt").read_text().splitlines())
    assert told["texts"][0]["equal_share"] == 1
    assert told["tries"] == []
    assert not told["artifact"]
    assert f"compress fit {out} --task TASK" not in done.err  # data and nothing else


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "hint: give `--text`, `--script` or `--keep`"),
        (("--keep", 3), "hint: give `--keep 6` or more"),
        (("--script", "Klingon"), "its names are English, such as Latin"),
    ],
)
def test_hints_name_options(main, tiny_artifact, tmp_path, options, words):
    done = main("vocab", tiny_artifact, *options, "-o", tmp_path / "small")
    assert done.code == 1
    assert words in done.err
    assert not (tmp_path / "small").exists()


def test_a_graph_with_fewer_tokens(main, tiny_artifact, texts, sentiment, tmp_path):
    call = ("export", tiny_artifact, "--onnx", "--vocab", texts, "--compute", "fp32")
    out = tmp_path / "graph"
    done = main(*call, "--data", sentiment, "-o", out, "--max-drop", 100)
    assert done.code == 0, done.err
    assert "of 50 tokens" in done.err
    done = main("predict", out, stdin=TEXTS)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2
    done = main("verify", out, "--artifact", tiny_artifact, "--data", sentiment, "--max-drop", 100)
    assert done.code == 0, done.err
    assert "of 45 tokens: it is compared with the artifact's task with these" in done.err
    done = main("export", tiny_artifact, "--hf", "--vocab", texts, "-o", tmp_path / "plain")
    assert done.code == 0, done.err
    small = json.loads((tmp_path / "plain" / "config.json").read_text())["vocab_size"]
    assert small == json.loads((out / "config.json").read_text())["vocab_size"]
    done = main(
        *call, "--layout", "shared", "--data", sentiment, "-o", tmp_path / "all", "--max-drop", 100
    )
    assert done.code == 0, done.err
    assert "of 50 tokens" in done.err


def test_an_artifact_of_drawn_weights_grows_and_says_so(main, tiny_model, texts, tmp_path):
    drawn = tmp_path / "drawn"
    assert main("quantize", tiny_model, "--random", "7", "--bits", "1", "-o", drawn).code == 0
    done = main("vocab", drawn, "--text", texts, "-o", tmp_path / "small")
    assert done.code == 0, done.err
    assert "warning: it is larger than before" in done.err
