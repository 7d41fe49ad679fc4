"""Each way to learn a mask, on a mask that is known: it finds it. What a run of each does is in `test_every_estimator.py`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from maskpack.compressor import FitConfig
from maskpack.compressor.mask_config import ESTIMATORS, SCORE_INITS
from maskpack.compressor.masking.edge_popup import Popup
from maskpack.compressor.masking.hard_concrete import HardConcrete, open_chance
from maskpack.compressor.masking.learner import Learning
from maskpack.compressor.masking.linear import mask_linears
from maskpack.compressor.masking.regrow import allotted
from maskpack.compressor.masking.score_init import initial_scores, worth_of
from maskpack.compressor.training.callbacks import CallbackList, Noise
from maskpack.compressor.training.train import FlooredAdam, Group, Plan

LEARNING = [name for name, entry in ESTIMATORS.items() if entry.learns and not entry.chooses]
REGROWN = ["set", "dsr", "sparse-momentum", "rigl"]
STEPS, SHARE = 300, 0.5


class Beside(nn.Sequential):
    """The outputs of all members, side by side."""

    def forward(self, inputs):
        return torch.cat([each(inputs) for each in self], dim=1)


class Planted:
    """Two matrices, `(16, 24)` and `(8, 24)`, of which a random half of the weights is the right mask."""

    def __init__(self, estimator: str) -> None:
        torch.manual_seed(4)
        self.model = Beside(nn.Linear(24, 16, bias=False), nn.Linear(24, 8, bias=False))
        names = ["0.weight", "1.weight"]
        self.right = {n: torch.rand_like(self.model.get_parameter(n)) < SHARE for n in names}
        weights = [self.model.get_parameter(n).detach() * m for n, m in self.right.items()]
        self.inputs = torch.randn(512, 24)
        self.wanted = self.inputs @ torch.cat(weights).T
        entry = ESTIMATORS[estimator]
        self.config = FitConfig(
            estimator=estimator, sparsity=SHARE, lr=None if entry.lr > 0.01 else 0.05
        )
        self.plan, self.noise = Plan(STEPS, 64, 0.1, 0), Noise(0)
        learner = self.config.estimator_entry.load()
        self.layers = mask_linears(
            self.model,
            dict.fromkeys(names, 0.5),
            gate=lambda number: learner.gate(partial(self.noise.uniform, number)),
        )
        self.learning = Learning(
            self.layers, self.config, self.plan, self.noise, sparsity=SHARE, height=0.5
        )
        if learner.first is not None:
            learner.first(self.learning)
        else:
            self.start(learner)
        self.callbacks = CallbackList([self.noise, *learner.steer(self.learning)])

    @torch.no_grad()
    def start(self, learner) -> None:
        start = SCORE_INITS[self.config.score_init]
        weights = {name: layer.weight for name, layer in self.layers.items()}
        pattern = self.layers["0.weight"].pattern
        worth = worth_of(start, weights, gradients={}, seed=0, pattern=pattern)
        kind = {"height": 0.5, "sparsity": SHARE, "drawn": learner.logits}
        for name, scores in initial_scores(start, worth, **kind).items():
            self.layers[name].score.copy_(scores)

    def loss(self, rows=slice(None)):
        return nn.functional.mse_loss(self.model(self.inputs[rows]), self.wanted[rows])

    def learn(self, look=lambda step: None) -> None:
        self.model.train()
        scores = [layer.score for layer in self.layers.values()]
        optimizer = FlooredAdam([Group(scores, self.config.score_lr, 1.0).settings()])
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

    def one_shot(self, init: str) -> Planted:
        """The task with the half of each matrix that an initialisation keeps."""
        fixed = Planted("fixed")
        fixed.config = replace(fixed.config, init=init)
        fixed.start(fixed.config.estimator_entry.load())
        return fixed

    def whole_loss(self) -> float:
        """Over all rows, by the mask as it would be stored."""
        self.model.eval()
        return float(self.loss().detach())

    def agreement(self) -> float:
        """Share of the weights whose bit is right."""
        right = [(layer.keep() == self.right[name]) for name, layer in self.layers.items()]
        return float(torch.cat([each.flatten() for each in right]).float().mean())

    def zeros(self) -> float:
        return 1.0 - float(self.bits().float().mean())

    def bits(self) -> torch.Tensor:
        """All masks, flat."""
        return torch.cat([layer.keep().flatten() for layer in self.layers.values()])


@pytest.mark.parametrize("estimator", LEARNING)
def test_a_planted_mask_is_found(estimator):
    task, first = Planted(estimator), []
    before = task.whole_loss()
    task.learn(lambda step: first.append(task.bits()) if step == 0 else None)
    pruned = [task.one_shot(init) for init in ("magnitude", "random")]
    assert task.whole_loss() < 0.5 * before, "the loss falls"
    assert task.whole_loss() < 0.5 * min(each.whole_loss() for each in pruned)
    assert (task.bits() != first[0]).float().mean() > 0.2, "the mask is not the first one"
    assert task.agreement() > 0.1 + max(each.agreement() for each in pruned), "one-shot is worse"
    assert task.agreement() > 0.7
    if estimator != "bernoulli":  # of which the share is that of the start
        assert task.zeros() == pytest.approx(SHARE, abs=0.01)


@pytest.mark.parametrize("estimator", REGROWN)
def test_as_many_weights_come_back_as_go(estimator):
    task, counts, changed = Planted(estimator), [], []
    task.learn(lambda step: counts.append([int(one.keep().sum()) for one in task.layers.values()]))
    totals = {sum(each) for each in counts}
    assert totals == {round(SHARE * task.bits().numel())}
    each = {tuple(one) for one in counts}
    assert (len(each) == 1) is (estimator in {"set", "rigl"}), (
        "the others move weights between matrices"
    )
    task = Planted(estimator)
    task.learn(lambda step: changed.append(task.bits()))
    moved = [(a != b).any() for a, b in pairwise(changed)]
    assert 20 <= sum(map(int, moved)) <= 32, "a set number of times"
    assert not any(moved[230:]), "in the last quarter the mask stays"


def test_a_weight_that_is_zero_anyway_neither_goes_nor_comes():
    task = Planted("rigl")
    for layer in task.layers.values():
        layer.weight[:, :4] = 0.0
    task = again(task)
    gone = round(SHARE * task.bits().numel()) - int(task.bits().sum())
    task.learn()
    for layer in task.layers.values():
        assert layer.keep()[:, :4].all()
    assert round(SHARE * task.bits().numel()) - int(task.bits().sum()) == gone


def again(task: Planted) -> Planted:
    """The task with callbacks that are made for its weights as they are."""
    learner = task.config.estimator_entry.load()
    for layer in task.layers.values():
        layer.threshold = layer.weight.new_zeros(())
    task.start(learner)
    task.callbacks = CallbackList([task.noise, *learner.steer(task.learning)])
    return task


@pytest.mark.parametrize("estimator", REGROWN)
def test_from_another_mask_the_asked_number_of_zeros_is_reached(estimator):
    task = Planted(estimator)
    for layer in task.layers.values():
        gone = torch.zeros_like(layer.score, dtype=torch.bool)
        gone[0] = True
        layer.start_removed(gone, 0.5)
        assert torch.equal(layer.keep(), ~gone)
    task.learn()
    assert task.zeros() == pytest.approx(SHARE)


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), min_size=1, max_size=6),
)
def test_what_is_allotted_fits_and_is_all_that_fits(total, matrices):
    parts, room = zip(*matrices, strict=True)
    given_out = allotted(total, parts, room)
    assert all(0 <= own <= most for own, most in zip(given_out, room, strict=True))
    assert sum(given_out) == min(total, sum(room))


def test_gates_are_open_as_often_as_the_formula_says():
    score = torch.linspace(-3.0, 3.0, 7).expand(20_000, 7)
    gate = HardConcrete(torch.rand_like)
    torch.manual_seed(0)
    slope = gate.fill(out := torch.empty_like(score), score, torch.zeros(()), training=True)
    assert torch.allclose((out > 0).float().mean(dim=0), open_chance(score[0]), atol=0.02)
    assert out.min() == 0.0
    assert out.max() == 1.0
    assert ((slope > 0) == ((out > 0) & (out < 1))).all(), "no gradient through a clipped value"


def test_the_slope_of_a_gate_is_the_derivative_of_its_value():
    score, fixed = torch.randn(200, dtype=torch.float64), torch.rand(200, dtype=torch.float64)
    gate, values, slopes = HardConcrete(lambda _: fixed), [], []
    for shift in (-1e-6, 0.0, 1e-6):
        values.append(out := torch.empty_like(score))
        slopes.append(gate.fill(out, score + shift, torch.zeros(()), training=True))
    numeric = (values[2] - values[0]) / 2e-6
    assert torch.allclose(numeric, slopes[1], atol=1e-5)


def test_a_gate_is_cut_in_the_last_fifth():
    task, seen = Planted("hard-concrete"), []
    layer = task.layers["0.weight"]

    def look(step):
        values = layer._mask_like(layer.weight)[0]
        seen.append(bool(((values > 0) & (values < 1)).any()))

    task.learn(look)
    assert seen == [True] * 240 + [False] * 60


def test_edge_popup_reads_sizes_and_gives_gradients_their_sign():
    gate = Popup()
    score = torch.tensor([0.2, -0.5, 0.1, -0.05])
    slope = gate.fill(out := torch.empty_like(score), score, torch.tensor(0.15), training=True)
    assert out.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert slope.tolist() == [1.0, -1.0, 1.0, -1.0]
