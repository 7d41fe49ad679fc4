"""Somebody with a table and a deadline: their own rows, from the file to the answer."""

from __future__ import annotations

import json
import re

import pytest

from maskpack.formats import open_artifact

WORDS = {"Praise": "good", "Complaint": "bad", "Other": "story"}
SHORT = [
    "--steps",
    "6",
    "--batch-size",
    "16",
    "--max-length",
    "12",
    "--precision",
    "fp32",
    "--teacher",
    "none",
    "--bits",
    "4",
    "--group",
    "16",
]
COLUMNS = ["--text-field", "body", "--label-field", "queue"]


@pytest.fixture
def table(work):
    """`My Tickets.csv` in the current folder: three queues, one of them rare."""
    lines = ["id,body,queue"]
    for row in range(120):
        queue = ("Praise", "Complaint", "Other")[row % 2 if row % 30 else 2]
        lines.append(f"{row},the {WORDS[queue]} film word{row % 18} was very word{row % 7},{queue}")
    (work / "My Tickets.csv").write_text("\n".join(lines) + "\n")
    return "My Tickets.csv"


def test_a_table_becomes_a_task_without_a_word_more_than_needed(main, work, table, tiny_model):
    fit = main("fit", tiny_model, "--data", table, *COLUMNS, *SHORT)
    assert fit.code == 0, fit.err
    entry = open_artifact(work / "artifact").entry("my-tickets")
    assert entry.labels == ("Complaint", "Other", "Praise")
    assert set(entry.scores) == {"accuracy", "macro_f1", "matthews"}
    assert "note: held out 13 of 120 rows (11%) for evaluation" in fit.err
    assert "Other 3 + 1, Praise" in fit.err
    assert "warning: `" in fit.err
    assert "-t my-tickets --onnx -o my-tickets-onnx --data 'My Tickets.csv'" in fit.err

    scored = main("eval", "artifact", "-t", "my-tickets", "--data", table, "--json")
    assert scored.json["same_data"] is True
    assert scored.json["scores"] == dict(entry.scores)
    assert [one["label"] for one in scored.json["classes"]] == list(entry.labels)
    shown = main("eval", "artifact", "-t", "my-tickets", "--data", table).out
    assert "precision   recall" in shown

    loose = ["--max-drop", "100", "--rtol", "9"]
    assert main("export", "artifact", "-t", "my-tickets", "--onnx", "-o", "g", *loose).code == 0
    config = json.loads((work / "g" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(entry.labels)
    (work / "texts.txt").write_text("the good film\n")
    assert main("predict", "g", "--texts", "texts.txt").json["scores"].keys() == set(entry.labels)


def test_plain_names_of_columns_are_taken_and_said(main, work, tiny_model):
    rows = [f"{i},{'good' if i % 2 else 'bad'} film word{i % 18},{i % 2}" for i in range(60)]
    (work / "tickets.csv").write_text("\n".join(["id,Text,label", *rows]))
    fit = main("fit", tiny_model, "--data", "tickets.csv", *SHORT)
    assert fit.code == 0, fit.err
    first = fit.err.splitlines()[0]
    assert first.startswith("note: of `tickets.csv` `Text` is taken as the text, `label` as the")
    assert open_artifact(work / "artifact").entry("tickets").labels == ("0", "1")
    scored = main("eval", "artifact", "-t", "tickets", "--data", "tickets.csv", "--json")
    assert scored.json["same_data"] is True
    again = ["fit", tiny_model, "--data", "tickets.csv", "--name", "second", *SHORT, "--json", "-q"]
    assert main(*again).err == ""
    named = main("fit", tiny_model, "-t", "tickets", "--data", "tickets.csv", "-o", "b", *SHORT)
    assert "`tickets.csv` has no column `text`" in named.err  # the sample's, as it is asked for


@pytest.mark.parametrize("command", [["fit"], ["baseline", "--method", "head"]])
def test_columns_that_are_not_plain_are_asked_for(main, work, table, tiny_model, command):
    found = main(*command[:1], tiny_model, *command[1:], "--data", table)
    assert (found.code, found.out) == (1, "")
    error, hint = found.err.splitlines()
    assert error == "error: which columns of `My Tickets.csv` are the text and the label?"
    assert hint.startswith("hint: `My Tickets.csv` has the columns id, body, queue; choose with")
    assert sorted(path.name for path in work.iterdir()) == [table]


def test_a_teacher_that_is_trained_first_is_announced(main, table, tiny_model):
    usual = SHORT[: SHORT.index("--teacher")] + SHORT[SHORT.index("--teacher") + 2 :]
    fit = main("fit", tiny_model, "--data", table, *COLUMNS, *usual)
    assert fit.code == 0, fit.err
    assert re.search(
        r"note: a dense teacher is trained first, in 6 steps\n"
        r"(my-tickets \(teacher\) \d/6 loss .*\n)+"
        r"note: the teacher has accuracy [01]\.\d{4} on the evaluation rows\n"
        r"my-tickets 1/6 loss ",
        fit.err,
    )


def test_a_teachers_score_is_the_one_it_was_trained_to(main, table, tiny_model):
    options = ("--data", table, *COLUMNS, *SHORT)
    twin = main("baseline", tiny_model, *options, "--method", "full", "-o", "dense", "--json")
    fit = main("fit", tiny_model, *options, "--bits", "8", "--teacher", "dense", "-o", "a")
    assert fit.code == 0, fit.err
    told = twin.json["scores"]["accuracy"]
    assert f"note: the teacher has accuracy {told:.4f} on the evaluation rows\n" in fit.err


def test_several_labels_a_row_go_all_the_way(main, work, tiny_model):
    lines = ["body;queue"]
    for row in range(80):
        told = [name for name, every in (("Praise", 2), ("Complaint", 3)) if row % every == 0]
        words = " ".join(WORDS[name] for name in told)
        lines.append(f"{words} film word{row % 18};{'|'.join(told)}")
    (work / "tones.csv").write_text("\n".join(lines))
    given = ["--data", "tones.csv", *COLUMNS, "--label-separator", "|", "-o", "art"]
    fit = main("fit", tiny_model, *given, *SHORT, "--json")
    assert fit.code == 0, fit.err
    assert fit.json["metric"] == "micro_f1"
    scored = main("eval", "art", "-t", "tones", "--data", "tones.csv", "--json")
    assert scored.json["same_data"] is True
    told = main("report", "art", "--data", "tones.csv", "--json")
    assert told.code == 0, told.err
    analyzed = told.json["evaluation"]["tones"]
    assert analyzed["confusion"] is None
    assert analyzed["assessment"]["classes"] == scored.json["classes"]
    page = (work / "report.html").read_text()
    assert all(f">{name}</td><td>" in page for name in ("Praise", "Complaint"))
    loose = ["--max-drop", "100", "--rtol", "9"]
    assert main("export", "art", "-t", "tones", "--onnx", "-o", "g", *loose).code == 0
    (work / "texts.txt").write_text("good film\n")
    assert main("predict", "g", "--texts", "texts.txt").json.keys() == {"labels", "scores"}
    assert main("tasks", "art", "--json").json == {"tones": "multi-label, micro_f1"}


def test_the_main_metric_may_be_another(main, table, tiny_model):
    given = ["--data", table, *COLUMNS, "--metric", "macro_f1", "--json", "-q"]
    fit = main("fit", tiny_model, *given, *SHORT)
    assert (fit.json["metric"], fit.err) == ("macro_f1", "")


def test_numbers_of_pairs_are_learned_and_predicted(main, work, tiny_model):
    rows = [json.dumps({"a": f"good word{i % 18}", "b": "film", "y": i % 5 / 2}) for i in range(60)]
    (work / "pairs.json").write_text(f"[{', '.join(rows)}]")
    columns = ["--text-field", "a", "--pair-field", "b", "--label-field", "y", "--regression"]
    fit = main("fit", tiny_model, "--data", "pairs.json", *columns, *SHORT, "--json", "-q")
    assert fit.code == 0, fit.err
    assert fit.json["eval_rows"] == 6
    scored = main("eval", "artifact", "-t", "pairs", "--data", "pairs.json", "--json")
    assert (scored.json["same_data"], scored.json["classes"]) == (True, [])
    loose = ["--max-drop", "200", "--rtol", "9"]
    assert main("export", "artifact", "-t", "pairs", "--onnx", "-o", "g", *loose).code == 0
    (work / "texts.txt").write_text("good\tfilm\n")
    assert main("predict", "g", "--texts", "texts.txt", "--pair").json.keys() == {"score"}


def test_a_collapse_is_told_with_what_to_try(main, work, table, tiny_model):
    frozen = ["--head-lr", "1e-9", "--lr", "1e-9"]
    fit = main("fit", tiny_model, "--data", table, *COLUMNS, *SHORT, *frozen)
    assert "warning: accuracy is no better than always giving the same answer; try" in fit.err


@pytest.mark.parametrize(
    ("args", "fact", "hint"),
    [
        (["--data", "none.csv", *COLUMNS], "no such file or folder: `none.csv`", "hub:NAME"),
        (
            ["--data", "My Tickets.csv", "--text-field", "bdy", "--label-field", "queue"],
            "has no column `bdy`",
            "did you mean `body`?",
        ),
        (
            ["--data", "My Tickets.csv", "--text-field", "body", "--label-field", "body"],
            "`body` is named as the column of a text and of the label",
            "--label-field",
        ),
        (
            ["--data", "My Tickets.csv", *COLUMNS, "--regression"],
            "data row 1 of `My Tickets.csv` has `Other`, not a number",
            None,
        ),
        (
            ["--data", "My Tickets.csv", *COLUMNS, "--regression", "--multi-label"],
            "contradict each other",
            None,
        ),
        (
            ["--data", "My Tickets.csv", *COLUMNS, "--metric", "pearson"],
            "`pearson` is no metric of a classification task",
            "macro_f1",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_written(
    main, work, table, tiny_model, args, fact, hint
):
    found = main("fit", tiny_model, *args, *SHORT)
    assert found.code == 1
    error, *rest = found.err.splitlines()
    assert fact in error
    assert hint is None or hint in rest[0]
    assert sorted(path.name for path in work.iterdir()) == [table]


def test_a_run_without_task_and_data_is_wrong_usage(main, work, tiny_model):
    found = main("fit", tiny_model)
    assert found.code == 2
    assert "Missing option '--task'" in found.err
