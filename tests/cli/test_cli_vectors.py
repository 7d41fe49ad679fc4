"""Vectors and entities on the command line: learned from rows, exported, answered."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskpack.runtime import Session

QUICK = (
    *("--steps", 3, "--bits", 4, "--group", 16, "--batch-size", 16),
    *("--max-length", 16, "--teacher", "none", "-q"),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "pages.jsonl"
    found = [{"query": f"the word{n % 18}", "document": f"word{n % 18} film"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, found)))
    return path


def learned(main, model, rows, tmp_path):
    kind = ("--type", "sentence-similarity", "--prefix", "we : ", "--pair-prefix", "it : ")
    done = main("fit", model, "--data", rows, *kind, *QUICK, "-o", tmp_path / "a")
    assert done.code == 0, done.err
    out = tmp_path / "g"
    done = main("export", tmp_path / "a", "--onnx", "--compute", "fp32", "--data", rows, "-o", out)
    assert done.code == 0, done.err
    return out


def test_vectors_go_into_a_file_of_numpy(main, tiny_model, rows, tmp_path):
    out = learned(main, tiny_model, rows, tmp_path)
    texts = ["the word1", "word2 film"]
    for flags, second in (((), False), (("--second",), True)):
        done = main("predict", out, "--npy", tmp_path / "v.npy", *flags, stdin="\n".join(texts))
        assert (done.code, done.out) == (0, "")
        assert "2 vectors of 32 numbers" in done.err
        found = np.load(tmp_path / "v.npy")
        assert np.array_equal(found, Session(out).embed(texts, second=second))
    (line,) = main("predict", out, stdin=texts[0]).out.splitlines()
    assert json.loads(line)["vector"] == pytest.approx(
        Session(out).embed(texts)[0].tolist(), abs=1e-6
    )
    done = main("predict", out, "--second", stdin=texts[0])
    assert done.code == 1
    assert "`--second` and `--npy FILE` are of one task" in done.err


def test_a_table_as_the_task_was_learned_from_has_both_texts(main, tiny_model, rows, tmp_path):
    out = learned(main, tiny_model, rows, tmp_path)
    table = [json.loads(line) for line in rows.read_text().splitlines()]
    for flags, column in (((), "query"), (("--second",), "document")):
        done = main("predict", out, "--data", rows, "--npy", tmp_path / "v.npy", *flags)
        assert done.code == 0, done.err
        assert f"`{column}` is taken as the text" in done.err
        wanted = Session(out).embed([row[column] for row in table], second=bool(flags))
        assert np.array_equal(np.load(tmp_path / "v.npy"), wanted)
    first, *_ = main("predict", out, "--data", rows).out.splitlines()
    assert json.loads(first).keys() == {"vector"}
    (tmp_path / "own.csv").write_text("text\nthe film\n")
    done = main("predict", out, "--data", tmp_path / "own.csv", "--npy", tmp_path / "v.npy")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "v.npy").shape == (1, 32)
    for other in ("--csv", "--all", "--windows"):
        done = main("predict", out, "--npy", tmp_path / "v.npy", other, stdin="the film")
        assert done.code == 1
        assert f"`--npy` goes without `{other}`" in done.err


def test_only_a_task_of_vectors_writes_them(main, tiny_artifact, sentiment, tmp_path):
    out = tmp_path / "g"
    main("export", tiny_artifact, "--onnx", "--compute", "fp32", "--data", sentiment, "-o", out)
    done = main("predict", out, "--npy", tmp_path / "v.npy", stdin="good")
    assert done.code == 1
    assert "`sst2` is a classification and gives no vectors" in done.err
    assert not (tmp_path / "v.npy").exists()


def test_words_with_tags_in_lines_are_a_task_of_entities(main, tiny_model, tmp_path):
    path = tmp_path / "names.conll"
    path.write_text("\n\n".join("the O\ngood B-praise\nfilm O" for _ in range(40)))
    done = main("fit", tiny_model, "--data", path, *QUICK, "-o", tmp_path / "a")
    assert done.code == 0, done.err
    out = tmp_path / "g"
    done = main("export", tmp_path / "a", "--onnx", "--compute", "fp32", "--data", path, "-o", out)
    assert done.code == 0, done.err
    first, *_ = main("predict", out, "--data", path).out.splitlines()
    assert json.loads(first)["expected"] == [{"start": 4, "end": 8, "label": "praise"}]
    _, line, *_ = main("predict", out, "--data", path, "--csv").out.splitlines()
    assert line.startswith("the good film,")
    assert line.endswith(",praise: good")
