"""`compress adopt`: checkpoints in, one artifact and a table out."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.formats import open_artifact
from maskpack.tasks import find_task


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_model, sentiment):
    out = tmp_path_factory.mktemp("checkpoint") / "Mood 1"
    config = BaselineConfig(
        steps=200, batch_size=16, max_length=16, precision="fp32", lr=3e-3, head_lr=1e-2
    )
    run_baseline(BaselineRequest(str(tiny_model), find_task("sst2"), config, out, data=sentiment))
    return out


@pytest.fixture
def place(work, checkpoint, sentiment):
    """The checkpoint, lines of text and labelled rows in a working directory."""
    shutil.copytree(checkpoint, work / "Mood 1")
    rows = [line.split("\t") for line in (sentiment / "train.tsv").read_text().splitlines()[1:]]
    (work / "texts.txt").write_text("".join(f"{text}\n" for text, _ in rows))
    names = ("negative", "positive")
    table = "".join(f"{text},{names[int(label)]}\n" for text, label in rows)
    (work / "dev.csv").write_text(f"text,label\n{table}")
    return work


SHORT = [
    *("--steps", "60", "--batch-size", "16", "--max-length", "16", "--precision", "fp32"),
    *("--bits", "8", "--margin", "0.5"),
]


def test_a_checkpoint_becomes_a_task_beside_its_graph(main, place, tiny_model):
    found = main(
        *("adopt", "Mood 1", "--base", tiny_model, "--texts", "texts.txt", "-o", "a", "--json"),
        *("--eval-data", "mood-1=dev.csv", "--onnx", "graphs", *SHORT),
    )
    assert found.code == 0, found.err
    (task,) = found.json["tasks"]
    assert (task["name"], task["labelled"]) == ("mood-1", False)
    report = found.json["graphs"]["mood-1"]
    assert report["accuracy"]["rows"] == 96
    assert report["accuracy"]["reference"] == task["result"]["original"]["accuracy"]
    assert 0.5 < report["accuracy"]["reference_agreement"] <= 1.0
    assert (place / "graphs" / "mood-1" / "model.onnx").is_file()
    assert open_artifact(place / "a").entry("mood-1").data["adopted"] == "Mood 1"
    again = main(
        *("adopt", "Mood 1", "--base", tiny_model, "--texts", "texts.txt", "-o", "a", "--resume"),
        *SHORT,
    )
    assert again.code == 0, again.err
    assert "there already" in again.out
    shutil.rmtree(place / "graphs" / "mood-1")
    (place / "graphs" / "other").mkdir()
    resumed = main(
        *("adopt", "Mood 1", "--base", tiny_model, "--texts", "texts.txt", "-o", "a", "--resume"),
        *("--eval-data", "mood-1=dev.csv", "--onnx", "graphs", "--json", *SHORT),
    )
    assert resumed.code == 0, resumed.err
    assert resumed.json["graphs"]["mood-1"]["accuracy"]["rows"] == 96
    assert (place / "graphs" / "mood-1" / "model.onnx").is_file()
    assert "backbone and packed tasks" in again.out


def test_graphs_have_a_place_before_anything_is_learned(main, place, tiny_model):
    for folder, options in (("graphs", []), ("graphs/mood-1", ["--resume"])):
        (place / folder / "old").mkdir(parents=True)
        found = main(
            *("adopt", "Mood 1", "--base", tiny_model, "--texts", "texts.txt", "-o", "a"),
            *("--onnx", "graphs", *options, *SHORT),
        )
        assert (found.code, (place / "a").exists()) == (1, False)
        assert f"`{folder}` already exists" in found.err.replace("\\", "/")
        assert "hint: choose another folder with `--onnx`" in found.err


def test_a_table_shows_original_mask_and_graph(main, place, tiny_model):
    found = main("adopt", "m=Mood 1", "--base", tiny_model, "--data", "dev.csv", "-o", "a", *SHORT)
    assert found.code == 0, found.err
    assert "tasks over `bert`: 1" in found.out
    (row,) = [line.split() for line in found.out.splitlines() if line.split()[:1] == ["m"]]
    assert row[1] == "accuracy"
    assert len([cell for cell in row if cell.startswith(("0.", "1."))]) >= 3
    assert (
        json.loads((place / "a" / "maskpack.json").read_text())["tasks"]["m"]["data"]["label"]
        == "label"
    )


@pytest.mark.parametrize(
    ("args", "fact", "advice"),
    [
        ((), "`mood-1` has no rows to be learned from", "`--data TASK=PATH`"),
        (("--texts", "texts.txt", "--teacher", "twin"), "its own teacher", "leave `--teacher` out"),
        (("--texts", "texts.txt"), "the base of `Mood 1` is not found", "name it with `--base`"),
        (("--data", "other=texts.txt"), "there is no task `other` here", "tasks: mood-1"),
    ],
)
def test_what_cannot_be_adopted_is_refused_before_any_work(main, place, args, fact, advice):
    found = main("adopt", "Mood 1", "-o", "a", *args)
    assert found.code == 1
    assert fact in found.err
    assert advice in found.err
    assert not (place / "a").exists()


def test_graphs_that_are_asked_for_need_the_packages_that_make_them(main, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    found = main("adopt", "Mood 1", "-o", "a", "--texts", "texts.txt", "--onnx", "graphs")
    assert found.code == 1
    assert "`--onnx`" in found.err
    assert "maskpack[export]" in found.err
    assert not (place / "a").exists()
