"""Questions on contexts, from a file as SQuAD's to answers in lines."""

from __future__ import annotations

import json

import pytest

from maskpack.formats import open_artifact

SHORT = ["--steps", 4, "--max-length", 24, "--precision", "fp32", "--bits", 4, "--group", 16]
CONTEXT = "the film was very good and this story we broken food it awful film very happy food"


@pytest.fixture
def squad(work):
    """`Asked.json`: forty contexts of two questions each, of which one has no answer."""
    paragraphs = []
    for number in range(40):
        context = f"{CONTEXT} word{number % 18} {'film ' * number}good"
        asked = [{"text": "happy food", "answer_start": context.index("happy")}]
        qas = [
            {"id": f"{number}a", "question": "this food", "answers": asked},
            {"id": f"{number}b", "question": "it", "answers": [], "is_impossible": True},
        ]
        paragraphs.append({"context": context, "qas": qas})
    path = work / "Asked.json"
    path.write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]})
    )
    return path


def test_a_file_as_squads_becomes_answers(main, work, squad, tiny_model):
    fit = main("fit", tiny_model, "--data", squad.name, *SHORT, "--stride", 5, "--teacher", "none")
    assert fit.code == 0, fit.err
    assert "`question` and `context` are taken as the text, `answers` as the label" in fit.err
    assert "held out 8 of 80 rows (10%) for evaluation, whole contexts" in fit.err
    assert "note: 80 questions, 40 of them without an answer in" in fit.err
    artifact = open_artifact(work / "artifact")
    entry = artifact.entry("asked")
    assert (entry.kind, entry.labels) == ("question-answering", ("start", "end"))
    assert (entry.requires, entry.config) == (("stride",), {"stride": 5, "no_answer": True})
    assert set(entry.scores) == {"answer_f1", "exact_match"}

    scored = main("eval", "artifact", "-t", "asked", "--data", squad.name, "--json")
    assert scored.json["same_data"] is True
    assert scored.json["scores"] == dict(entry.scores)
    how = ["--onnx", "--compute", "fp32", "-o", "graph", "--data", squad.name]
    exported = main("export", "artifact", "-t", "asked", *how)
    assert exported.code == 0, exported.err
    again = main("eval", "artifact", "--onnx", "graph", "--data", squad.name, "--json")
    assert again.json["scores"] == dict(entry.scores)

    pair = main("predict", "graph", "--pair", stdin=f"this food\t{CONTEXT}\n")
    assert set(pair.json) == {"text", "start", "end", "score"}
    assert pair.json["text"] == CONTEXT[pair.json["start"] : pair.json["end"]]
    lines = main("predict", "graph", "--data", squad.name).out.splitlines()
    assert len(lines) == 80
    assert json.loads(lines[0])["expected"] == [{"start": 72, "end": 82}]
    assert json.loads(lines[1])["expected"] == []
    table = main("predict", "graph", "--data", squad.name, "--csv").out.splitlines()
    assert table[0] == "text,pair,asked,expected"
    assert table[1].endswith(",happy food")

    packed = main("package", "graph", "--target", "web", "-o", "web")
    assert packed.code == 0, packed.err
    assert "answers a question, or none" in (work / "web" / "README.md").read_text()
    assert main("inspect", "artifact").code == 0
    assert main("report", "artifact", "-o", "page.html").code == 0


def test_a_dense_teacher_and_rows_without_a_label(main, work, squad, tiny_model):
    rows = [
        {"question": "this food", "context": CONTEXT, "answers": [{"text": "very", "start": 13}]}
        for _ in range(20)
    ]
    rows += [{**rows[0], "answers": None}] * 5
    (work / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--data", "rows.jsonl", "--eval-data", squad.name, "--unlabelled", "teach"]
    fit = main("fit", tiny_model, *given, *SHORT, "--patience", 1, "--teacher", "twin")
    assert fit.code == 0, fit.err
    assert "a dense teacher is trained first" in fit.err
    entry = open_artifact(work / "artifact").entry("rows")
    assert entry.data["rows_without_label"] == {"train": 5, "eval": 0, "learned": 5}


def test_options_that_do_not_fit_are_refused(main, work, squad, tiny_model):
    wrong = main("fit", tiny_model, "--data", squad.name, *SHORT, "--type", "question-answering",
                 "--text-field", "question", "--label-field", "answers")  # fmt: skip
    assert wrong.code == 1
    assert "give the column of the second with `--pair-field`" in wrong.err
    (work / "rows.csv").write_text("text,label\ngood,a\nbad,b\n")
    wrong = main("fit", tiny_model, "--data", "rows.csv", "--stride", 4)
    assert wrong.code == 1
    assert "leave `--stride` out" in wrong.err
    pooled = main("fit", tiny_model, "--data", squad.name, *SHORT, "--pooling", "mean")
    assert "a question-answering answers for each token" in pooled.err
