"""Refinement: a quantised backbone copies the float model on unlabelled text."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.quantization.calibration import Calibration, calibration_texts
from maskpack.compressor.quantization.learned_rows import RoundedTable
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of, token_table
from maskpack.compressor.quantization.rare_rows import quantize_rows
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
    assert after.embeddings == before.embeddings
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


def seen_rows(calibration):
    return np.unique(np.concatenate([np.asarray(row) for row in calibration.encoded.ids]))


def with_two_widths(base):
    """8-bit linears over a table whose even rows are wide."""
    table = token_table(base)
    rows = dict(base.named_parameters())[table].shape[0]
    scheme = scheme_of(BackboneConfig(bits=8, quantizer="mse", embedding_bits="auto"))
    return quantize_model(base, scheme, frequent=np.arange(rows) % 2 == 0)


@pytest.mark.parametrize("width", [4, 3, 2, "auto"])
def test_rows_of_a_narrow_table_are_learned_where_texts_have_their_tokens(prepared, width):
    base, calibration = prepared
    start = (
        with_two_widths(base)
        if width == "auto"
        else backbone_of(base, bits=8, embedding_bits=width)
    )
    learned = refine(base, start, calibration, steps=40, placement=FP32)
    name = token_table(base)
    before, after = start.embeddings[name], learned.embeddings[name]
    assert type(after) is type(before)
    assert (after.bits, after.zero_free, after.code_bytes) == (
        before.bits,
        before.zero_free,
        before.code_bytes,
    )
    rows = seen_rows(calibration)
    same = np.setdiff1d(np.arange(before.shape[0]), rows)
    assert len(same)
    np.testing.assert_array_equal(after.dequantize()[same], before.dequantize()[same])
    moved = (after.dequantize()[rows] != before.dequantize()[rows]).any(axis=1)
    assert moved.mean() > 0.5
    others = {n: one for n, one in start.embeddings.items() if n != name}
    assert all(learned.embeddings[n] is one for n, one in others.items())
    if width != "auto":  # of a tiny model, half of whose rows are good already
        fixed = replace(learned, embeddings=start.embeddings)
        assert distance(base, learned, calibration) < distance(base, fixed, calibration)


@pytest.mark.parametrize("bits", [8, 4, 3, 2, "mixed"])
def test_a_rounded_table_looks_up_the_codes_it_freezes(bits):
    weight = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (9, 16)).astype("f4"))
    if bits == "mixed":
        table = quantize_rows(weight.numpy(), np.arange(9) < 4, 4, lambda one: one)
    else:
        table = quantize_mse(weight.numpy(), bits, None)
    rounded = RoundedTable(weight, table, np.array([1, 4, 8]))
    ids = torch.tensor([[0, 1, 8], [4, 3, 1]])
    found = rounded(ids).detach().numpy()
    np.testing.assert_allclose(found, table.dequantize()[ids.numpy()], rtol=1e-3, atol=1e-3)
    frozen = rounded.freeze()
    np.testing.assert_array_equal(frozen.codes[[0, 2, 3, 5, 6, 7]], table.codes[[0, 2, 3, 5, 6, 7]])
    np.testing.assert_allclose(frozen.dequantize(), table.dequantize(), rtol=1e-3, atol=1e-3)


def test_a_row_of_zeros_stays_finite():
    weight = torch.zeros(3, 4)
    table = quantize_mse(weight.numpy(), 2, None)
    rounded = RoundedTable(weight, table, np.array([0, 2]))
    rounded(torch.tensor([0, 1, 2])).sum().backward()
    assert torch.isfinite(rounded.weight.grad).all()
    assert not rounded.freeze().dequantize().any()


def test_a_table_is_learned_under_wide_linears_only_if_steps_are_asked_for(tiny_model, tmp_path):
    """All else stays: a backbone of 4 bits needs no refinement, which takes minutes."""
    made = {}
    for steps in (None, 0, 2):
        config = BackboneConfig(bits=4, group=16, embedding_bits=2, refine=steps)
        made[steps] = make_backbone(str(tiny_model), tmp_path / str(steps), config)
    digests = {steps: one.manifest.backbone_sha256 for steps, one in made.items()}
    assert digests[None] == digests[0] != digests[2]
    assert made[2].manifest.scheme.quantizer == "mse, refined"
    before, after = made[0].backbone, made[2].backbone
    assert all(
        np.array_equal(one.codes, after.linears[n].codes) for n, one in before.linears.items()
    )
    plain = BackboneConfig(bits=4, group=16, refine=2)
    assert make_backbone(str(tiny_model), tmp_path / "x", plain).manifest.scheme.quantizer == "mse"


def test_only_backbones_with_zero_free_codes_are_refinable(prepared):
    base, _ = prepared
    assert refinable(backbone_of(base, bits=2))
    assert not refinable(backbone_of(base, bits=4))


def test_rows_of_a_narrow_table_are_refinable_unless_what_is_looked_up_is_scaled(prepared):
    class Scaled(torch.nn.Embedding):
        """As in Gemma."""

    base, _ = prepared
    narrow = backbone_of(base, bits=4, embedding_bits=2)
    assert refinable(narrow, base)
    assert not refinable(narrow), "the table was not asked for"
    assert not refinable(backbone_of(base, bits=4), base), "8 bits"
    other = copy.deepcopy(base)
    table = other.get_input_embeddings()
    other.set_input_embeddings(Scaled(*table.weight.shape, padding_idx=table.padding_idx))
    assert not refinable(narrow, other)


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
