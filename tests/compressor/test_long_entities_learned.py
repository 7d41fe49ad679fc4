"""Entities in texts of several windows: stopped runs, teachers, parts of a step, dense models, adopted taggers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from long_entities import LENGTH, STRIDE, task_for, write_documents

from maskpack.compressor import (
    AdoptRequest,
    BaselineConfig,
    BaselineRequest,
    FitRequest,
    adopt_models,
    fit_task,
    run_baseline,
)
from maskpack.formats import Interrupted
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.windows import WindowRule


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def options(quick):
    return quick(steps=150, max_length=LENGTH, head_lr=0.3)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    rows, tiny_model, options, snapshot, stop_at, tmp_path
):
    config = replace(options, steps=30, checkpoint_every=10, teacher="twin", teacher_states=1.0)
    made = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        out = tmp_path / name / "a"
        made.append(FitRequest(str(tiny_model), task_for(), out, config, data=rows))
    fit_task(made[0])
    with pytest.raises(Interrupted):
        fit_task(made[1], on_progress=stop_at(17))
    fit_task(replace(made[1], resume=True))
    assert snapshot(made[1].out) == snapshot(made[0].out)


def test_teachers_parts_units_and_dense_models_read_windows(rows, tiny_model, options, tmp_path):
    taught = {"steps": 20, "teacher": "twin", "teacher_states": 1.0, "keep_states": True}
    for name, more in (("plain", {}), ("units", {"units": "heads,neurons", "keep_units": 0.5})):
        config = replace(options, **taught, **more)
        run = fit_task(FitRequest(str(tiny_model), task_for(), tmp_path / name, config, data=rows))
        assert run.steps == 20
    config = BaselineConfig(
        steps=120, batch_size=16, max_length=LENGTH, precision="fp32", lr=1e-3, head_lr=1e-2
    )
    dense = run_baseline(BaselineRequest(str(tiny_model), task_for(), config, data=rows))
    assert dense.scores["entity_f1"] > 0.8


def test_a_tagger_is_adopted_from_long_texts(rows, tiny_model, options, tmp_path):
    config = BaselineConfig(
        steps=150, batch_size=16, max_length=LENGTH, precision="fp32", lr=1e-3, head_lr=1e-2
    )
    dense = BaselineRequest(str(tiny_model), task_for(), config, data=rows, out=tmp_path / "dense")
    run_baseline(dense)
    texts = [json.loads(line)["text"] for line in (rows / "train.jsonl").read_text().splitlines()]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    request = AdoptRequest(
        {"names": str(tmp_path / "dense")},
        tmp_path / "a",
        str(tiny_model),
        replace(options, teacher=None, bits=8),
        texts=tmp_path / "texts.txt",
        columns=TaskOptions(windows=True, stride=STRIDE),
    )
    (task,) = adopt_models(request).tasks
    longest = max(end for row in task.rows.labels for _, end, _ in row)
    assert longest > 60, "entities behind the first window are labels"
    assert task.result.score > 0.5


def test_rows_of_a_file_are_read_in_windows(rows):
    data = load_data(task_for(), data=rows)
    assert data.train.windows == data.dev.windows == WindowRule(STRIDE, texts=True)
