"""A fine-tuned classifier as the model of a run: its head is kept where it means the same."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.formats import open_artifact
from maskpack.tasks.context import restore_task
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.evaluate import assess, task_of
from maskpack.tasks.pretrained_head import find_head, label_order
from maskpack.tasks.task import Kind, find_task

SST2 = find_task("sst2")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, tiny_model, sentiment):
    """A tiny BERT fine-tuned on the task; its labels stand in the other order."""
    out = tmp_path_factory.mktemp("tuned") / "tuned"
    config = BaselineConfig(
        steps=150, batch_size=16, max_length=16, precision="fp32", lr=2e-3, head_lr=5e-3
    )
    run_baseline(BaselineRequest(str(tiny_model), SST2, config, out, data=sentiment))
    model = AutoModelForSequenceClassification.from_pretrained(out)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    model.config.label2id = {"POSITIVE": 0, "NEGATIVE": 1}
    model.save_pretrained(out)
    return out


@pytest.fixture
def relabelled(tuned, tmp_path):
    """A function: the same model with other names for its labels, or another configuration."""

    def make(id2label=None, **config):
        model = AutoModelForSequenceClassification.from_pretrained(tuned)
        if id2label is not None:
            model.config.id2label = dict(enumerate(id2label))
            model.config.label2id = {name: place for place, name in enumerate(id2label)}
        for key, value in config.items():
            setattr(model.config, key, value)
        model.save_pretrained(tmp_path / "other")
        AutoTokenizer.from_pretrained(tuned).save_pretrained(tmp_path / "other")
        return str(tmp_path / "other")

    return make


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (["NEG", "pos"], ["neg", "pos"], ("neg", "pos")),
        (["not equal", "equal"], ["equal", "not_equal"], ("not_equal", "equal")),
        (["LABEL_0", "LABEL_1"], ["a", "b"], ("a", "b")),
        (["no", "yes"], ["0", "1"], ("0", "1")),
        (["no", "yes"], ["1", "2"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["a", "b"], ["a", "c"], None),
        (["a", "a"], ["a", "b"], None),
    ],
)
def test_labels_are_put_in_the_order_of_a_models(names, labels, order):
    assert label_order(names, labels) == order


def test_a_plain_encoder_brings_nothing(tiny_model, sentiment):
    found = find_head(str(tiny_model), load_data(SST2, data=sentiment))
    assert (found.head, found.note, found.refused) == (None, None, False)


def test_the_head_of_a_classifier_of_the_task_is_found_and_orders_its_labels(tuned, sentiment):
    found = find_head(str(tuned), load_data(SST2, data=sentiment))
    assert found.head.labels == ("positive", "negative")
    assert "2 labels match" in found.note
    loaded = AutoModelForSequenceClassification.from_pretrained(tuned)
    assert torch.equal(found.head.parameters["classifier.weight"], loaded.classifier.weight)


@pytest.mark.parametrize(
    ("names", "config", "word"),
    [
        (["spam", "ham"], {}, "has the labels spam, ham where the task has negative, positive"),
        (None, {"problem_type": "multi_label_classification"}, "not for classification"),
    ],
)
def test_a_head_that_means_something_else_is_refused_in_a_line(
    relabelled, sentiment, names, config, word
):
    found = find_head(relabelled(names, **config), load_data(SST2, data=sentiment))
    assert found.refused
    assert word in found.note
    assert "fresh head" in found.note


def test_a_head_of_another_width_is_refused(tuned, write):
    path = write("three.csv", "text,label\n" + "".join(f"t{i},{'abc'[i % 3]}\n" for i in range(30)))
    data = load_data(find_task("mine", text_field="text", label_field="label"), data=path)
    assert "has 2 logits where the task has 3" in find_head(str(tuned), data).note
    numbers = replace(
        data, task=replace(data.task, kind=Kind.REGRESSION, metrics=("pearson",)), labels=()
    )
    assert "the task has 1" in find_head(str(tuned), numbers).note


def test_a_mask_learned_from_a_classifier_starts_from_its_head_and_says_what_it_scored(
    tuned, sentiment, quick, tmp_path, caplog
):
    options = quick(steps=1, lr=1e-9, head_lr=1e-9, bits=8)
    with caplog.at_level(logging.INFO, logger="maskpack"):
        result = fit_task(FitRequest(str(tuned), SST2, tmp_path / "a", options, data=sentiment))
    assert "brings a head" in caplog.text
    model = AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    tokens = AutoTokenizer.from_pretrained(tuned)
    dev = load_data(SST2, data=sentiment).dev
    with torch.inference_mode():
        fed = tokens([text for (text,) in dev.texts], padding=True, return_tensors="pt")
        answers = model(**fed).logits.argmax(1).numpy()
    wanted = float(np.mean((1 - answers) == dev.labels))  # its class 0 is our class 1
    assert result.original["accuracy"] == pytest.approx(wanted)
    assert wanted > 0.7
    assert abs(result.scores["accuracy"] - wanted) < 0.1  # an untrained head would answer one class
    artifact = open_artifact(tmp_path / "a")
    assert artifact.entry("sst2").labels == ("positive", "negative")
    restored = restore_task(artifact, "sst2")
    assert restored.config.id2label == {0: "positive", 1: "negative"}
    torch.testing.assert_close(
        restored.classifier.weight, model.classifier.weight, atol=2e-3, rtol=2e-3
    )
    again = assess(artifact, "sst2", data=sentiment)
    assert (again.scores, again.original) == (result.scores, result.original)
    assert json.loads(again.to_json())["original"] == result.original


def test_a_known_task_in_the_models_order_is_still_known(tuned, sentiment, quick, tmp_path):
    fit_task(FitRequest(str(tuned), SST2, tmp_path / "a", quick(steps=2), data=sentiment))
    task = task_of(open_artifact(tmp_path / "a").entry("sst2"))
    assert (task.labels, task.raw_labels) == (("positive", "negative"), ("1", "0"))


def test_a_refused_head_leaves_no_trace_in_mask_or_baseline(relabelled, sentiment, quick, tmp_path):
    model = relabelled(["spam", "ham"])
    result = fit_task(FitRequest(model, SST2, tmp_path / "a", quick(steps=1), data=sentiment))
    assert result.original is None
    assert "original" not in open_artifact(tmp_path / "a").entry("sst2").data
    own = AutoModelForSequenceClassification.from_pretrained(model).classifier.weight
    config = BaselineConfig(steps=1, head_lr=1e-9, lr=1e-9, max_length=16, precision="fp32")
    twin = run_baseline(BaselineRequest(model, SST2, config, tmp_path / "twin", data=sentiment))
    fresh = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twin").classifier.weight
    assert twin.original is None
    assert not torch.allclose(own, fresh, atol=1e-3)


def test_baselines_start_from_the_head_too(tuned, sentiment, tmp_path):
    config = BaselineConfig(steps=1, head_lr=1e-9, lr=1e-9, max_length=16, precision="fp32")
    for bits in (None, 8):
        request = BaselineRequest(str(tuned), SST2, replace(config, bits=bits), data=sentiment)
        result = run_baseline(request)
        assert result.original["accuracy"] > 0.7
        assert abs(result.scores["accuracy"] - result.original["accuracy"]) < 0.1
