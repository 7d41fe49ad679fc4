from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from maskpack.compressor.masking.linear import MaskedLinear, mask_linears
from maskpack.compressor.masking.model import freeze
from maskpack.formats import ModelError

HAS_BIAS = pytest.mark.parametrize("bias", [True, False])


def layer_of(*, bias: bool = True, threshold: float = 0.25) -> MaskedLinear:
    torch.manual_seed(3)
    layer = MaskedLinear(nn.Linear(6, 4, bias=bias), start=0.5)
    with torch.no_grad():
        layer.score.copy_(torch.randn(4, 6))
        layer.threshold.fill_(threshold)
    return layer


@HAS_BIAS
def test_forward_multiplies_by_the_weights_whose_score_is_above_the_threshold(bias):
    layer = layer_of(bias=bias)
    inputs = torch.randn(2, 5, 6)
    kept = layer.weight * (layer.score.detach() > 0.25)
    assert 0 < int((kept == 0).sum()) < 24
    assert (layer.bias is not None) is bias
    assert torch.equal(layer(inputs), functional.linear(inputs, kept, layer.bias))


def test_a_score_at_the_threshold_is_out():
    layer = MaskedLinear(nn.Linear(2, 1, bias=False), start=0.25)
    with torch.no_grad():
        layer.threshold.fill_(0.25)
        layer.score[0, 1] = torch.nextafter(torch.tensor(0.25), torch.tensor(1.0))
    assert layer(torch.eye(2)).flatten().tolist() == [0.0, layer.weight[0, 1].item()]
    assert layer.keep().tolist() == [[False, True]]


@HAS_BIAS
def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight(bias):
    layer = layer_of(bias=bias)
    inputs, target = torch.randn(7, 6), torch.randn(7, 4)
    plain = (layer.weight * (layer.score.detach() > 0.25)).requires_grad_()
    functional.mse_loss(functional.linear(inputs, plain, layer.bias), target).backward()
    functional.mse_loss(layer(inputs), target).backward()
    assert torch.allclose(layer.score.grad, plain.grad * layer.weight, rtol=1e-6, atol=0)
    masked = layer.score.detach() <= 0.25
    assert (layer.score.grad[masked] != 0).all()  # what is out can come back


def test_scores_are_trained_weights_are_not_and_all_start_at_one_height():
    layer = MaskedLinear(nn.Linear(3, 2), start=0.125)
    assert {name for name, _ in layer.named_parameters()} == {"score", "bias"}
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is None
    assert not layer.weight.requires_grad
    assert layer.score.tolist() == [[0.125] * 3] * 2
    assert float(layer.threshold) == 0.0
    assert {"weight", "bias", "threshold"} <= set(layer.state_dict())


def test_the_weights_it_came_from_are_copied_and_its_bias_is_taken_over():
    linear = nn.Linear(3, 2)
    layer = MaskedLinear(linear, start=1.0)
    with torch.no_grad():
        linear.weight.zero_()
    assert (layer.weight != 0).all()
    assert layer.bias is linear.bias  # the base model's own parameter: a task may train it


def test_a_weight_that_is_zero_counts_as_kept_whatever_its_score():
    layer = layer_of()
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.score[0] = -1.0
        layer.score[1] = -1.0
    keep = layer.keep()
    assert keep.dtype == torch.bool
    assert keep[0].all()
    assert not keep[1].any()
    assert torch.equal(keep[2:], layer.score.detach()[2:] > 0.25)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.top = nn.Linear(4, 4)


NAMES = ["blocks.0.dense.weight", "top.weight"]
STARTS = dict.fromkeys(NAMES, 0.5)


def test_surgery_swaps_the_named_linears_and_freezes_all_the_rest():
    base = Encoder()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    masked = mask_linears(base, STARTS)
    assert list(masked) == NAMES
    assert base.blocks[0].dense is masked[NAMES[0]]
    assert base.top is masked[NAMES[1]]
    assert type(base.blocks[1].dense) is nn.Linear
    trained = {name for name, tensor in base.named_parameters() if tensor.requires_grad}
    assert trained == {"blocks.0.dense.score", "top.score"}
    after = base.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_masked_linears_come_in_the_order_asked_for_each_with_its_own_start():
    base = Encoder()
    own = torch.arange(16.0).view(4, 4)
    masked = mask_linears(base, {"top.weight": own, "blocks.0.dense.weight": 0.25})
    assert list(masked) == NAMES[::-1]
    assert torch.equal(masked["top.weight"].score.detach(), own)
    assert (masked["blocks.0.dense.weight"].score == 0.25).all()
    own.zero_()
    assert masked["top.weight"].score[3, 3] == 15.0  # a copy


def test_an_unmasked_layer_computes_what_the_linear_did():
    base = Encoder()
    inputs = torch.randn(3, 4)
    expected = base.top(inputs)
    mask_linears(base, STARTS)
    assert torch.equal(base.top(inputs), expected)


class Classifier(nn.Module):
    """As `freeze` needs it: a base under its family's name, the head beside it."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"model_type": "bert"})
        self.bert = Encoder()
        self.classifier = nn.Linear(4, 2)


def test_freezing_turns_scores_to_bits_and_the_head_to_float16():
    model = Classifier()
    masked = mask_linears(model.bert, STARTS)
    with torch.no_grad():
        masked["top.weight"].score[1, 2] = -0.5
    patch = freeze(model, masked)
    keep = patch.masks["top.weight"].to_bool()
    assert np.argwhere(~keep).tolist() == [[1, 2]]
    assert patch.masks["blocks.0.dense.weight"].zeros == 0
    assert set(patch.head) == {"classifier.weight", "classifier.bias"}
    head = model.classifier.weight.detach()
    assert patch.head["classifier.weight"].tolist() == head.half().tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_never_frozen(value):
    model = Classifier()
    masked = mask_linears(model.bert, STARTS)
    with torch.no_grad():
        model.classifier.bias[1] = value
    with pytest.raises(ModelError, match=r"training diverged: `classifier\.bias`") as caught:
        freeze(model, masked)
    assert "head_lr" in caught.value.hint
