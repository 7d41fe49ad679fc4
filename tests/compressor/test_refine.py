"""Refinement: a quantised backbone copies the float model on unlabelled text."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.calibration import Calibration, calibration_texts
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.compressor.quantization.refine import (
    RoundedLinear,
    _distance,
    refinable,
    refine,
)
from maskpack.compressor.quantization.rounding import Levels, quantize_mse
from maskpack.compressor.training.loss import HiddenStateTeacher
from maskpack.compressor.training.train import Plan, planned_batches
from maskpack.models.load import load_pretrained
from maskpack.models.placement import CpuPlacement, to_tensors
from maskpack.tasks.context import ModelContext

FP32, BF16 = CpuPlacement.of("cpu", "fp32"), CpuPlacement.of("cpu", "bf16")


@pytest.fixture(scope="module")
def prepared(tiny_model):
    pretrained = load_pretrained(str(tiny_model))
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    calibration = Calibration.of(preprocessor, calibration_texts(None))
    return pretrained.model.eval(), calibration


def backbone_of(base, **options):
    return quantize_model(base, scheme_of(BackboneConfig(quantizer="mse", **options)))


def distance(base, backbone, calibration) -> float:
    """Of the hidden states that the stored codes give, computed without `RoundedLinear`."""
    student = copy.deepcopy(base)
    parameters = dict(student.named_parameters())
    with torch.no_grad():
        for name, tensor in {**backbone.linears, **backbone.embeddings}.items():
            parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
        for name, value in backbone.dense.items():
            parameters[name].copy_(torch.from_numpy(value.astype("f4")))
        encoded, teacher = calibration.first(2000), HiddenStateTeacher(base, 1.0)
        found = [
            float(_distance(student, teacher, to_tensors(encoded.feeds(rows), student), FP32))
            for _, rows in planned_batches(encoded.lengths, Plan(4, 32, 0.0, 0))
        ]
        return float(np.mean(found))


@pytest.mark.parametrize("bits", [2, 1])
def test_the_stored_codes_come_nearer_to_the_float_model(prepared, bits):
    base, calibration = prepared
    before = backbone_of(base, bits=bits)
    frozen = {name: parameter.clone() for name, parameter in base.named_parameters()}
    seen = []
    after = refine(base, before, calibration, steps=40, placement=FP32, on_progress=seen.append)
    assert distance(base, after, calibration) < 0.7 * distance(base, before, calibration)
    assert [news.step for news in seen] == list(range(1, 41))
    assert {(news.steps, news.stage) for news in seen} == {(40, "backbone")}
    for name, tensor in after.linears.items():
        old = before.linears[name]
        assert (tensor.bits, tensor.group, tensor.zero_free) == (bits, old.group, True)
        assert (tensor.codes != 0).all()
        assert not np.array_equal(tensor.codes, old.codes)
    assert set(after.dense) == set(before.dense)
    assert after.embeddings is before.embeddings
    for name, parameter in base.named_parameters():  # the float model is a model to copy
        torch.testing.assert_close(parameter, frozen[name], rtol=0, atol=0)
        assert parameter.grad is None


def test_the_same_steps_give_the_same_backbone(prepared):
    base, calibration = prepared
    before = backbone_of(base, bits=2)
    left, right = (refine(base, before, calibration, steps=3, placement=BF16) for _ in range(2))
    for name, tensor in left.linears.items():
        np.testing.assert_array_equal(tensor.codes, right.linears[name].codes)
        np.testing.assert_array_equal(tensor.scales, right.linears[name].scales)


def test_wider_linears_of_a_mixed_backbone_stay_as_they_are(prepared):
    base, calibration = prepared
    before = backbone_of(base, bits=1, bits_override={"*.layer.0.*": 8})
    after = refine(base, before, calibration, steps=2, placement=FP32)
    for name, tensor in before.linears.items():
        assert (after.linears[name] is tensor) == (".layer.0." in name)


@pytest.mark.parametrize("width", [3, 2])
def test_narrow_tables_stay_as_they_are(prepared, width):
    """Their codes are the odd numbers too, and they are no linears."""
    base, calibration = prepared
    start = backbone_of(base, bits=2, embedding_bits=width)
    learned = refine(base, start, calibration, steps=2, placement=FP32)
    assert learned.embeddings == start.embeddings
    assert width in {one.bits for one in learned.embeddings.values()}
    moved = [name for name, one in learned.linears.items() if one is not start.linears[name]]
    assert set(moved) == set(start.linears)


def test_only_backbones_with_zero_free_codes_are_refinable(prepared):
    base, _ = prepared
    assert refinable(backbone_of(base, bits=2))
    assert not refinable(backbone_of(base, bits=4))


@pytest.mark.parametrize(
    ("bits", "width", "group"), [(1, 12, 4), (2, 13, 5), (1, 7, 64), (2, 1, 1)]
)
def test_a_rounded_linear_computes_with_the_codes_it_freezes(bits, width, group):
    torch.manual_seed(width)
    linear = nn.Linear(width, 6)
    rounded = RoundedLinear(linear, bits=bits, group=min(group, width))
    inputs = torch.randn(5, width)
    tensor = rounded.freeze()
    assert tensor.zero_free
    expected = inputs @ torch.from_numpy(tensor.dequantize()).T + linear.bias
    torch.testing.assert_close(rounded(inputs), expected, rtol=2e-3, atol=2e-3)  # float16 scales


def test_its_gradient_passes_the_rounding_and_reaches_weights_through_their_scale():
    linear = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.5, -0.25, 0.75, -1.0]]))
    rounded = RoundedLinear(linear, bits=1, group=4)
    inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    rounded(inputs).sum().backward()
    signs = torch.sign(linear.weight.detach())
    # straight through: x; through s = mean |w|: sum(x * sign) * sign / 4
    through_scale = (inputs * signs).sum() * signs / 4
    torch.testing.assert_close(linear.weight.grad, inputs + through_scale)


@pytest.mark.parametrize("bits", [1, 2])
def test_its_scale_is_near_the_one_of_least_error_on_normal_weights(bits):
    torch.manual_seed(0)
    linear = nn.Linear(512, 64)
    nn.init.normal_(linear.weight, std=0.05)
    weight = linear.weight.detach().numpy()
    frozen = RoundedLinear(linear, bits=bits, group=512).freeze()
    best = quantize_mse(weight, bits, None)

    def error(tensor) -> float:
        return float(np.square(weight - tensor.dequantize()).sum())

    assert error(frozen) <= 1.02 * error(best)
    assert Levels(bits, zero_free=True).limit == best.limit
