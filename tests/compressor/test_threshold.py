"""Thresholds that are fitted after training: what they do, that every runtime does it, and who is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.config import FitConfig
from maskpack.compressor.fit import fit_run, learn, prepare
from maskpack.compressor.sweep.plan import Arm, Run, SweepModel, SweepTask
from maskpack.compressor.training.head_tuning import shifted
from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.formats import ConfigError, Interrupted, open_artifact
from maskpack.models.build import LastLinear
from maskpack.runtime import Session
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import restore_task
from maskpack.tasks.task import Kind, find_task

COLUMNS = {"text_field": "text", "label_field": "label"}
TONES = find_task("tones", kind=Kind.MULTI_LABEL, **COLUMNS)
LEARNING = {"steps": 150, "head_lr": 3e-2, "margin": 1.5, "dropout": 0.0}
WORDS = ("the", "film", "was", "food", "very", "story")


def rare_rows(rows: int, seed: int) -> list[dict[str, str]]:
    """A tenth is `rare`: 70 % of it, and 15 % of the others, say "good". Accuracy is best where nothing is `rare`."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        rare = row % 10 == 0
        told = "good" if rng.random() < (0.7 if rare else 0.15) else "and"
        label = "rare" if rare else "usual"
        found.append({"text": f"{rng.choice(WORDS)} {told}", "label": label})
    return found


def tone_rows(rows: int, seed: int) -> list[dict[str, object]]:
    """`low` and `high` are seldom told for sure; `never` is in a row of a hundred."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        words = [str(rng.choice(WORDS))]
        labels = ["never"] if row % 100 == 0 else []
        for label, word in (("low", "bad"), ("high", "good")):
            there = rng.random() < 0.2
            said = rng.random() < (0.8 if there else 0.25)
            words += [word] if said else ["and"]
            labels += [label] if there else []
        found.append({"text": " ".join(words), "label": labels})
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with the rows of both tasks."""
    folder = tmp_path_factory.mktemp("rows")
    for name, make in (("rare", rare_rows), ("tones", tone_rows)):
        for split, rows, seed in (("train", 800, 0), ("dev", 300, 1)):
            lines = "\n".join(map(json.dumps, make(rows, seed)))
            (folder / f"{name}-{split}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def asked(data, tiny_model, quick, tmp_path):
    """A function: a request to learn one of them."""

    def make(out: str, name: str = "rare", **options):
        return FitRequest(
            str(tiny_model),
            TONES if name == "tones" else find_task("rare", **COLUMNS),
            tmp_path / out,
            quick(**{**LEARNING, "threshold": "tuned", **options}),
            data=data / f"{name}-train.jsonl",
            eval_data=data / f"{name}-dev.jsonl",
        )

    return make


def test_single_logits_are_shifted_and_nothing_else_is_changed():
    weight = np.array([[1.0], [2.0]], dtype=np.float16)
    head = {"w": weight, "b": np.array([0.5, 1.0], dtype=np.float16)}
    found = shifted(head, LastLinear("w", "b"), {0: 1 / 3})
    assert found["w"] is weight
    assert found["b"].tolist() == [float(np.float16(0.5 + 1 / 3)), 1.0]
    assert head["b"].tolist() == [0.5, 1.0]


def test_a_rare_label_gets_a_better_f1(asked):
    request = asked("tuned")
    run = prepare(request)
    untuned = learn(run, on_progress=lambda _: None).patch
    result = fit_run(run)
    (effect,) = result.tuning.thresholds
    assert (effect.label, effect.fitted, effect.held_out_rows) == (
        "rare",
        True,
        int((run.held_out.labels == 0).sum()),
    )
    assert effect.f1_before == 0
    assert effect.f1_after > 0.3
    assert 0.05 < effect.threshold < 0.5
    assert result.tuning.scores_before == result.majority  # nothing was `rare`
    assert result.scores["macro_f1"] > result.majority["macro_f1"]
    artifact = open_artifact(request.out)
    patch, last = artifact.patch("rare"), run.shapes.last
    for name, value in untuned.head.items():
        assert (name == last.bias) == (not np.array_equal(value, patch.head[name]))
    shift = patch.head[last.bias].astype("f8") - untuned.head[last.bias]
    margin = np.log(effect.threshold / (1 - effect.threshold))
    assert shift.tolist() == pytest.approx([-margin, 0.0], abs=2e-3)
    told = artifact.entry("rare").training["tuning"]
    assert told == {"held_out_rows": 80, "thresholds": {"rare": effect.threshold}}


def test_a_temperature_comes_first(asked):
    both = fit_task(asked("both", calibrate="temperature")).tuning
    warm = fit_task(asked("warm", calibrate="temperature", threshold="none")).tuning
    alone = fit_task(asked("alone")).tuning
    assert both.temperature == warm.temperature
    assert both.temperature.temperature != 1.0
    (scaled,), (plain,) = both.thresholds, alone.thresholds
    assert scaled.f1_after == plain.f1_after  # the order of rows stays
    odds = [np.log(each.threshold / (1 - each.threshold)) for each in (plain, scaled)]
    assert odds[1] == pytest.approx(odds[0] / both.temperature.temperature, rel=0.02)


@pytest.mark.parametrize("name", ["rare", "tones"])
def test_torch_graph_and_runtime_give_the_tuned_answers(asked, name, tmp_path, data):
    options = {"calibrate": "temperature"}
    request = asked("tuned", name, **options)
    result = fit_task(request)
    assert any(each.threshold != 0.5 for each in result.tuning.thresholds)
    assert result.scores != result.tuning.scores_before
    run, artifact = prepare(replace(request, out=tmp_path / "other")), open_artifact(request.out)
    logits = predict_all(torch_predict(restore_task(artifact, name)), run.dev)
    assert run.metrics(logits) == result.scores
    folder = tmp_path / "graph"
    export = ExportRequest(request.out, name, folder, Compute.FP32, Tolerance.of(Compute.FP32))
    assert export_onnx(replace(export, data=request.eval_data)).ok
    texts = [text for (text,) in run.data.dev.texts]
    found = Session(folder).logits(texts)
    np.testing.assert_allclose(found, logits, atol=1e-4)
    assert np.array_equal(run.kind.answers(found), run.kind.answers(logits))


def test_a_label_of_few_rows_stays_at_a_half_and_is_named(asked, caplog):
    request = asked("tuned", "tones")
    run = prepare(request)
    few = int(run.held_out.labels[:, run.data.labels.index("never")].sum())
    result = fit_run(run)
    by_name = {each.label: each for each in result.tuning.thresholds}
    assert (by_name["never"].fitted, by_name["never"].threshold) == (False, 0.5)
    assert by_name["low"].fitted
    assert by_name["high"].fitted
    assert f"of 80 there are {few} with `never`: it stays at 0.5" in caplog.text


def test_a_stopped_run_is_tuned_as_one_that_was_not(asked, stop_at, snapshot):
    options = {"checkpoint_every": 7, "steps": 40, "class_weight": "balanced"}
    options |= {"calibrate": "temperature", "patience": 9}
    whole, broken = (asked(out, **options) for out in ("w", "b"))
    fit_task(whole)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(30))
    torch.manual_seed(77)
    fit_task(replace(broken, resume=True))
    assert snapshot(broken.out) == snapshot(whole.out)


