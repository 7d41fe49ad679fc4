from __future__ import annotations

import pytest
import torch
from torch import nn

from maskpack.compressor.masked import MaskedLinear
from maskpack.compressor.size import NoTarget, SparsityTarget, steering


def layers_of(*spreads: float) -> list[MaskedLinear]:
    """Layers whose scores spread by so much round 1."""
    torch.manual_seed(0)
    layers = [MaskedLinear(nn.Linear(20, 25), start=1.0) for _ in spreads]
    for layer, spread in zip(layers, spreads, strict=True):
        layer.score.data += torch.randn(25, 20) * spread
    return layers


def share_out(layers) -> float:
    out = sum(int((~layer.keep()).sum()) for layer in layers)
    return out / sum(layer.score.numel() for layer in layers)


@pytest.mark.parametrize("sparsity", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_the_last_step_ends_at_the_asked_share_to_the_weight(sparsity):
    layers = layers_of(1.0, 0.1)
    SparsityTarget(sparsity).steer(layers, 77, 77)
    assert share_out(layers) == pytest.approx(sparsity, abs=0.5 / 1000)


def test_all_layers_get_one_threshold_so_that_they_compete():
    layers = layers_of(1.0, 0.01)
    SparsityTarget(0.2).steer(layers, 100, 100)
    assert layers[0].threshold == layers[1].threshold
    assert share_out(layers[:1]) == pytest.approx(0.4, abs=0.01)
    assert share_out(layers[1:]) == 0.0


@pytest.mark.parametrize("step", [20, 40, 60, 80])
def test_the_share_rises_as_a_cubic_over_the_first_six_tenths(step):
    layers = layers_of(1.0)
    SparsityTarget(0.5).steer(layers, step, 100)
    done = min(1.0, step / 60)
    assert share_out(layers) == pytest.approx(0.5 - 0.5 * (1 - done) ** 3, abs=0.002)


def test_between_two_looks_thresholds_stay():
    layers = layers_of(1.0)
    target = SparsityTarget(0.5)
    for step in (1, 19, 21, 99):
        target.steer(layers, step, 100)
    assert share_out(layers) == (layers[0].score <= 0).float().mean()
    assert float(layers[0].threshold) == 0.0


def test_without_a_target_thresholds_stay():
    layers = layers_of(1.0, 1.0)
    for step in (1, 20, 100):
        NoTarget().steer(layers, step, 100)
    assert [float(layer.threshold) for layer in layers] == [0.0, 0.0]


def test_a_target_is_steered_to_and_none_is_left_alone():
    assert steering(None) == NoTarget()
    assert steering(0.25) == SparsityTarget(0.25)


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 16)])
def test_a_fit_with_a_target_stores_that_share_of_zeros(
    bits, group, tiny_model, sentiment, quick, tmp_path
):
    from maskpack.compressor import FitRequest, find_task, fit_task

    config = quick(bits=bits, group=group, sparsity=0.1)
    result = fit_task(
        FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment)
    )
    # below half, zero codes (which cost no bit) do not disturb the count
    assert result.count.sparsity == pytest.approx(0.1, abs=0.001)


def test_a_target_in_bits_ends_at_an_entropy_of_so_many_bits(
    tiny_model, sentiment, quick, tmp_path
):
    from maskpack.compressor import FitRequest, find_task, fit_task

    config = quick(target_bpp=0.2)
    result = fit_task(
        FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment)
    )
    assert result.count.entropy_bpp == pytest.approx(0.2, rel=0.02)
