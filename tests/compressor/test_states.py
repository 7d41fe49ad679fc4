"""Hidden states: which tokens count, how the distance is weighed, and who follows whom."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.compressor.config import FitConfig
from maskpack.compressor.fit import learn, prepare
from maskpack.compressor.training.loss import (
    DistillationTargets,
    HiddenStateTeacher,
    TaskLoss,
    distance,
    states_of,
)
from maskpack.compressor.training.step import StepRunner
from maskpack.compressor.training.teacher import (
    distillation_targets,
    find_teacher,
    state_teacher,
)
from maskpack.compressor.training.train import FlooredAdam
from maskpack.formats import ConfigError, ModelError
from maskpack.models.load import load_classifier
from maskpack.models.placement import CpuPlacement
from maskpack.tasks import find_task
from maskpack.tasks.context import described
from maskpack.tasks.pretrained_head import Finding
from maskpack.tasks.types import TASK_TYPES

CLASSES, FP32 = TASK_TYPES["classification"], CpuPlacement.of("cpu", "fp32")

FEEDS = {
    "input_ids": np.array([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def inputs():
    return {name: torch.from_numpy(array) for name, array in FEEDS.items()}


def step(student, optimizer, loss_of, teacher):
    """One step on `FEEDS`; returns its loss."""

    class Loss:
        state_teacher, asked = teacher, None

        def __call__(self, logits, rows, drawn, encoded):
            return loss_of(logits)

    rows = SimpleNamespace(feeds=lambda _: FEEDS, read_with=lambda rows: rows)
    return StepRunner(student, optimizer, rows, Loss(), FP32).take(np.arange(2))[0]


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    return load_classifier(str(tiny_model), outputs=2).eval()


def test_padding_and_the_embeddings_own_output_do_not_count():
    hidden = tuple(torch.arange(16.0).view(2, 4, 2) * layer for layer in range(3))
    states = states_of(SimpleNamespace(hidden_states=hidden), inputs())
    assert [state.shape for state in states] == [(7, 2), (7, 2)]
    assert states[1].tolist() == [[4.0 * k, 4.0 * k + 2] for k in range(7)]


def test_a_pooler_s_output_is_the_last_state():
    outputs = SimpleNamespace(
        hidden_states=(None, torch.ones(2, 4, 2)), pooler_output=torch.zeros(2, 2)
    )
    assert [state.shape for state in states_of(outputs, inputs())] == [(7, 2), (2, 2)]


def test_a_layer_counts_by_its_error_over_its_own_spread():
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(50, 4, generator=generator) * size for size in (1.0, 100.0)]
    noise = [torch.randn(50, 4, generator=generator) * size for size in (0.1, 10.0)]
    found = [state + error for state, error in zip(wanted, noise, strict=True)]
    each = [distance([a], [b]) for a, b in zip(found, wanted, strict=True)]
    assert float(distance(found, wanted)) == pytest.approx(float(sum(each)) / 2)
    assert float(each[0]) == pytest.approx(0.01, rel=0.3)
    assert float(each[1]) == pytest.approx(0.01, rel=0.3)


def test_a_step_adds_the_weighed_distance_to_its_loss(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    own, wanted = (
        states_of(each(**inputs(), output_hidden_states=True), inputs()) for each in (model, other)
    )
    expected = float(distance(own, wanted).detach())
    assert expected > 1e-4

    def loss(weight):
        student = copy.deepcopy(model)
        optimizer = FlooredAdam([{"params": list(student.parameters()), "lr": 1e-3}])
        state_teacher = HiddenStateTeacher(other, weight) if weight else None
        return step(student, optimizer, lambda logits: logits.square().mean(), state_teacher)

    assert loss(2.0) - loss(0.0) == pytest.approx(2.0 * expected, rel=1e-3)


def test_a_student_comes_nearer_to_its_guide_and_the_guide_stays(model, tiny_model):
    torch.manual_seed(9)
    teacher = load_classifier(str(tiny_model), outputs=2).eval()
    with torch.no_grad():
        for parameter in teacher.base_model.parameters():
            parameter.mul_(1.2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = FlooredAdam([{"params": list(model.parameters()), "lr": 1e-3}])
    state_teacher = HiddenStateTeacher(teacher, 1.0)
    losses = [
        step(model, optimizer, lambda logits: 0.0 * logits.sum(), state_teacher) for _ in range(30)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def config_of(model, **changes):
    data = (model / "config.json").read_bytes()
    config = described(data, CLASSES, ("bad", "good"))
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("asked", "changes", "weight"),
    [
        (None, {}, 3.0),
        (0.0, {}, None),
        (1.5, {}, 1.5),
        (None, {"hidden_size": 99}, None),
        (None, {"num_hidden_layers": 99}, None),
    ],
)
def test_states_are_followed_where_shapes_agree(asked, changes, weight, model, tiny_model):
    student = config_of(tiny_model, **changes)
    found = state_teacher(FitConfig(teacher="t", teacher_states=asked), model, student, name="t")
    assert (None if found is None else found.weight) == weight


def test_states_of_another_shape_cannot_be_asked_for(model, tiny_model):
    student = config_of(tiny_model, num_hidden_layers=99)
    with pytest.raises(ModelError, match="the student 99 layers of"):
        state_teacher(FitConfig(teacher="t", teacher_states=1.0), model, student, name="t")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_the_weight_of_states_is_a_finite_number(value):
    with pytest.raises(ConfigError, match="`teacher_states`"):
        FitConfig(teacher_states=value)


def test_a_fit_s_masks_come_from_the_guide_too(request_for, tiny_model, tmp_path):
    load_classifier(str(tiny_model), outputs=2).save_pretrained(tmp_path / "t")
    found = []
    for weight in (0.0, 3.0):
        name = f"a{weight}"
        request = request_for(name, teacher=str(tmp_path / "t"), teacher_states=weight)
        patch = learn(prepare(request), on_progress=lambda _: None).patch
        found.append(patch.head["classifier.weight"])
    assert not np.array_equal(*found)


def test_a_baseline_has_a_teacher_too(tiny_model, sentiment, tmp_path):
    load_classifier(str(tiny_model), outputs=2).save_pretrained(tmp_path / "t")
    config = BaselineConfig(
        method="bitfit", bits=4, group=16, steps=20, batch_size=16, max_length=16, precision="fp32"
    )
    taught = replace(config, teacher=str(tmp_path / "t"), teacher_share=1.0)
    losses = []
    for each in (config, taught):
        seen = []
        request = BaselineRequest(str(tiny_model), find_task("sst2"), each, data=sentiment)
        run_baseline(request, on_progress=lambda news, seen=seen: seen.append(news.loss))
        losses.append(seen)
    assert losses[0] != losses[1]


def test_an_objective_names_its_guide(model):
    opinions = np.zeros((2, 2), dtype=np.float32)
    labels = np.array([0, 1])
    state_teacher = HiddenStateTeacher(model, 1.0)
    assert TaskLoss(CLASSES, labels).state_teacher is None
    assert TaskLoss(CLASSES, labels, DistillationTargets(opinions, 0.5, 2.0)).state_teacher is None
    assert (
        TaskLoss(
            CLASSES, labels, DistillationTargets(opinions, 0.5, 2.0, state_teacher)
        ).state_teacher
        is state_teacher
    )


def test_without_a_teacher_nothing_is_followed(tiny_model):
    student = config_of(tiny_model)
    config = FitConfig(teacher="none", teacher_states=3.0)
    assert find_teacher(config, Finding(), CLASSES) is None
    targets = distillation_targets(
        None, config, None, student, placement=FP32, train_first=lambda: None
    )
    assert targets is None