def refused(request, message):
    steps = []
    with pytest.raises(ConfigError, match=message) as caught:
        fit_task(request, on_progress=lambda news: steps.append(news.step))
    assert steps == []
    return str(caught.value.hint)


def test_too_few_rows_are_refused_with_numbers(asked):
    message = "`threshold` needs 10 held-out rows, a tenth of the 60 training rows is 6"
    hint = refused(asked("a", train_rows=60), message)
    assert hint == "give 100 training rows or more, or leave `threshold` out"
    message = (
        "needs 5 held-out rows with its label and as many without, of 10 there are . with `rare`"
    )
    assert "more training rows" in refused(asked("a", train_rows=100), message)


def test_what_has_no_threshold_is_refused_by_name(asked, write, family_models):
    rows = "text,label\nthe film,a\nfood,b\nstory,c\n" + "we,a\nit,b\nvery,c\n" * 100
    three = replace(
        asked("a"),
        task=find_task("three", **COLUMNS),
        data=write("3.csv", rows),
        eval_data=None,
    )
    hint = refused(three, "for two labels, or for several a row, and `three` has 3 labels")
    assert hint == "leave `threshold` out"
    numbers = write("numbers.csv", "text,label\n" + "the film,1.5\nfood,2.5\n" * 100)
    task = find_task("numbers", kind=Kind.REGRESSION, **COLUMNS)
    refused(replace(three, task=task, data=numbers), "`numbers` is a regression")
    gpt2 = replace(asked("a"), model=str(family_models("gpt2")))
    refused(gpt2, "changes the bias of the head, and that of `gpt2` has none")


def test_a_sweep_takes_the_options_and_their_absence_changes_no_key(tmp_path):
    names = {"class_weight": "balanced", "calibrate": "temperature", "threshold": "tuned"}
    model, task = SweepModel("m", "m", "1"), SweepTask("t", find_task("sst2"), "2")

    def run(options):
        return Run(model, task, Arm("mask", "mask", options), 0, {}, tmp_path)

    config = run(names).config()
    assert {name: str(getattr(config, name)) for name in names} == names
    assert run(names).key != run({}).key
    assert run(dict.fromkeys(names, "none")).key == run({}).key
    assert not names.keys() & FitConfig().record().keys()
