"""Masks that are filled: runs with a teacher, baselines, runs that are stopped, and directions of metrics."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitRequest,
    RefitRequest,
    fit_task,
    refit_tasks,
    run_baseline,
)
from maskpack.compressor.fit import prepare
from maskpack.compressor.sweep.table import _differences
from maskpack.compressor.training.progress import metric_of
from maskpack.formats import ConfigError, Interrupted, open_artifact
from maskpack.tasks import find_task

WORDS = ("good", "film", "was", "great", "the", "story", "sad", "food")
TASK = find_task("lines", text_field="text", kind="fill-mask")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    rows = (" ".join([WORDS[row % 8]] * (4 + row % 11)) for row in range(80))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def request_for(tmp_path, tiny_model, lines, quick):
    """A function: a request for an artifact of its own."""

    def make(name: str, **options) -> FitRequest:
        config = quick(**{"steps": 12, "head_lr": 0.03, "max_length": 12, **options})
        return FitRequest(str(tiny_model), TASK, tmp_path / name / "artifact", config, data=lines)

    return make


def patch_bytes(request: FitRequest) -> bytes:
    return (request.out / "tasks" / "lines.safetensors").read_bytes()


def test_a_run_follows_from_its_seed(request_for):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        request_for(name).out.parent.mkdir()
        fit_task(request_for(name, seed=seed))
    assert patch_bytes(request_for("a")) == patch_bytes(request_for("b"))
    assert patch_bytes(request_for("a")) != patch_bytes(request_for("c"))


def test_parts_of_a_step_hide_the_same_tokens(request_for):
    heads = []
    for name, parts in (("a", 1), ("b", 3)):
        request_for(name).out.parent.mkdir()
        fit_task(request_for(name, accumulate=parts, dropout=0.0))
        heads.append(open_artifact(request_for(name).out).patch("lines").head)
    for name, value in heads[0].items():
        np.testing.assert_allclose(value, heads[1][name], rtol=0.02, atol=2e-3)


def test_a_stopped_run_goes_on_with_the_tokens_of_its_epoch(request_for):
    """80 rows are 5 steps an epoch: the run is stopped in its second one."""
    whole, other = request_for("a", checkpoint_every=4), request_for("b", checkpoint_every=4)
    for each in (whole, other):
        each.out.parent.mkdir()
    fit_task(whole)

    def stop(now) -> None:
        if now.step == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(other, on_progress=stop)
    assert not other.out.exists()
    fit_task(replace(other, resume=True))
    assert patch_bytes(whole) == patch_bytes(other)


def test_a_dense_teacher_answers_in_every_step(request_for):
    steps = {"steps": 40}
    request_for("a").out.parent.mkdir()
    request = request_for("a", teacher=None, **steps)
    seen = []
    result = fit_task(request, on_progress=lambda now: seen.append(now.stage))
    assert {"teacher", "task"} <= set(seen)
    assert result.options["teacher"] == "twin"
    assert result.scores["perplexity"] < 25, "of 50 tokens"
    assert result.collapsed == (result.scores["perplexity"] >= result.majority["perplexity"])
    assert open_artifact(request.out).entry("lines").metric == "perplexity"


@pytest.mark.parametrize("method", ["full", "head"])
def test_a_baseline_is_a_plain_model(method, tiny_model, lines, tmp_path):
    config = BaselineConfig(method=method, steps=40, batch_size=16, max_length=12, head_lr=0.03)
    out = tmp_path / "plain"
    result = run_baseline(BaselineRequest(str(tiny_model), TASK, config, out=out, data=lines))
    assert result.scores["perplexity"] < result.majority["perplexity"]
    model = transformers.AutoModelForMaskedLM.from_pretrained(out)
    assert type(model).__module__.startswith("transformers.")
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is table
    before = transformers.AutoModel.from_pretrained(tiny_model).get_input_embeddings().weight
    assert torch.equal(table, before) == (method == "head"), "the table is no part of the head"


def test_early_stopping_looks_for_the_smallest_perplexity(request_for):
    request_for("a").out.parent.mkdir()
    run = prepare(request_for("a", patience=1))
    model = run.classifier(0)
    asked = (model, run.kind, run.held_out, "perplexity")
    assert metric_of(*asked, rising=True)() == -metric_of(*asked)()
    asked = (model, run.kind, run.held_out, "masked_accuracy")
    assert metric_of(*asked, rising=True)() == metric_of(*asked)()


def test_a_task_is_carried_onto_another_backbone(request_for, tiny_model, lines, tmp_path, quick):
    old = request_for("a", bits=8, steps=40)
    old.out.parent.mkdir()
    fit_task(old)
    config = quick(teacher=None, steps=2, max_length=12)
    request = RefitRequest(old.out, str(tiny_model), tmp_path / "new", config, texts=lines)
    (carried,) = refit_tasks(request).tasks
    assert carried.labelled, "texts are their own labels"
    recorded = open_artifact(old.out).entry("lines").scores
    assert carried.result.original == pytest.approx(recorded, rel=1e-5)
    assert carried.result.scores["perplexity"] < 1.5 * recorded["perplexity"]
    assert open_artifact(tmp_path / "new").entry("lines").kind == "fill-mask"


def test_texts_for_a_teacher_alone_are_refused(request_for, lines):
    request_for("a").out.parent.mkdir()
    request = replace(request_for("a", teacher=None), texts=lines)
    with pytest.raises(ConfigError, match="`lines` is a fill-mask, whose rows need no labels"):
        fit_task(request)


def test_points_in_a_table_of_a_sweep_are_above_0_where_a_perplexity_is_smaller():
    class Cell:
        def __init__(self, value):
            self.by_seed = {0: value}

    metrics = {"a": "perplexity", "b": "accuracy"}
    mask, base = ({"a": Cell(x), "b": Cell(y)} for x, y in ((9.0, 0.8), (10.0, 0.9)))
    points = _differences(mask, base, metrics)
    assert points["a"][0] == pytest.approx(10.0)
    assert points["b"][0] == pytest.approx(-10.0)
