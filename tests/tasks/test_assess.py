from __future__ import annotations

import json
from dataclasses import replace

import pytest

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import ArtifactError, DataError, open_artifact
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess, evaluation_split, task_of
from maskpack.tasks.task import TASKS, Kind


def test_assessing_on_the_same_rows_gives_the_recorded_scores(tiny_artifact, sentiment):
    found = assess(open_artifact(tiny_artifact), "sst2", data=sentiment)
    assert found.scores == found.recorded
    assert set(found.scores) == {"accuracy", "matthews"}
    assert found.majority == {"accuracy": 0.5, "matthews": 0.0}
    assert (found.task, found.rows, found.same_data) == ("sst2", 32, True)


def test_other_rows_are_said_to_be_others(tiny_artifact, sentiment, write):
    lines = (sentiment / "dev.tsv").read_text().splitlines()
    path = write("dev.tsv", "\n".join(lines[:11]) + "\n")
    found = assess(open_artifact(tiny_artifact), "sst2", data=path)
    assert (found.rows, found.same_data) == (10, False)
    assert found.recorded == open_artifact(tiny_artifact).entry("sst2").scores


def test_the_file_a_task_was_learned_from_gives_the_rows_held_out_of_it_then(
    tiny_model, quick, sentiment, tmp_path, write
):
    file, config = sentiment / "train.tsv", quick(steps=5)
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=file)
    result = fit_task(request)
    found = assess(open_artifact(tmp_path / "a"), "sst2", data=file)
    assert (found.rows, found.same_data) == (result.eval_rows, True) == (9, True)
    assert found.scores == result.scores
    lines = file.read_text().splitlines()
    other = write("other.tsv", "\n".join(lines[:51]) + "\n")
    found = assess(open_artifact(tmp_path / "a"), "sst2", data=other)
    assert (found.rows, found.same_data) == (50, False)


def test_an_assessment_is_one_line_of_json(tiny_artifact, sentiment):
    found = assess(open_artifact(tiny_artifact), "sst2", data=sentiment)
    line = found.to_json()
    assert "\n" not in line
    assert json.loads(line)["scores"] == found.scores


def test_data_that_does_not_ship_with_the_package_must_be_given(tiny_artifact):
    artifact = open_artifact(tiny_artifact)
    assert evaluation_split(artifact.entry("sst2"), data=None) is None
    with pytest.raises(DataError, match="evaluation data of `sst2` is not at hand") as caught:
        assess(artifact, "sst2")
    assert "give its `data`" in caught.value.hint


def test_a_task_that_is_not_there_is_refused_with_those_that_are(tiny_artifact):
    with pytest.raises(ArtifactError, match="has no task `rte`") as caught:
        assess(open_artifact(tiny_artifact), "rte")
    assert "sst2" in caught.value.hint


def test_the_sample_data_in_the_package_is_found_without_being_given(tiny_model, quick, tmp_path):
    config = quick(max_length=32, train_rows=40, steps=5)
    fit_task(
        FitRequest(str(tiny_model), find_task("tickets"), tmp_path / "a", config, name="support")
    )
    found = assess(open_artifact(tmp_path / "a"), "support")
    assert (found.rows, found.same_data) == (100, True)
    assert found.scores == found.recorded


def test_a_task_of_ones_own_is_rebuilt_from_its_recorded_columns(
    tiny_model, quick, write, tmp_path
):
    rows = "\n".join(f"good film\tfood\t{i / 4}" for i in range(20))
    data = write("rows.tsv", f"left\tright\tvalue\n{rows}\n")
    task = find_task(
        "alike", text_field="left", pair_field="right", label_field="value", kind=Kind.REGRESSION
    )
    request = FitRequest(
        str(tiny_model), task, tmp_path / "a", quick(steps=5), data=data, eval_data=data
    )
    result = fit_task(request)
    artifact = open_artifact(tmp_path / "a")
    assert task_of(artifact.entry("alike")) == task
    found = assess(artifact, "alike", data=data)
    assert {name: found.scores[name] for name in task.metrics} == result.scores
    assert set(found.scores) - set(task.metrics) == {"mae", "rmse"}  # measured, not recorded


def test_a_known_task_is_recognised_whatever_it_is_called_in_the_artifact(tiny_artifact):
    entry = open_artifact(tiny_artifact).entry("sst2")
    assert task_of(entry) is TASKS["sst2"]
    renamed = replace(entry, name="films", file="tasks/films.safetensors")
    assert task_of(renamed) is TASKS["sst2"]
    other = replace(entry, data={**entry.data, "texts": ["body"]})
    assert task_of(other).texts == ("body",)
