from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskpack.compressor.config import FitConfig
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.teacher import (
    DenseTeacherRun,
    distillation_targets,
    find_teacher,
)
from maskpack.compressor.training.train import Plan
from maskpack.formats import ModelError
from maskpack.models.load import load_classifier, load_pretrained
from maskpack.models.placement import CpuPlacement
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import described
from maskpack.tasks.pretrained_head import Finding
from maskpack.tasks.texts import TextPreprocessor
from maskpack.tasks.types import TASK_TYPES

ROWS = np.array([3, 0, 5])
PLAN = Plan(12, 16, 0.1, 4)
CLASSES, NUMBERS = TASK_TYPES["classification"], TASK_TYPES["regression"]


def classes(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, size=6), rng.normal(size=(6, 3)).astype(np.float32)


def softmax(values):
    exp = np.exp(values - values.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_and_gradient_are_those_of_the_formula(share, temperature):
    labels, opinions = classes()
    targets = DistillationTargets(opinions, share, temperature) if share else None
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = TaskLoss(CLASSES, labels, targets)(logits, ROWS)
    loss.backward()
    own = logits.detach().numpy().astype(np.float64)
    soft, wanted = softmax(own / temperature), softmax(opinions[ROWS] / temperature)
    hot = np.eye(3)[labels[ROWS]]
    entropy = -np.log(softmax(own))[hot == 1].mean()
    divergence = (wanted * np.log(wanted / soft)).sum(axis=1).mean()
    expected = (1 - share) * entropy + share * temperature**2 * divergence
    gradient = (1 - share) * (softmax(own) - hot) + share * temperature * (soft - wanted)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert logits.grad.numpy() == pytest.approx(gradient / 3, abs=1e-6)


def test_a_pupil_who_agrees_with_the_teacher_has_nothing_to_learn():
    labels, opinions = classes()
    logits = torch.from_numpy(opinions[ROWS] + 7.0).requires_grad_()  # a shift changes no softmax
    loss = TaskLoss(CLASSES, labels, DistillationTargets(opinions, 1.0, 2.0))(logits, ROWS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_numbers_are_learned_by_squared_error_from_labels_and_teacher(share):
    labels = np.linspace(0, 5, 6)
    opinions = (labels[:, None] + 1.0).astype(np.float32)
    targets = DistillationTargets(opinions, share, 2.0) if share else None
    logits = torch.tensor([[1.0], [2.0], [3.0]])
    errors = np.square(logits[:, 0].numpy() - labels[ROWS]).mean()
    taught = np.square(logits.numpy() - opinions[ROWS]).mean()
    found = float(TaskLoss(NUMBERS, labels, targets)(logits, ROWS))
    assert found == pytest.approx((1 - share) * errors + share * taught)


@pytest.fixture(scope="module")
def rows(tiny_model, sentiment):
    from maskpack.tasks import find_task, load_data

    data = load_data(find_task("sst2"), data=sentiment)
    tokenizer = load_pretrained(str(tiny_model)).tokenizer
    return TextPreprocessor(tokenizer, token_types=True).encode(data.train, max_length=16)


def opinion_of(teacher, rows, model, plan=PLAN, labels=("bad", "good"), states=None):
    config = FitConfig(teacher=teacher, teacher_share=0.7, temperature=3.0, teacher_states=states)
    data = (Path(model) / "config.json").read_bytes()
    student = described(data, CLASSES, labels)
    place = CpuPlacement.of("cpu", "fp32")

    def train_first():
        run = DenseTeacherRun(str(model), None, rows, student, CLASSES, plan, place)
        return run.train()

    return distillation_targets(
        find_teacher(config, Finding(), CLASSES),
        config,
        rows,
        student,
        placement=place,
        train_first=train_first,
    )


def save_teacher(model, outputs, folder):
    torch.manual_seed(5)
    classifier = load_classifier(str(model), outputs=outputs)
    classifier.save_pretrained(folder)
    return classifier


def test_without_a_teacher_there_is_no_opinion(rows, tiny_model):
    assert opinion_of("none", rows, tiny_model) is None


def test_a_teacher_with_the_labels_in_another_order_is_refused(rows, tiny_model, tmp_path):
    teacher = save_teacher(tiny_model, 2, tmp_path / "t")
    teacher.config.id2label = {0: "good", 1: "bad"}
    teacher.config.save_pretrained(tmp_path / "t")
    with pytest.raises(ModelError, match="labels in another order"):
        opinion_of(str(tmp_path / "t"), rows, tiny_model)
    same = opinion_of(str(tmp_path / "t"), rows, tiny_model, labels=("good", "bad"))
    assert same.logits.shape == (96, 2)


def test_a_teacher_of_other_tokens_is_refused(rows, tiny_model, tmp_path):
    save_teacher(tiny_model, 2, tmp_path / "t")
    strange = replace(rows, ids=(np.array([10**6]), *rows.ids[1:]))
    with pytest.raises(ModelError, match="the data holds token 1000000"):
        opinion_of(str(tmp_path / "t"), strange, tiny_model)


def test_a_teachers_opinion_is_its_logits_of_every_row_in_order(rows, tiny_model, tmp_path):
    teacher = save_teacher(tiny_model, 2, tmp_path / "t")
    found = opinion_of(str(tmp_path / "t"), rows, tiny_model)
    assert (found.share, found.temperature) == (0.7, 3.0)
    expected = predict_all(torch_predict(teacher), rows)
    assert found.logits.shape == (96, 2)
    assert found.logits == pytest.approx(expected, abs=1e-6)


def test_a_teacher_of_another_task_is_refused(rows, tiny_model, tmp_path):
    save_teacher(tiny_model, 3, tmp_path / "t")
    with pytest.raises(ModelError, match="has 3 logits, the task 2"):
        opinion_of(str(tmp_path / "t"), rows, tiny_model)


def test_a_teacher_that_is_not_there_is_told_of_the_one_without_a_folder(
    rows, tiny_model, tmp_path
):
    with pytest.raises(ModelError, match="no-teacher") as caught:
        opinion_of(str(tmp_path / "no-teacher"), rows, tiny_model)
    assert caught.value.hint.startswith("the teacher `twin` is trained first; or give a folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError) as caught:
        opinion_of(str(tmp_path / "empty"), rows, tiny_model)
    assert "twin" not in caught.value.hint


def test_a_twin_learns_the_rows_always_the_same_way(rows, tiny_model):
    plan = replace(PLAN, steps=60)
    first, again = (opinion_of("twin", rows, tiny_model, plan) for _ in range(2))
    assert np.array_equal(first.logits, again.logits)
    short = opinion_of("twin", rows, tiny_model, replace(plan, steps=1))

    def loss(found):
        task_loss = TaskLoss(CLASSES, rows.labels)
        return float(task_loss(torch.from_numpy(found.logits), np.arange(len(rows))))

    assert loss(first) < 0.95 * loss(short)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_fit_listens_to_its_teacher(share, request_for, tiny_model, tmp_path):
    from maskpack.compressor import fit_task
    from maskpack.formats import open_artifact

    save_teacher(tiny_model, 2, tmp_path / "t")
    alone, taught = (
        request_for("a"),
        request_for("b", teacher=str(tmp_path / "t"), teacher_share=share),
    )
    for request in (alone, taught):
        fit_task(request)
    heads = [open_artifact(r.out).patch("sst2").head["classifier.weight"] for r in (alone, taught)]
    assert not np.array_equal(*heads)


def test_a_teacher_whose_head_was_never_saved_is_refused(rows, tiny_model, tmp_path):
    load_pretrained(str(tiny_model)).model.save_pretrained(tmp_path / "t")
    with pytest.raises(ModelError, match="is no fine-tuned classifier: it lacks `classifier"):
        opinion_of(str(tmp_path / "t"), rows, tiny_model)


@pytest.mark.parametrize("kind", ["distilbert", "electra", "albert"])
def test_a_teacher_may_be_of_another_architecture(kind, rows, tiny_models, tiny_model, tmp_path):
    save_teacher(tiny_models[kind], 2, tmp_path / "t")
    found = opinion_of(str(tmp_path / "t"), rows, tiny_model)
    assert found.logits.shape == (96, 2)
    assert found.state_teacher is not None  # layers of the same number and width
    inputs = {name: torch.from_numpy(value) for name, value in rows.feeds(np.arange(4)).items()}
    assert len(found.state_teacher.states(inputs)) == 2


def test_a_teacher_with_too_few_positions_is_refused(rows, tiny_model, tmp_path):
    save_teacher(tiny_model, 2, tmp_path / "t")
    types = (np.zeros(65, dtype=np.int64), *rows.types[1:])
    long = replace(rows, ids=(np.full(65, 5), *rows.ids[1:]), types=types)
    with pytest.raises(ModelError, match="reads 64 tokens, a row has 65"):
        opinion_of(str(tmp_path / "t"), long, tiny_model)


def test_a_teacher_that_knows_one_text_only_is_refused_for_pairs(rows, tiny_model, tmp_path):
    save_teacher(tiny_model, 2, tmp_path / "t")
    pair = replace(rows, types=(np.full(len(rows.ids[0]), 2), *rows.types[1:]))
    with pytest.raises(ModelError, match="cannot tell the two texts"):
        opinion_of(str(tmp_path / "t"), pair, tiny_model)


def test_labels_in_another_order_are_noticed_whatever_their_case(rows, tiny_model, tmp_path):
    teacher = save_teacher(tiny_model, 2, tmp_path / "t")
    teacher.config.id2label = {0: "GOOD", 1: "BAD"}
    teacher.config.save_pretrained(tmp_path / "t")
    with pytest.raises(ModelError, match="labels in another order"):
        opinion_of(str(tmp_path / "t"), rows, tiny_model)
