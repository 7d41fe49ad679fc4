"""Rows without a label through the commands: counted, left out, or learned from a teacher."""

from __future__ import annotations

import json

import pytest
import yaml

from maskpack.formats import open_artifact

GAPS = (3, 9, 27)


@pytest.fixture
def table(work):
    """`rows.csv` in the current folder, with three rows without a label."""
    rows = [
        f"the {'good' if n % 2 else 'bad'} film word{n % 18},{'' if n in GAPS else ['no', 'yes'][n % 2]}"
        for n in range(1, 81)
    ]
    (work / "rows.csv").write_text("\n".join(["text,label", *rows, ""]))
    return "rows.csv"


def test_they_are_an_error_that_names_the_option(main, table, tiny_model, short):
    stopped = main("fit", tiny_model, "--data", table, *short)
    assert stopped.code == 1
    assert "data row 3 of `rows.csv` has no label in `label`" in stopped.err
    assert "`--unlabelled skip`" in stopped.err


def test_they_are_left_out_and_counted(main, work, table, tiny_model, short):
    fit = main("fit", tiny_model, "--data", table, "--unlabelled", "skip", *short, "--json")
    assert fit.code == 0, fit.err
    assert "note: 3 of 80 rows of `rows.csv` have no label in `label` and are left out" in fit.err
    assert "data rows 3, 9, 27" in fit.err
    assert fit.json["rows_without_label"] == {"train": 3, "eval": 0, "learned": 0}
    assert fit.json["train_rows"] + fit.json["eval_rows"] == 77
    assert open_artifact(work / "artifact").entry("rows").data["unlabelled"] == "skip"

    scored = main("eval", "artifact", "--data", table, "--json")
    assert scored.json["same_data"] is True
    assert scored.json["rows_without_label"] == 3
    assert main("eval", "artifact", "--data", table, "--unlabelled", "stop").code == 1
    shown = main("inspect", "artifact", "--config", "--task", "rows")
    assert yaml.safe_load(shown.out)["run"]["unlabelled"] == "skip"


def test_a_task_of_whole_rows_is_evaluated_on_others(main, work, table, tiny_model, short):
    lines = (work / table).read_text().splitlines()
    (work / "whole.csv").write_text("\n".join(line for line in lines if not line.endswith(",")))
    fit = main("fit", tiny_model, "--data", "whole.csv", *short, "--json")
    assert fit.json["rows_without_label"] == {}
    assert "unlabelled" not in open_artifact(work / "artifact").entry("whole").data
    assert main("eval", "artifact", "--data", table).code == 1
    scored = main("eval", "artifact", "--data", table, "--unlabelled", "skip", "--json")
    assert scored.json["rows"] == 7, "those that were held out"
    assert scored.json["rows_without_label"] == 3


def test_a_teacher_answers_them(main, work, table, tiny_model, short):
    taught = [word if word != "none" else "twin" for word in short]
    fit = main("fit", tiny_model, "--data", table, "--unlabelled", "teach", *taught, "--json")
    assert fit.code == 0, fit.err
    assert "are learned from the teacher: data rows 3, 9, 27" in fit.err
    assert fit.json["rows_without_label"] == {"train": 3, "eval": 0, "learned": 3}
    assert fit.json["train_rows"] + fit.json["eval_rows"] == 80
    data = open_artifact(work / "artifact").entry("rows").data
    assert (data["unlabelled"], data["unlabelled_rows"]) == ("teach", 3)
    assert main("eval", "artifact", "--data", table, "--json").json["same_data"] is True


def test_without_a_teacher_they_cannot_be_learned(main, table, tiny_model, short):
    stopped = main("fit", tiny_model, "--data", table, "--unlabelled", "teach", *short)
    assert stopped.code == 1
    assert "3 rows without a label are learned from a teacher, and there is none" in stopped.err
    assert "`--teacher`" in stopped.err
    assert "`--unlabelled skip`" in stopped.err


def test_a_baseline_leaves_them_out(main, table, tiny_model):
    budget = [
        "--steps",
        "2",
        "--batch-size",
        "16",
        "--max-length",
        "16",
        "--precision",
        "fp32",
        "--method",
        "head",
    ]
    done = main("baseline", tiny_model, "--data", table, "--unlabelled", "teach", *budget, "--json")
    assert done.code == 0, done.err
    assert "are left out" in done.err
    assert done.json["rows_without_label"] == {"train": 3, "eval": 0, "learned": 0}


def test_a_sweep_takes_them_from_its_file(main, work, table, tiny_model):
    tree = {
        "models": [str(tiny_model)],
        "tasks": {
            "mine": {
                "data": table,
                "text_field": "text",
                "label_field": "label",
                "unlabelled": "skip",
            }
        },
        "options": {"steps": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "methods": {"mask": {"bits": 4, "group": 16}, "head": {"method": "head"}},
    }
    (work / "plan.yaml").write_text(yaml.safe_dump(tree))
    done = main("sweep", "plan.yaml")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (work / "plan.jsonl").read_text().splitlines()]
    assert [line["rows_without_label"]["train"] for line in lines] == [3, 3]
    keys = {line["sweep_key"] for line in lines}
    tree["tasks"]["mine"]["unlabelled"] = "teach"
    (work / "plan.yaml").write_text(yaml.safe_dump(tree))
    planned = main("sweep", "plan.yaml", "--dry-run", "--json")
    assert planned.code == 0
    assert not any(key in planned.out for key in keys), "another treatment is another run"
