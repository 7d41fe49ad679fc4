from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from maskpack.compressor.masking.gates import Compared, Drawn
from maskpack.compressor.masking.linear import MaskedLinear

PARTS = pytest.mark.parametrize(("bias", "gains"), [(0, 0), (1, 0), (0, 1), (1, 1)])
ARITHMETIC = pytest.mark.parametrize("bf16", [False, True])


def layer_of(*, bias=True, gains=False, drawn=None) -> MaskedLinear:
    torch.manual_seed(5)
    layer = MaskedLinear(
        nn.Linear(12, 6, bias=bool(bias)),
        start=0.5,
        gains=gains,
        gate=Compared() if drawn is None else Drawn(drawn),
    )
    with torch.no_grad():
        layer.score.copy_(torch.randn(6, 12))
        if layer.gain is not None:
            layer.gain.copy_(0.5 + torch.rand(6))
        if layer.bias is not None:
            layer.bias.copy_(torch.randn(6))
    return layer


def run(layer, inputs, *, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return layer(inputs)


def by_hand(layer, inputs, weight):
    gain = 1.0 if layer.gain is None else layer.gain
    outputs = functional.linear(inputs, weight) * gain
    return outputs if layer.bias is None else outputs + layer.bias


@ARITHMETIC
@PARTS
def test_outputs_are_masked_weights_times_gains_plus_bias(bias, gains, bf16):
    layer, inputs = layer_of(bias=bias, gains=gains), torch.randn(3, 7, 12)
    expected = by_hand(layer, inputs, layer.weight * (layer.score > 0))
    found = run(layer, inputs, bf16=bf16)
    assert found.shape == (3, 7, 6)
    if bf16:
        assert not torch.equal(found.float(), expected)
        assert torch.allclose(found.float(), expected, atol=0.03, rtol=0.02)
    else:
        assert torch.allclose(found, expected, atol=1e-6)


def test_in_bfloat16_each_product_is_that_of_rounded_numbers():
    layer, inputs = layer_of(bias=False), torch.eye(12)
    weight = (layer.weight * (layer.score > 0)).bfloat16()
    assert torch.equal(run(layer, inputs, bf16=True), weight.T)
    assert torch.equal(layer(inputs), (layer.weight * (layer.score > 0)).T)  # and back


@ARITHMETIC
@PARTS
def test_gradients_of_all_parts_are_those_of_the_formula(bias, gains, bf16):
    layer, inputs = layer_of(bias=bias, gains=gains), torch.randn(40, 12)
    weight = (layer.weight * (layer.score.detach() > 0)).requires_grad_()
    pull = torch.randn(40, 6)
    wanted = torch.autograd.grad(
        (by_hand(layer, inputs, weight) * pull).sum(),
        [weight, *([layer.gain] if gains else []), *([layer.bias] if bias else [])],
    )
    (run(layer, inputs, bf16=bf16).float() * pull).sum().backward()
    close = {"rtol": 0.05, "atol": 0.2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    assert torch.allclose(layer.score.grad, wanted[0] * layer.weight, **close)
    rest = [part.grad for part in (layer.gain, layer.bias) if part is not None]
    assert all(torch.allclose(a, b, **close) for a, b in zip(rest, wanted[1:], strict=True))
    removed = layer.score.detach() <= 0
    assert removed.sum() > 10
    assert (layer.score.grad[removed] != 0).all()  # what is out can come back
    assert layer.score.grad.dtype == torch.float32


def test_a_drawn_mask_keeps_each_weight_as_often_as_its_sigmoid_says():
    layer = layer_of(bias=False, drawn=torch.rand_like).train()
    torch.manual_seed(0)
    with torch.no_grad():
        kept = sum((layer(torch.eye(12)).T != 0).float() for _ in range(4000)) / 4000
    assert torch.allclose(kept, torch.sigmoid(layer.score.detach()), atol=0.04)


def test_a_drawn_mask_changes_from_step_to_step_and_is_fixed_in_evaluation():
    layer = layer_of(drawn=torch.rand_like)
    inputs = torch.eye(12)
    layer.train()
    assert not torch.equal(layer(inputs), layer(inputs))
    layer.eval()
    expected = by_hand(layer, inputs, layer.weight * (layer.score > 0))
    assert torch.allclose(layer(inputs), expected, atol=1e-6)
    assert torch.equal(layer(inputs), layer(inputs))


def test_the_mask_of_drawn_scores_is_cut_where_keeping_is_as_likely_as_not():
    layer = layer_of(drawn=torch.rand_like).train()
    assert torch.equal(layer.keep(), torch.sigmoid(layer.score.detach()) > 0.5)


def test_a_draw_follows_from_torchs_seed():
    layer, inputs = layer_of(drawn=torch.rand_like).train(), torch.eye(12)
    outputs = []
    for _ in range(2):
        torch.manual_seed(9)
        outputs.append(layer(inputs))
    assert torch.equal(*outputs)


def test_a_score_of_a_draw_gets_the_gradient_whether_its_weight_was_drawn_or_not():
    layer = layer_of(bias=False, drawn=torch.rand_like).train()
    layer(torch.eye(12)).sum().backward()
    assert torch.allclose(layer.score.grad, layer.weight)
