"""Masks that are filled, on the command line: learned from lines, exported, answered, and where another task starts."""

from __future__ import annotations

import json

import pytest

from maskpack.formats import open_artifact

QUICK = (
    *("--steps", 3, "--bits", 4, "--group", 16, "--batch-size", 16),
    *("--max-length", 16, "--teacher", "none", "-q"),
)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "letters.txt"
    path.write_text("\n".join(f"the film was word{n % 18}" for n in range(60)) + "\n")
    return path


def test_lines_are_learned_and_masks_filled(main, tiny_model, lines, sentiment, tmp_path):
    place, out = tmp_path / "a", tmp_path / "g"
    done = main("fit", tiny_model, "--data", lines, "--type", "fill-mask", *QUICK, "-o", place)
    assert done.code == 0, done.err
    done = main("eval", place, "--data", lines, "--json")
    assert (done.code, json.loads(done.out)["same_data"]) == (0, True)
    done = main("export", place, "--onnx", "--compute", "fp32", "--data", lines, "-o", out)
    assert done.code == 0, done.err
    done = main("eval", place, "--onnx", out, "--data", lines, "--json")
    assert json.loads(done.out)["scores"]["perplexity"] == pytest.approx(
        open_artifact(place).entry("letters").scores["perplexity"], rel=1e-4
    )
    done = main("predict", out, stdin="the [MASK] was good\nthe film\n[MASK] and [MASK]\n")
    assert done.code == 1, "a row has nothing to fill in"
    first, _, last = (json.loads(line) for line in done.out.splitlines())
    assert [len(row["masks"]) for row in (first, last)] == [1, 2]
    assert len(first["masks"][0]["tokens"]) == 5
    assert set(first["masks"][0]["tokens"][0]) == {"token", "score", "text"}
    assert "`the film` has no mask to fill: `[MASK]` stands nowhere in it" in done.out + done.err
    done = main("package", out, "--target", "web", "-o", tmp_path / "web")
    assert done.code == 0, done.err
    assert "letters: logits as before" in done.err
    page = tmp_path / "page.html"
    done = main("report", place, "--data", lines, "-o", page)
    assert done.code == 0, done.err
    assert "perplexity" in page.read_text(encoding="utf-8")
    done = main(
        *("fit", tiny_model, "--task", "sst2", "--data", sentiment, "--from", "letters"),
        *(*QUICK, "-o", place),
    )
    assert done.code == 0, done.err
    assert open_artifact(place).entry("sst2").data["started_from"] == "letters"
    done = main("inspect", place)
    assert done.code == 0
    assert "letters" in done.out


def test_a_column_of_labels_is_refused_in_words_of_options(main, tiny_model, lines, tmp_path):
    said = ("--type", "fill-mask", "--text-field", "text", "--label-field", "label")
    done = main("fit", tiny_model, "--data", lines, *said, *QUICK, "-o", tmp_path / "a")
    assert done.code == 1
    assert "a text is its own label in a fill-mask task, and `label_field` is `label`" in done.err
    assert "leave `--label-field` out" in done.err


def test_the_types_of_tasks_name_it(main):
    done = main("tasks")
    assert "fill-mask" in done.out + done.err
