"""`compress inspect --config`: a run is repeated from an artifact, and gives the same bytes."""

from __future__ import annotations

import shutil

import pytest
import yaml

from maskpack.formats import open_artifact


@pytest.fixture
def place(work, tiny_model, tiny_artifact, sentiment):
    """The current folder with the artifact's source model, its data and the artifact."""
    shutil.copytree(tiny_model, work / "bert")
    shutil.copytree(sentiment, work / "data")
    shutil.copytree(tiny_artifact, work / "art")
    return work


def patch_of(folder, task):
    artifact = open_artifact(folder)
    return (folder / artifact.entry(task).file).read_bytes()


def test_a_run_is_repeated_from_its_artifact(main, place):
    found = main("inspect", "art", "--config")
    assert found.code == 0, found.err
    assert found.err == "note: give `--data`: 96 training rows\n"
    (place / "run.yaml").write_text(found.out)
    assert yaml.safe_load(found.out)["run"] == {"model": "bert", "task": "sst2"}
    again = main("fit", "--config", "run.yaml", "--data", "data", "-o", "again", "-q")
    assert again.code == 0, again.err
    for name in ("backbone.safetensors", "config.json"):
        assert (place / "again" / name).read_bytes() == (place / "art" / name).read_bytes()
    old, new = (open_artifact(place / name).entry("sst2") for name in ("art", "again"))
    assert new.scores == old.scores
    known = {"quantizer": "mse", "pooling": "pooler"}  # what `auto` was
    assert new.training == {**old.training, **known}
    assert patch_of(place / "again", "sst2") == patch_of(place / "art", "sst2")


def test_own_columns_another_name_and_an_old_backbone_are_repeated_too(main, place):
    rows = (place / "data" / "train.tsv").read_text().replace("sentence\tlabel", "body\tqueue")
    (place / "mine.tsv").write_text(rows)
    columns = ["--text-field", "body", "--label-field", "queue", "--metric", "macro_f1"]
    words = ["--steps", "2", "--max-length", "8", "--precision", "fp32", "--dropout", "0.1"]
    fit = ["fit", "bert", "-t", "mine", "--name", "other", "--data", "mine.tsv", *columns, *words]
    assert main(*fit, "-o", "art", "-q").code == 0
    found = main("inspect", "art", "--config", "-t", "other", "--json")
    assert found.json["bits"] == 4
    (place / "run.yaml").write_text(yaml.safe_dump(found.json))
    again = main("fit", "--config", "run.yaml", "--data", "mine.tsv", "-o", "again", "-q")
    assert again.code == 0, again.err
    assert patch_of(place / "again", "other") == patch_of(place / "art", "other")


def test_a_teacher_whose_folder_is_not_recorded_is_asked_for(main, place):
    manifest = place / "art" / "maskpack.json"
    manifest.write_text(manifest.read_text().replace('"teacher": null', '"teacher": "big"'))
    found = main("inspect", "art", "--config")
    assert "note: give `--teacher`: `big`, whose folder is not recorded" in found.err
    assert "teacher" not in yaml.safe_load(found.out)


def test_a_task_is_of_the_config_alone(main, place):
    found = main("inspect", "art", "-t", "sst2")
    assert (found.code, found.out) == (1, "")
    assert "`--task` is for `--config`" in found.err


def test_a_file_of_options_without_bits_follows_the_artifact(main, place):
    (place / "own.yaml").write_text("steps: 2\nmax_length: 8\nprecision: fp32\n")
    words = ["fit", "bert", "-t", "sst2", "--name", "other", "--data", "data", "-o", "art", "-q"]
    done = main(*words, "--config", "own.yaml", "--json")
    assert done.code == 0, done.err
    assert done.json["bits"] == 4
    (place / "own.yaml").write_text("steps: 2\nbits: 8\n")
    found = main(*words, "--config", "own.yaml", "--replace")
    assert found.code == 1
    assert "has 4 bits, 8 were asked for" in found.err
