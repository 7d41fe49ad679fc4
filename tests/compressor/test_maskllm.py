"""MaskLLM's draw among the six masks of a group: its gradient, its schedule, a mask that is known, a small model."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor import FitConfig, fit_task
from maskpack.compressor.mask_config import ESTIMATORS, PATTERNS
from maskpack.compressor.masking.learner import Learning
from maskpack.compressor.masking.linear import mask_linears
from maskpack.compressor.masking.maskllm import (
    KAPPA,
    LAMBDA,
    MASKLLM,
    TAU,
    Chosen,
    ChosenPattern,
)
from maskpack.compressor.training.callbacks import CallbackList, Noise
from maskpack.compressor.training.train import FlooredAdam, Group, Plan
from maskpack.formats import ConfigError, open_artifact

HALF = {"estimator": "maskllm", "pattern": "2:4", "sparsity": 0.5}
PATTERN = ChosenPattern(2, 4)
STEPS = 400


def best_of_four(values):
    """The mask of the two largest of every four, as float."""
    grouped = values.reshape(-1, 4)
    return (
        torch.zeros_like(grouped).scatter_(1, grouped.topk(2, dim=1).indices, 1.0).view_as(values)
    )


class Planted:
    """A matrix `(16, 24)` of which a random two of every four weights are right."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(1)
        self.model, self.inputs = nn.Sequential(nn.Linear(24, 16, bias=False)), torch.randn(512, 24)
        self.right = best_of_four(torch.rand(16, 24))
        self.wanted = self.inputs @ (self.model[0].weight.detach() * self.right).T
        self.config = FitConfig(**HALF, seed=seed)
        self.plan, self.noise = Plan(STEPS, 64, 0.1, seed), Noise(seed)
        self.layers = mask_linears(
            self.model,
            {"0.weight": 0.0},
            gate=lambda number: MASKLLM.gate(partial(self.noise.uniform, number)),
            pattern=PATTERN,
        )
        self.layer = self.layers["0.weight"]
        learning = Learning(
            self.layers, self.config, self.plan, self.noise, sparsity=0.5, height=0.5
        )
        MASKLLM.first(learning)
        self.callbacks = CallbackList([self.noise, *MASKLLM.steer(learning)])

    def loss(self, rows=slice(None)):
        return nn.functional.mse_loss(self.model(self.inputs[rows]), self.wanted[rows])

    def learn(self, look=lambda step: None) -> None:
        self.model.train()
        optimizer = FlooredAdam(
            [Group([self.layer.score], self.config.score_lr, self.config.floor).settings()]
        )
        for step in range(STEPS):
            optimizer.set_rates(self.plan.rate(step))
            self.callbacks.on_step_begin(step)
            at = 64 * step % 512
            self.loss(slice(at, at + 64)).backward()
            self.callbacks.on_gradients()
            optimizer.step()
            optimizer.zero_grad()
            self.callbacks.on_step_end(step + 1, STEPS)
            look(step)
        self.model.eval()

    def agreement(self) -> float:
        return float((self.layer.keep() == self.right.bool()).float().mean())


def test_the_masks_of_a_group_are_the_six_that_keep_two():
    rows = {tuple(np.flatnonzero(row)) for row in PATTERN.masks.numpy()}
    assert rows == set(combinations(range(4), 2))
    assert PATTERN.score_shape(torch.Size([3, 8])) == (3, 2, 6)


def test_reduce_is_the_transpose_of_expand():
    scores, values = torch.randn(5, 3, 6, dtype=torch.float64), torch.randn(5, 12).double()
    expanded = PATTERN.expand(scores, values.shape)
    assert torch.allclose((expanded * values).sum(), (scores * PATTERN.reduce(values)).sum())


def test_the_chain_is_the_derivative_of_a_draw():
    score, fixed = torch.randn(40, 3, 6).double() / 50, torch.rand(40, 3, 6).double()
    gate, out = Chosen(lambda _: fixed), torch.empty(40, 3, 6).double()
    gate.kappa, gate.tau = 150.0, 2.0
    weights = torch.randn_like(score)  # of a loss that is linear in the probabilities

    def loss(scores):
        gate.fill(out, scores, torch.zeros(()), training=True)
        return (out * weights).sum()

    slope = gate.fill(out, score, torch.zeros(()), training=True)
    assert torch.allclose(slope.sum(dim=-1), torch.ones(40, 3).double())
    found = gate.chain(weights, slope)
    for place in ((0, 0, 0), (7, 2, 5), (39, 1, 3)):
        moved = torch.zeros_like(score)
        moved[place] = 1e-6
        numeric = (loss(score + moved) - loss(score - moved)) / 2e-6
        assert float(found[place]) == pytest.approx(float(numeric), rel=1e-4, abs=1e-7)


def test_a_forward_pass_multiplies_by_the_drawn_mask_and_hands_its_gradient_back():
    task = Planted()
    task.model.train()
    task.callbacks.on_step_begin(3)
    inputs = task.inputs[:10]
    given = torch.randn(10, 16)
    (task.model(inputs) * given).sum().backward()
    gate, layer = task.layer.gate, task.layer
    score = layer.score.detach().clone().requires_grad_()
    uniform = gate._draw(score.detach()).clamp(1e-6, 1 - 1e-6)
    gumbel = -torch.log(-torch.log(uniform))
    soft = torch.softmax((gate.kappa * score + gumbel) / gate.tau, dim=-1)
    mask = (soft @ PATTERN.masks).reshape(16, 24)
    ((inputs @ (layer.weight * mask).T) * given).sum().backward()
    assert torch.allclose(layer.score.grad, score.grad, rtol=1e-4, atol=1e-5)


