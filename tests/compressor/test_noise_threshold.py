"""The boundary recedes with the noise, from a least share of the height to all of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import NoiseThreshold
from maskpack.compressor.training.train import Plan


def walked(least: float, steps: int = 100) -> tuple[MaskedLinear, Plan, list[float]]:
    """Distances from the first scores to the threshold after each step."""
    plan = Plan(steps, 8, 0.1, 0)
    layer = MaskedLinear(nn.Linear(4, 4), start=2.0)
    drifts = torch.tensor(plan.drifts()) / plan.drift()
    boundary = NoiseThreshold([layer], height=2.0, drifts=drifts, least=least)
    distances = []
    for step in range(1, steps + 1):
        boundary.on_step_end(step, steps)
        distances.append(2.0 - float(layer.threshold))
    return layer, plan, distances


def test_the_distance_is_the_same_number_of_deviations_at_every_look():
    _, plan, distances = walked(least=0.0)
    for step in range(10, 101, 10):
        drift = math.sqrt(sum(plan.rate(taken) ** 2 for taken in range(step)))
        assert distances[step - 1] == pytest.approx(2.0 * drift / plan.drift(), rel=1e-5)


def test_it_never_falls_below_its_least_share_and_ends_at_the_whole_height():
    layer, _, distances = walked(least=0.4)
    looks = distances[9::10]
    assert min(looks) == pytest.approx(0.8)
    assert looks == sorted(looks)
    assert float(layer.threshold) == pytest.approx(0.0, abs=1e-6)


def test_a_flip_that_noise_made_falls_back_and_one_that_insists_stays():
    layer, _, _ = walked(least=0.4)
    with torch.no_grad():
        layer.score[0, 0], layer.score[0, 1] = 1.1, -0.1  # both would be out at a distance of 0.8
    keep = layer.keep()
    assert bool(keep[0, 0])
    assert not bool(keep[0, 1])


@pytest.mark.parametrize("steps", [1, 7])
def test_a_run_shorter_than_a_look_still_ends_at_the_whole_height(steps):
    layer, _, _ = walked(least=0.4, steps=steps)
    assert float(layer.threshold) == pytest.approx(0.0, abs=1e-6)
