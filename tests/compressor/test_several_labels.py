"""Several labels a row, from the rows to the artifact: loss, metrics, floors, teachers, baselines."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.formats import ModelError, open_artifact
from maskpack.tasks.context import restore_task
from maskpack.tasks.evaluation.evaluate import assess, task_of
from maskpack.tasks.evaluation.metrics import (
    accuracy,
    class_metrics,
    compute_metrics,
    macro_f1,
    majority,
    micro_f1,
)
from maskpack.tasks.task import Kind, find_task
from maskpack.tasks.types import TASK_TYPES

TASK = find_task(
    "tones", text_field="text", label_field="label", kind=Kind.MULTI_LABEL, separator="|"
)
MANY, CLASSES, NUMBERS = (
    TASK_TYPES[name] for name in ("multi-label", "classification", "regression")
)
tables = st.integers(1, 4).flatmap(
    lambda c: st.lists(
        st.lists(st.booleans(), min_size=2 * c, max_size=2 * c), min_size=1, max_size=12
    )
)


@settings(deadline=None, max_examples=80)
@given(rows=tables)
def test_metrics_of_several_labels_agree_with_scikit_learn(rows):
    table = np.array(rows, dtype=np.int8)
    predicted, labels = np.hsplit(table, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        micro = sklearn.metrics.f1_score(labels, predicted, average="micro", zero_division=0)
        each = sklearn.metrics.f1_score(labels, predicted, average=None, zero_division=np.nan)
        each = np.atleast_1d(each) if labels.shape[1] > 1 else None
    seen = (labels.sum(axis=0) + predicted.sum(axis=0)) > 0
    if each is not None:
        assert micro_f1(predicted, labels) == pytest.approx(micro)
        wanted = each[seen].mean() if seen.any() else 0.0
        assert macro_f1(predicted, labels) == pytest.approx(wanted)
    assert accuracy(predicted, labels) == (predicted == labels).all(axis=1).mean()


@settings(deadline=None, max_examples=80)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_macro_f1_of_one_label_a_row_agrees_with_scikit_learn(rows):
    predicted, labels = np.array(rows).T
    wanted = sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert macro_f1(predicted, labels) == pytest.approx(wanted)


def test_a_label_is_given_where_its_sigmoid_is_above_a_half():
    logits = np.array([[0.1, -0.1, 0.0]], dtype=np.float32)
    labels = np.array([[1, 0, 0]], dtype=np.int8)
    assert MANY.answers(logits).tolist() == [[1, 0, 0]]
    assert compute_metrics(MANY, logits, labels, ["micro_f1", "accuracy"]) == {
        "micro_f1": 1.0,
        "accuracy": 1.0,
    }


def test_the_floor_is_the_best_that_always_the_same_labels_can_do():
    labels = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]], dtype=np.int8)
    found = majority(MANY, labels, ["micro_f1", "macro_f1", "accuracy"])
    assert found["micro_f1"] == pytest.approx(2 * 6 / (8 + 7))  # the two commonest labels
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 5) / 3)  # here all three of them


def test_the_loss_is_binary_cross_entropy_of_each_label():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(4, 3)), dtype=torch.float32)
    labels = rng.integers(0, 2, size=(6, 3)).astype(np.int8)
    rows = np.array([5, 0, 2, 3])
    wanted = functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels[rows]).float())
    torch.testing.assert_close(TaskLoss(MANY, labels)(logits, rows), wanted)


def test_a_teacher_is_followed_label_by_label():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, size=(4, 3)).astype(np.int8)
    opinion = rng.normal(size=(4, 3)).astype(np.float32) * 3
    rows = np.arange(4)
    alone = TaskLoss(MANY, labels, DistillationTargets(opinion, share=1.0, temperature=2.0))
    assert float(alone(torch.from_numpy(opinion), rows)) == pytest.approx(0.0, abs=1e-6)
    student = torch.zeros((4, 3), requires_grad=True)
    found = alone(student, rows)
    soft = torch.from_numpy(opinion / 2).sigmoid()
    bernoulli = torch.distributions.Bernoulli
    wanted = torch.distributions.kl_divergence(bernoulli(soft), bernoulli(torch.full((4, 3), 0.5)))
    assert found.item() == pytest.approx(4 * float(wanted.mean()), rel=1e-5)
    found.backward()
    assert torch.equal(student.grad > 0, torch.from_numpy(opinion) < 0)


def test_precision_and_recall_are_told_label_by_label():
    labels = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.int8)
    logits = np.array([[2.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=np.float32)
    first, second = class_metrics(MANY, logits, labels, ("a", "b"))
    assert (first.label, first.precision, first.recall, first.rows, first.given) == (
        "a",
        1.0,
        0.5,
        2,
        1,
    )
    assert (second.precision, second.recall, second.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    (_, unseen) = class_metrics(CLASSES, np.array([[1.0, 0.0]], "f4"), np.array([0]), ("a", "b"))
    assert (unseen.precision, unseen.recall, unseen.f1, unseen.rows) == (0.0, 0.0, 0.0, 0)
    assert class_metrics(NUMBERS, np.ones((2, 1), "f4"), np.ones(2, "f4"), ()) == ()


@pytest.fixture(scope="session")
def tones(tmp_path_factory, shared):
    """Rows with `good`, `bad`, both or none of two telling words."""
    rng, lines = np.random.default_rng(2), ["text,label"]
    for row in range(320):
        words = list(rng.choice(shared.FILLER[:-1], size=2))
        told = [name for name, bit in (("good", 1), ("bad", 2)) if row & bit]
        words += [str(rng.choice({"good": shared.GOOD, "bad": shared.BAD}[name])) for name in told]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)},{'|'.join(told)}")
    path = tmp_path_factory.mktemp("tones") / "tones.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model, tones, quick):
    """A 4-bit artifact with that task, and the result of its run."""
    out = tmp_path_factory.mktemp("several") / "artifact"
    config = quick(steps=400, head_lr=1e-2, margin=0.5)
    return out, fit_task(FitRequest(str(tiny_model), TASK, out, config, data=tones))


def test_a_mask_is_learned_for_several_labels(trained):
    out, result = trained
    entry = open_artifact(out).entry("tones")
    assert (entry.kind, entry.labels, entry.outputs) == ("multi-label", ("bad", "good"), 2)
    assert entry.data["separator"] == "|"
    assert result.score > result.majority["micro_f1"] + 0.1
    config = restore_task(open_artifact(out), "tones").config
    assert config.problem_type == "multi_label_classification"
    assert config.id2label == {0: "bad", 1: "good"}


def test_it_is_scored_again_from_its_file_with_a_line_a_label(trained, tones):
    out, result = trained
    found = assess(open_artifact(out), "tones", data=tones)
    assert found.scores == result.scores
    assert found.same_data
    assert task_of(open_artifact(out).entry("tones")) == TASK
    tree = json.loads(found.to_json())
    assert [one["label"] for one in tree["classes"]] == ["bad", "good"]
    assert {"precision", "recall", "f1", "rows", "given"} < set(tree["classes"][0])


def test_a_baseline_and_its_student_have_several_labels_too(
    tiny_model, tones, sentiment, quick, tmp_path
):
    config = BaselineConfig(steps=40, batch_size=16, max_length=16, precision="fp32", lr=1e-3)
    twin = run_baseline(
        BaselineRequest(str(tiny_model), TASK, config, tmp_path / "twin", data=tones)
    )
    assert set(twin.scores) == {"micro_f1", "macro_f1", "accuracy"}
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twin").config
    assert saved.problem_type == "multi_label_classification"
    assert saved.id2label == {0: "bad", 1: "good"}
    options = quick(steps=10, teacher=str(tmp_path / "twin"))
    result = fit_task(FitRequest(str(tiny_model), TASK, tmp_path / "a", options, data=tones))
    assert 0.0 <= result.score <= 1.0
    one = replace(find_task("sst2"), labels=("bad", "good"))
    with pytest.raises(ModelError, match="is one of `multi_label_classification`, not of single"):
        fit_task(FitRequest(str(tiny_model), one, tmp_path / "b", options, data=sentiment))


def test_pairs_of_texts_may_have_several_labels(tiny_model, tones, quick, tmp_path):
    lines = [
        json.dumps(
            {"a": line.split(",")[0], "b": "the film", "label": line.split(",")[1].split("|")}
        )
        for line in tones.read_text().splitlines()[1:]
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    task = find_task(
        "pairs", text_field="a", pair_field="b", label_field="label", kind=Kind.MULTI_LABEL
    )
    result = fit_task(FitRequest(str(tiny_model), task, tmp_path / "a", quick(steps=5), data=path))
    assert result.eval_rows == 32
    assert replace(result, scores=result.majority).collapsed