def test_first_scores_prefer_the_mask_of_the_largest_magnitudes():
    task = Planted()
    magnitude = best_of_four(task.layer.weight.abs())
    agreed = (task.layer.keep() == magnitude.bool()).float().mean()
    assert 0.9 < float(agreed) < 1.0, "a prior, not a rule"
    assert float(task.layer.score.detach().std()) < 0.05


def test_scale_and_temperature_go_from_the_first_values_to_the_last():
    task, seen = Planted(), {}
    for step in (0, STEPS // 2, STEPS - 1):
        task.callbacks.on_step_begin(step)
        seen[step] = (task.layer.gate.kappa, task.layer.gate.tau)
    assert seen[0] == (KAPPA[0], TAU[0])
    assert seen[STEPS - 1] == pytest.approx((KAPPA[1], TAU[1]))
    assert seen[0][0] < seen[STEPS // 2][0] < seen[STEPS - 1][0]


def test_large_weights_are_rewarded_by_the_gradient_of_their_term():
    task = Planted()
    task.model.train()
    task.callbacks.on_step_begin(0)
    task.loss(slice(0, 8)).backward()
    before = task.layer.score.grad.clone()
    task.callbacks.on_gradients()
    gate, weight = task.layer.gate, task.layer.weight
    score = task.layer.score.detach().clone().requires_grad_()
    gumbel = -torch.log(-torch.log(gate._draw(score.detach()).clamp(1e-6, 1 - 1e-6)))
    soft = torch.softmax((gate.kappa * score + gumbel) / gate.tau, dim=-1)
    term = -LAMBDA * (weight * (soft @ PATTERN.masks).reshape(weight.shape)).square().sum()
    term.backward()
    assert torch.allclose(task.layer.score.grad - before, score.grad, rtol=1e-2, atol=1e-7)


def test_a_planted_mask_is_found_and_the_last_draws_are_the_mask():
    task, last = Planted(), []
    began, one_shot = task.agreement(), float(task.loss().detach())
    task.learn(lambda step: last.append(task.layer.gate.soft) if step == STEPS - 1 else None)
    assert began < 0.75
    assert task.agreement() > 0.9
    task.model.eval()
    kept = task.layer.keep()
    assert (kept.reshape(-1, 4).sum(dim=1) == 2).all()
    assert float(task.loss().detach()) < 0.2 * one_shot
    sure = last[0].max(dim=-1).values
    assert float((sure > 0.99).float().mean()) > 0.95


def test_another_seed_draws_otherwise_and_the_same_one_alike():
    scores = []
    for seed in (0, 0, 1):
        task = Planted(seed)
        task.learn()
        scores.append(task.layer.score.detach().clone())
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_mask_that_a_run_starts_from_is_where_it_starts():
    kept = best_of_four(torch.rand(16, 24))
    task = Planted()
    task.layer.start_removed(PATTERN.gone(kept), 0.5)
    assert torch.equal(task.layer.keep(), kept.bool())


def live(artifact, task, name):
    codes = open_artifact(artifact).backbone.linears[name].codes != 0
    return open_artifact(artifact).patch(task).masks[name].to_bool() & codes


def test_a_fit_stores_two_of_four_and_another_mask_than_one_shot(request_for):
    found = {}
    for name, options in (("drawn", HALF), ("shot", {**HALF, "estimator": "fixed"})):
        request = request_for(name, steps=60, **options)
        result = fit_task(request)
        found[name] = {n: live(request.out, "sst2", n) for n in _masks(request.out)}
        assert result.zeros / result.weights <= 0.5
        for mask in found[name].values():
            assert mask.reshape(-1, 4).sum(axis=1).max() <= 2
    moved = [(found["drawn"][n] != mask).mean() for n, mask in found["shot"].items()]
    assert max(moved) > 0.02


def _masks(artifact):
    return open_artifact(artifact).patch("sst2").masks


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"pattern": "weight"}, "the pattern weight has no groups", "give `pattern` 2:4"),
        ({"sparsity": 0.3}, "the pattern 2:4 has a share of zeros of 0.5", "give `sparsity` 0.5"),
    ],
)
def test_a_pattern_without_groups_and_another_share_are_refused(
    request_for, options, message, hint
):
    with pytest.raises(ConfigError, match=message) as caught:
        fit_task(request_for(**{**HALF, **options}))
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": None}, "estimator maskllm needs a share of zeros"),
        ({"init": "magnitude"}, "has first scores of its own"),
        ({"ema": 0.9}, "`ema` means nothing to estimator maskllm"),
        ({"tail": 0.3}, "`tail` means nothing to estimator maskllm"),
        ({"units": "heads", "keep_units": 0.5, "sparsity": None}, "`units` takes none"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FitConfig(**{**HALF, **options})


def test_rows_that_groups_do_not_divide_are_refused():
    pattern = PATTERNS["2:4"].learned_by(ESTIMATORS["maskllm"])
    with pytest.raises(ConfigError, match="`w` has rows of 1,002 weights"):
        pattern.check(FitConfig(**HALF), {"w": (8, 1002)})
