"""`--data` where several tasks are asked: which file is whose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from maskpack.cli.task_data import data_by_task
from maskpack.formats import ConfigError, DataError, open_artifact
from maskpack.formats.algebra import merge_tasks, rename_task

LOOSE = ["--max-drop", "100", "--rtol", "9"]


@pytest.fixture
def rows(work):
    """Files in the current folder; two of them have names that look like more."""
    (work / "d=1").mkdir()
    for name in ("a.tsv", "b.tsv", "one=a.tsv", "d=1/c.tsv", "x=y.tsv"):
        (work / name).write_text("sentence\tlabel\n")
    return work


@pytest.mark.parametrize(
    ("given", "tasks", "wanted"),
    [
        ([], ["one", "two"], {}),
        (["a.tsv"], ["one"], {"one": "a.tsv"}),
        (["one=b.tsv"], ["one"], {"one": "b.tsv"}),
        (["two=b.tsv"], ["one", "two"], {"two": "b.tsv"}),
        (["one=d=1/c.tsv", "two=x=y.tsv"], ["one", "two"], {"one": "d=1/c.tsv", "two": "x=y.tsv"}),
        (["one=a.tsv"], ["one"], {"one": "one=a.tsv"}),  # a path that is there wins
        (["d=1/c.tsv"], ["one"], {"one": "d=1/c.tsv"}),
        (["one=hub:me/x:c", "two=a.tsv"], ["one", "two"], {"one": "hub:me/x:c", "two": "a.tsv"}),
        (["hub:me/x"], ["one"], {"one": "hub:me/x"}),
    ],
)
def test_a_text_finds_its_task(rows, given, tasks, wanted):
    assert data_by_task(given, tasks) == {task: Path(path) for task, path in wanted.items()}


@pytest.mark.parametrize(
    ("given", "fact", "hint"),
    [
        (["a.tsv"], "`--data a.tsv` does not say of which task it is", "tasks: one, two"),
        (["one=b.tsv", "a.tsv"], "`--data a.tsv` does not say of which", "`--data TASK=PATH`"),
        (["one=a.tsv"], "`--data one=a.tsv` does not say of which", "TASK=PATH"),  # it is a file
        (["two1=b.tsv"], "there is no task `two1` here", "did you mean `two`? tasks: one, two"),
        (["e=1/c.tsv"], "there is no task `e` here, and no such file", "tasks: one, two"),
        (["two=a.tsv", "two=b.tsv"], "names `two` twice: `a.tsv` and `b.tsv`", "one file"),
        (["two="], "`--data two=` has no path", "like `--data two=rows.csv`"),
    ],
)
def test_a_text_that_does_not_say_whose_it_is(rows, given, fact, hint):
    with pytest.raises(ConfigError) as problem:
        data_by_task(given, ["one", "two"])
    assert fact in str(problem.value)
    assert hint in problem.value.hint


def test_a_path_to_nothing_is_noticed_before_a_graph_is_made(rows):
    with pytest.raises(DataError, match="no such file or folder: `none.tsv`"):
        data_by_task(["two=none.tsv"], ["one", "two"])


@pytest.fixture
def two(work, tiny_artifact):
    """An artifact with the tasks `one` and `two`, whose data does not ship with the package."""
    for name in ("one", "two"):
        rename_task(shutil.copytree(tiny_artifact, work / name), "sst2", name)
    merge_tasks(work / "one", open_artifact(work / "two"))
    return work / "one"


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_every_task_of_an_export_is_scored_on_its_own_rows(main, two, sentiment, work, layout):
    (work / "few.tsv").write_text("sentence\tlabel\nthe good film\t1\nthe bad film\t0\n")
    args = ["export", two, "--onnx", "--layout", layout, "-o", "all", *LOOSE]
    given = ["--data", f"one={sentiment}", "--data", "two=few.tsv"]
    found = main(*args, *given, "--json")
    assert found.code == 0, found.err
    told = {task: report["accuracy"]["rows"] for task, report in found.json["tasks"].items()}
    assert told == {"one": 32, "two": 2}
    for task, rows in told.items():
        report = json.loads((work / "all" / f"{task}.maskpack_report.json").read_text())
        assert report["accuracy"]["rows"] == rows


def test_a_task_that_was_not_scored_is_named(main, two, sentiment):
    args = ["export", two, "--onnx", "--layout", "shared", "-o", "all", *LOOSE]
    found = main(*args, "--data", f"one={sentiment}")
    assert found.code == 0, found.err
    assert "note: accuracy of `two` was not measured; give evaluation data" in found.err
    assert "accuracy of `one`" not in found.err


def test_one_task_takes_a_bare_path_in_every_layout(main, two, sentiment):
    usual = ["--onnx", "-t", "two", *LOOSE, "--json"]
    folded = main("export", two, *usual, "-o", "f", "--data", sentiment)
    assert folded.json["accuracy"]["rows"] == 32
    named = main("export", two, *usual, "-o", "n", "--data", f"two={sentiment}")
    assert named.json["accuracy"] == folded.json["accuracy"]
    shared = main("export", two, *usual, "--layout", "shared", "-o", "s", "--data", sentiment)
    assert shared.json["tasks"]["two"]["accuracy"]["rows"] == 32


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        (["--layout", "shared", "--data", "DATA"], "does not say of which task it is"),
        (["--layout", "swap", "-t", "one", "--data", "two=DATA"], "there is no task `two` here"),
        (["-t", "one", "--data", "two=DATA"], "there is no task `two` here"),
        (["-t", "one", "--data", "DATA", "--data", "DATA"], "`--data` names `one` twice"),
        (["-t", "one", "--data", "none.csv"], "no such file or folder: `none.csv`"),
    ],
)
def test_an_export_is_refused_before_it_begins(main, two, sentiment, work, args, fact):
    args = [arg.replace("DATA", str(sentiment)) for arg in args]
    found = main("export", two, "--onnx", "-o", "all", *args)
    assert (found.code, found.out) == (1, "")
    assert fact in found.err.splitlines()[0]
    assert found.err.splitlines()[1].startswith("hint: ")
    assert not (work / "all").exists()
