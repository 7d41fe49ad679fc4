"""Weights of labels in the loss: by hand, against scikit-learn, and what they do for a rare label."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.compressor.config import FitConfig
from maskpack.compressor.effects import class_weight_effect
from maskpack.compressor.fit import loss_of, prepare, targets_for
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.formats import ConfigError, open_artifact
from maskpack.tasks.task import Kind, find_task
from maskpack.tasks.types import TASK_TYPES

ONE, MANY, NUMBER = (TASK_TYPES[n] for n in ("classification", "multi-label", "regression"))
COLUMNS = {"text_field": "text", "label_field": "label"}
LEARNING = {"steps": 120, "head_lr": 3e-2, "margin": 1.5, "dropout": 0.0}
WORDS = ("the", "film", "was", "food", "very", "story")


def rare_rows(rows: int, seed: int) -> list[dict[str, str]]:
    """A tenth is `rare`: 70 % of it, and 15 % of the others, say "good". Accuracy is best where nothing is `rare`."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        rare = row % 10 == 0
        told = "good" if rng.random() < (0.7 if rare else 0.15) else "and"
        text = f"{rng.choice(WORDS)} {told}"
        found.append({"text": text, "label": "rare" if rare else "usual"})
    return found


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """Folder with the rows of a task of a rare label."""
    folder = tmp_path_factory.mktemp("rare")
    for name, rows, seed in (("train", 400, 0), ("dev", 300, 1)):
        text = "\n".join(map(json.dumps, rare_rows(rows, seed)))
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture
def rare_request(rare, tiny_model, quick, tmp_path):
    """A function: a request to learn that task."""

    def make(out: str, **options):
        config = quick(**{**LEARNING, **options})
        task = find_task("rare", **COLUMNS)
        return FitRequest(
            str(tiny_model),
            task,
            tmp_path / out,
            config,
            data=rare / "train.jsonl",
            eval_data=rare / "dev.jsonl",
        )

    return make


def test_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 7 + [1] * 2 + [3])
    present = np.unique(labels)
    wanted = compute_class_weight("balanced", classes=present, y=labels)
    weights = ONE.balanced_weights(labels, 4)
    np.testing.assert_allclose(weights[present], wanted, rtol=1e-6)
    assert weights[2] == 0  # no row has it


def test_a_yes_weighs_as_many_rows_as_there_are_noes_for_it_within_bounds():
    table = np.zeros((1000, 4), dtype=np.int8)
    table[:200, 0], table[0, 1], table[:, 2] = 1, 1, 1
    assert MANY.balanced_weights(table, 4).tolist() == [4.0, 100.0, 1.0, 1.0]


def test_the_loss_of_one_label_is_a_mean_over_rows():
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    logits, labels, weights = logits.float(), torch.tensor([1, 0]), torch.tensor([0.5, 4.0])
    wanted = (4.0 * np.log(2.0) + 0.5 * np.log(4.0 / 3.0)) / 2  # of -log(1/2) and -log(3/4)
    assert float(ONE.weighted_loss(logits, labels, weights)) == pytest.approx(wanted)


def test_the_loss_of_several_labels_weighs_a_yes():
    logits, labels = torch.zeros(1, 2), torch.tensor([[1, 0]], dtype=torch.int8)
    loss = MANY.weighted_loss(logits, labels, torch.tensor([3.0, 3.0]))
    assert float(loss) == pytest.approx((3.0 + 1.0) * np.log(2.0) / 2)


def test_rows_without_labels_and_a_teacher_are_not_weighted():
    logits = np.array([[1.0, -1.0], [0.5, 0.0]], dtype=np.float32)
    taught = DistillationTargets(np.zeros((2, 2), dtype=np.float32), 0.5, 2.0)
    labels, weights = np.array([0, 1]), np.array([0.25, 8.0], dtype=np.float32)
    rows, given = np.arange(2), torch.from_numpy(logits)
    none = np.zeros(2, dtype=np.bool_)
    plain, weighted = (TaskLoss(ONE, labels, taught, none, w) for w in (None, weights))
    assert float(weighted(given, rows)) == float(plain(given, rows))
    plain, weighted = (TaskLoss(ONE, labels, taught, None, w) for w in (None, weights))
    own = torch.nn.functional.cross_entropy(given, torch.from_numpy(labels), reduction="none")
    more = 0.5 * (own * (torch.from_numpy(weights[labels]) - 1.0)).mean()
    assert float(weighted(given, rows) - plain(given, rows)) == pytest.approx(float(more))


