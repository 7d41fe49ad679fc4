from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import ScoreAverage
from maskpack.compressor.training.callbacks import (
    ByteDropout,
    CallbackList,
    EarlyStopping,
    Noise,
    TrainerCallback,
    use_fast_dropout,
)
from maskpack.models.load import load_classifier


def test_a_company_tells_everybody_in_order_and_ends_when_one_wants_to():
    told = []

    class Member(TrainerCallback):
        def __init__(self, name, *, ends=False):
            self.name, self.ends, self.kept = name, ends, torch.zeros(1)

        def on_step_begin(self, step):
            told.append((self.name, "before", step))

        def on_step_end(self, step, steps):
            told.append((self.name, "after", step, steps))

        def state(self):
            return {"kept": self.kept}

        def should_stop(self):
            return self.ends

        def on_train_end(self):
            told.append((self.name, "finish"))

    first, second = Member("a"), Member("b")
    callbacks = CallbackList([first, second])
    callbacks.on_step_begin(3)
    callbacks.on_step_end(4, 9)
    callbacks.on_train_end()
    assert told == [
        ("a", "before", 3), ("b", "before", 3), ("a", "after", 4, 9), ("b", "after", 4, 9),
        ("a", "finish"), ("b", "finish"),
    ]  # fmt: skip
    assert callbacks.state() == {"0/kept": first.kept, "1/kept": second.kept}
    assert not callbacks.should_stop()
    second.ends = True
    assert callbacks.should_stop()


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_forgets_at_its_rate_and_stands_in_at_the_end(decay):
    torch.manual_seed(0)
    layer = MaskedLinear(nn.Linear(4, 3), start=1.0)
    average = ScoreAverage([layer], decay)
    expected = torch.ones(3, 4)
    for step in range(1, 24):
        scores = torch.randn(3, 4)
        layer.score.data.copy_(scores)
        if step % 5 == 0:
            # five steps at once; in the first ones the past weighs less than `decay`
            share = 1 - min(decay, step / (step + 10)) ** 5
            expected = expected + share * (scores - expected)
        average.on_step_end(step, 23)
        if step < 23:
            assert torch.equal(layer.score.detach(), scores)
        assert torch.allclose(average.state()["0"], expected, atol=1e-6)
    assert torch.allclose(layer.score.detach(), expected, atol=1e-6)


def walk(metrics, *, patience, every=2, steps=None):
    """Let a value run through 1, 2, 3, ..., judged by these metrics at each look."""
    value, verdicts = torch.zeros(2), iter(metrics)
    steps = steps or every * len(metrics)
    early = EarlyStopping([value], lambda: next(verdicts), every=every, patience=patience)
    taken = 0
    for step in range(1, steps + 1):
        value.fill_(float(step))
        early.on_step_end(step, steps)
        taken = step
        if early.should_stop():
            break
    early.on_train_end()
    return taken, value.tolist(), early


@pytest.mark.parametrize(
    ("metrics", "patience", "taken", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 8, 4.0),
        ([0.1, 0.5, 0.4, 0.6, 0.9], 2, 10, 10.0),
        ([0.5, 0.5, 0.5], 1, 4, 2.0),  # as good is not better
        ([-0.5, -0.9], 5, 4, 2.0),
        ([0.0, 0.9, 0.8], 9, 6, 4.0),
    ],
)
def test_the_best_values_are_put_back_and_patience_ends_the_run(metrics, patience, taken, best):
    found, values, _ = walk(metrics, patience=patience)
    assert (found, values) == (taken, [best, best])


def test_the_last_step_is_looked_at_even_between_two_looks():
    assert walk([0.1, 0.2, 0.9], patience=5, every=2, steps=5)[1] == [5.0, 5.0]


def test_what_a_resumed_run_needs_is_in_the_state():
    _, _, early = walk([0.1, 0.5, 0.4], patience=5)
    other = EarlyStopping([torch.zeros(2)], lambda: 0.45, every=2, patience=2)
    for name, tensor in other.state().items():
        tensor.copy_(early.state()[name])
    other.on_step_end(8, 99)  # the second look in a row without a new best
    assert other.should_stop()
    assert other.state()["0"].tolist() == [4.0, 4.0]


def dropped(p, *, seed=0, step=0, shape=(400, 50)):
    noise = Noise(seed)
    noise.on_step_begin(step)
    return ByteDropout(p, noise).train()(torch.ones(shape))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.004, 0.999])
def test_dropout_drops_its_share_and_scales_the_rest_to_the_same_mean(p):
    layer = ByteDropout(p, Noise(0))
    assert abs(layer.p - p) <= 1 / 256
    found = dropped(p, shape=(1000, 500))
    kept = found[found != 0]
    assert (found == 0).float().mean() == pytest.approx(layer.p, abs=0.002)
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - layer.p)))
    assert found.mean() == pytest.approx(1.0, rel=0.1)


def test_the_bytes_follow_from_seed_and_step_alone():
    assert torch.equal(dropped(0.3, step=7), dropped(0.3, step=7))
    assert not torch.equal(dropped(0.3, step=7), dropped(0.3, step=8))
    assert not torch.equal(dropped(0.3, step=7), dropped(0.3, step=7, seed=1))
    noise = Noise(0)
    layer = ByteDropout(0.3, noise).train()
    first, second = layer(torch.ones(50, 50)), layer(torch.ones(50, 50))
    assert not torch.equal(first, second)  # every layer its own
    noise.on_step_begin(0)
    assert torch.equal(layer(torch.ones(50, 50)), first)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0.001, True)])
def test_in_evaluation_and_at_zero_nothing_happens(p, training):
    inputs = torch.randn(5, 5)
    assert ByteDropout(p, Noise(0)).train(training)(inputs) is inputs


def test_gradients_are_dropped_and_scaled_alike_and_bfloat16_stays():
    layer, inputs = ByteDropout(0.5, Noise(0)).train(), torch.ones(8, 8, requires_grad=True)
    outputs = layer(inputs)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, outputs.detach())
    assert layer(torch.ones(3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize(("p", "expected"), [(None, 26 / 256), (0.25, 0.25), (0.0, 0.0)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_dropout_of_a_model_is_replaced_and_that_of_attention_is_off(
    kind, p, expected, attention, tiny_models
):
    model = load_classifier(str(tiny_models[kind]), outputs=2)
    model.set_attn_implementation(attention)
    use_fast_dropout(model, Noise(0), p=p)
    found = {n: m for n, m in model.named_modules() if isinstance(m, ByteDropout)}
    assert not [n for n, m in model.named_modules() if isinstance(m, nn.Dropout)]
    inside = {n for n in found if n.endswith(("attention.self.dropout", "attention.dropout"))}
    assert len(inside) == 2
    assert {found[name].p for name in inside} == {0.0}
    assert len(found) >= 6
    head = {51 / 256} if kind == "distilbert" and p is None else set()  # its own default
    rates = {module.p for name, module in found.items() if name not in inside}
    assert rates == {expected} | head
    feeds = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4).long()}
    model.train()
    outputs = [model(**feeds).logits.detach().numpy() for _ in range(2)]
    # without dropout elsewhere, training gives the same twice: none is left inside attention
    assert np.array_equal(*outputs) is (p == 0.0)
