"""`--task` where there is one task, where there are several, and where there is none: as its help says."""

from __future__ import annotations

import re
import shutil

import pytest

EXPORT = ["export", "art", "--onnx", "--compute", "fp32", "--no-verify"]
OF_ARTIFACT = {
    "eval": ["eval", "art", "--data", "data", "--json"],
    "pack": ["pack", "art", "-o", "OUT", "--json"],
    "rename": ["rename", "art", "--name", "sst2"],
    "export": [*EXPORT, "-o", "OUT"],
    "export hf": ["export", "art", "--hf", "-o", "OUT", "--json"],
}
OF_EXPORT = {
    "verify": ["verify", "graph", "-a", "art", "--json"],
    "predict": ["predict", "graph"],
    "bench": ["bench", "graph", "--batch", "1", "--length", "4", "--threads", "1", "--runs", "3"],
    "materialize": ["materialize", "graph", "-o", "OUT", "--json"],
    "package": ["package", "graph", "--target", "ort", "-o", "OUT"],
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("only") / "graph"
    tolerance = Tolerance.of("fp32")
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, "fp32", tolerance, verify=False))
    return out


@pytest.fixture
def place(work, sentiment, tiny_artifact, graph):
    """The current folder with data, an artifact and an export."""
    shutil.copytree(sentiment, work / "data")
    shutil.copytree(tiny_artifact, work / "art")
    shutil.copytree(graph, work / "graph")
    return work


def several(main):
    """A second task in the artifact."""
    assert main("pack", "art", "-o", "a.patch").code == 0
    assert main("unpack", "a.patch", "art", "--name", "two").code == 0


def run(main, args, *more):
    return main(*(word.replace("OUT", "new") for word in args), *more, stdin="good film\n")


@pytest.mark.parametrize("command", [*OF_ARTIFACT, *OF_EXPORT])
def test_the_only_task_is_taken(main, place, command):
    if command == "rename":
        pytest.skip("its own test")
    args = {**OF_ARTIFACT, **OF_EXPORT}[command]
    found = run(main, args)
    assert found.code == 0, found.err
    if command in {"eval", "verify"}:
        assert found.json["task"] == "sst2"


def test_the_only_task_is_renamed(main, place):
    assert "holds the tasks: other" in main("rename", "art", "--name", "other").out


@pytest.mark.parametrize("command", OF_ARTIFACT)
def test_one_of_several_must_be_named(main, place, command):
    several(main)
    found = run(main, OF_ARTIFACT[command])
    assert (found.code, found.out) == (1, "")
    assert "error: several tasks are in `art`\nhint: name one with `--task`: sst2, two" in found.err


@pytest.mark.parametrize("command", OF_EXPORT)
def test_one_of_several_exported_must_be_named_unless_all_are_taken(main, place, command):
    several(main)
    (place / "graph").rename(place / "old")
    made = main(*EXPORT, "--layout", "shared", "-o", "graph")
    assert made.code == 0, made.err
    found = run(main, OF_EXPORT[command])
    if command == "package":
        assert found.code == 0, found.err
        return
    assert (found.code, found.out) == (1, "")
    assert "several tasks are" in found.err
    assert "hint: name one with `--task`: sst2, two" in found.err


def test_an_artifact_without_a_task_says_so(main, place):
    assert main("remove", "art", "-t", "sst2").code == 0
    for args in OF_ARTIFACT.values():
        found = run(main, args)
        assert (found.code, found.out) == (1, "")
        assert "error: `art` has no task\nhint: learn one with `compress fit`" in found.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        *((command, "[the only one]") for command in ("eval", "pack", "rename")),
        *((command, "Which, of several.") for command in OF_EXPORT if command != "package"),
        ("package", "[all]"),
        ("pull", "[all]"),
        ("export", "[all; of another form the only one]"),
        ("remove", "[required]"),
    ],
)
def test_the_help_says_what_happens_without_a_name(main, command, said):
    text = main(command, "--help").out
    told = re.search(r"(-t, --task .*?)\n +-", text, re.DOTALL)
    assert said in " ".join(told[1].split())


@pytest.mark.parametrize("command", ["verify", "eval"])
def test_data_may_say_of_which_task_it_is(main, place, command):
    words = [
        word for word in {**OF_ARTIFACT, **OF_EXPORT}[command] if word not in {"--data", "data"}
    ]
    found = main(*words, "--data", "sst2=data")
    assert found.code == 0, found.err
    assert (found.json["accuracy"] if command == "verify" else found.json)["rows"] == 32
    wrong = main(*words, "--data", "other=data")
    assert (wrong.code, wrong.out) == (1, "")
    assert "there is no task `other` here" in wrong.err
