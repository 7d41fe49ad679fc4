"""The trunk layout on the command line: from `fit --trunk` to `predict --all`."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from maskpack.runtime import Session

QUICK = (
    *("--steps", 6, "--batch-size", 16, "--max-length", 16, "--precision", "fp32"),
    *("--teacher", "none", "--margin", 0.3, "--bits", 8),
)
TEXTS = ["a good film", "bad", 'a "quoted", bad film']


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment):
    """Two tasks that leave the first of two layers alone."""
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.tasks import find_task

    out = tmp_path_factory.mktemp("trunk") / "artifact"
    for name, seed in (("one", 0), ("two", 1)):
        config = FitConfig(
            bits=8,
            steps=6,
            batch_size=16,
            max_length=16,
            precision="fp32",
            teacher="none",
            margin=0.3,
            trunk="1",
            seed=seed,
        )
        task = find_task("sst2")
        fit_task(FitRequest(str(tiny_model), task, out, config, data=sentiment, name=name))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory, artifact):
    """Its tasks on a trunk. Read only."""
    from maskpack.exporters.arithmetic.base import Tolerance
    from maskpack.exporters.export import export_shared
    from maskpack.exporters.options import SharedRequest

    out = tmp_path_factory.mktemp("folder") / "trunk"
    tolerance = Tolerance.of("fp32", max_drop=100.0)
    export_shared(SharedRequest(artifact, (), out, "fp32", tolerance, verify=False, layout="trunk"))
    return out


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def lines(outcome):
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_trunk_is_exported_verified_and_diagnosed(main, artifact, sentiment, tmp_path):
    out = tmp_path / "trunk"
    rows = [part for name in ("one", "two") for part in ("--data", f"{name}={sentiment}")]
    (report,) = lines(
        main(
            *("export", artifact, "--onnx", "--layout", "trunk", "--compute", "fp32"),
            *rows,
            *("-o", out, "--json"),
        )
    )
    assert report["ok"]
    assert set(report["tasks"]) == {"one", "two"}
    verified = main("verify", out, "-a", artifact, "-t", "one", "--data", sentiment, "--json")
    assert json.loads(verified.out)["accuracy"]["drop"] == 0
    assert main("doctor", out).code == 0
    found = main("eval", artifact, "--onnx", out, "-t", "two", "--data", sentiment, "--json")
    assert json.loads(found.out)["rows"] == 32


def test_layers_of_a_trunk_are_of_its_layout(main, artifact, tmp_path):
    for options in ((), ("--layout", "shared")):
        refused = main(
            "export", artifact, "--onnx", *options, "--trunk-layers", 1, "-o", tmp_path / "x"
        )
        assert refused.code == 1
    deep = main(
        *("export", artifact, "--onnx", "--layout", "trunk", "--trunk-layers", 2),
        *("-o", tmp_path / "x"),
    )
    assert deep.code == 1
    assert "`one` changes layer" in deep.err
    assert "`--trunk`" in deep.err


def test_a_line_holds_an_object_of_tasks(main, folder, texts):
    found = lines(main("predict", folder, "--all", "--texts", texts))
    wanted = Session(folder).predict_all(TEXTS)
    assert found == [
        {"tasks": {name: one.to_dict() for name, one in answers.items()}} for answers in wanted
    ]


def test_a_table_is_answered_by_every_task(main, folder, tmp_path):
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "negative"] for text in TEXTS)])
    found = lines(main("predict", folder, "--all", "--data", table, "--text-field", "text"))
    assert [set(one) for one in found] == [{"tasks"}] * 3
    refused = main(
        *("predict", folder, "--all", "--data", table, "--text-field", "text"),
        *("--label-field", "label"),
    )
    assert refused.code == 1
    assert "`--all` goes without" in refused.err
    assert main("predict", folder, "--all", "--task", "one").code == 1


def test_csv_has_a_column_a_task(main, folder, texts):
    done = main("predict", folder, "--all", "--csv", "--texts", texts)
    assert done.code == 0, done.err
    rows = list(csv.reader(done.out.splitlines()))
    wanted = Session(folder).predict_all(TEXTS)
    assert rows[0] == ["text", "one", "two"]
    assert rows[1:] == [
        [text, answers["one"].label, answers["two"].label]
        for text, answers in zip(TEXTS, wanted, strict=True)
    ]
    alone = main("predict", folder, "-t", "one", "--csv", "--texts", texts)
    assert [row[:2] for row in rows] == list(csv.reader(alone.out.splitlines()))


def test_tasks_that_read_other_rows_are_named_and_not_asked(main, folder, texts, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    tree = json.loads((mixed / "two.json").read_text())
    (mixed / "two.json").write_text(json.dumps({**tree, "texts": 2}))
    done = main("predict", mixed, "--all", "--texts", texts)
    assert [set(one["tasks"]) for one in lines(done)] == [{"one"}] * 3
    assert "not asked, because a row is one text: `two`" in done.err
    (tmp_path / "pairs.txt").write_text("a\tb\n")
    done = main("predict", mixed, "--all", "--pair", "--texts", tmp_path / "pairs.txt", "--csv")
    assert done.out.splitlines()[0] == "text,pair,two"
    pairs = main("predict", folder, "--all", "--pair", "--texts", tmp_path / "pairs.txt")
    assert pairs.code == 1
    assert "no task of the folder reads a pair" in pairs.err


def test_a_row_that_no_task_answers_is_reported_once(main, folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    for name in ("one", "two"):
        tree = json.loads((mixed / f"{name}.json").read_text())
        (mixed / f"{name}.json").write_text(json.dumps({**tree, "texts": 2}))
    (tmp_path / "pairs.txt").write_text("a\tb\nno tab\n")
    done = main("predict", mixed, "--all", "--pair", "--texts", tmp_path / "pairs.txt")
    assert done.code == 1
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert {tuple(one) for one in answers[0]["tasks"].values()} == {("label", "score", "scores")}
    assert all("no tab" in one["error"] for one in answers[1]["tasks"].values())
    assert done.err.count("no tab in the line") == 1


def test_a_fit_finds_its_trunk_and_shows_what_it_tried(main, tiny_model, sentiment, tmp_path):
    out = tmp_path / "artifact"
    usual = ("fit", tiny_model, "--task", "sst2", "--data", sentiment, *QUICK, "-o", out)
    search = ("--trunk", "auto", "--trunk-tolerance", 100)
    (plan,) = lines(main(*usual, *search, "--dry-run", "--json"))
    assert plan["estimate"]["trunk_runs"] == 2
    assert "at most 2 runs to find the trunk" in main(*usual, *search, "--dry-run").out
    (result,) = lines(main(*usual, *search, "--json"))
    assert result["trunk"]["layers"] == 1
    assert [one["layers"] for one in result["trunk"]["tries"]] == [0, 1]
    shown = main(*usual, *search, "--replace")
    assert shown.code == 0, shown.err
    assert "1 lower layers are left alone" in shown.out
    assert "layers left alone" in shown.out
    assert main(*usual, "--trunk", 1, "--layers", 1, "--replace").code == 1