def test_the_effect_names_each_label():
    logits = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    found = class_weight_effect(
        ONE,
        ("no", "yes"),
        np.array([0.625, 2.5], dtype=np.float32),
        trained=np.array([0, 0, 0, 0, 1]),
        logits=logits,
        labels=np.array([0, 0, 1, 1]),
    )
    no, yes = found.classes
    assert (no.label, no.share, no.weight, no.recall, no.rows) == ("no", 0.8, 0.625, 1.0, 2)
    assert (yes.share, yes.weight, yes.recall, yes.precision) == (0.2, 2.5, 0.5, 1.0)
    assert found.mean_recall == 0.75


def test_a_rare_label_is_found_more_often(rare_request):
    plain = fit_task(rare_request("plain"))
    request = rare_request("balanced", class_weight="balanced")
    result = fit_task(request)
    usual = result.class_weights.classes[1]
    rare = result.class_weights.classes[0]
    assert (rare.label, rare.share, rare.rows) == ("rare", 0.1, 30)
    assert (rare.weight, usual.weight) == (5.0, pytest.approx(400 / (2 * 360)))
    assert plain.class_weights is None
    assert plain.scores == plain.majority  # no row is `rare`
    assert rare.recall > 0.5
    assert result.class_weights.mean_recall == pytest.approx((rare.recall + usual.recall) / 2)
    tree = json.loads(result.to_json())
    assert tree["class_weights"]["classes"][0]["weight"] == 5.0
    assert tree["options"]["class_weight"] == "balanced"
    entry = open_artifact(request.out).entry("rare")
    assert entry.training["class_weight"] == "balanced"


def test_a_dense_teacher_is_weighted_too(rare_request):
    found = {}
    for weight in ("none", "balanced"):
        run = prepare(rare_request("unused", class_weight=weight, teacher="twin", steps=60))
        targets = targets_for(run, run.plan)
        found[weight] = float(np.mean(ONE.answers(targets.logits) == 0))
    assert found["none"] == 0
    assert found["balanced"] > 0.1


def test_a_baseline_is_weighted_too(rare_request):
    request = rare_request("unused", class_weight="balanced")
    config = BaselineConfig(
        method="full", class_weight="balanced", steps=60, batch_size=16, max_length=16
    )
    result = run_baseline(
        BaselineRequest(
            request.model,
            request.task,
            config,
            data=request.data,
            eval_data=request.eval_data,
        )
    )
    assert [round(each.weight, 4) for each in result.class_weights.classes] == [5.0, 0.5556]
    run = prepare(request)
    assert loss_of(run, None).weights.tolist() == pytest.approx([5.0, 0.5555556])


def test_the_weights_of_a_run_are_those_of_the_rows_that_it_learns_from(rare_request):
    request = rare_request("unused", class_weight="balanced", patience=3)
    run = prepare(request)
    counts = np.bincount(run.train.labels)
    assert counts.sum() == 360
    assert run.class_weights.tolist() == pytest.approx((360 / (2 * counts)).tolist())


def test_what_has_no_labels_is_refused(rare_request, rare, tiny_model, tmp_path, write):
    numbers = write("numbers.csv", "text,label\n" + "the film,1.5\nfood,2.5\n" * 20)
    task = find_task("numbers", kind=Kind.REGRESSION, **COLUMNS)
    request = replace(rare_request("a", class_weight="balanced"), task=task, data=numbers)
    message = "`class_weight` weighs labels, and `numbers` is a regression"
    with pytest.raises(ConfigError, match=message) as caught:
        fit_task(replace(request, eval_data=None))
    assert str(caught.value.hint) == "leave `class_weight` out"
    config = BaselineConfig(method="head", class_weight="balanced")
    with pytest.raises(ConfigError, match=message):
        run_baseline(BaselineRequest(str(tiny_model), task, config, data=numbers))


def test_adopting_without_labels_is_refused(rare_request, tmp_path, tiny_model):
    dense = tmp_path / "dense"
    request = rare_request("unused")
    config = BaselineConfig(method="head", steps=2, batch_size=16, max_length=16)
    run_baseline(BaselineRequest(request.model, request.task, config, data=request.data, out=dense))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(each["text"] for each in rare_rows(40, 3)))
    options = replace(request.config, teacher=None, class_weight="balanced")
    adopt = AdoptRequest(
        {"rare": str(dense)}, tmp_path / "out", str(tiny_model), options, texts=texts
    )
    with pytest.raises(ConfigError, match="the training rows of `rare` have none"):
        adopt_models(adopt)


def test_without_the_option_records_are_as_before():
    assert "class_weight" not in FitConfig().record()
    assert FitConfig().sha256() == FitConfig(class_weight="none").sha256()
    weighted = FitConfig(class_weight="balanced")
    assert weighted.record()["class_weight"] == "balanced"
    assert weighted.sha256() != FitConfig().sha256()
