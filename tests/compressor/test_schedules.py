"""Shapes of the learning rate, and the options that choose them."""

import math

import numpy as np
import pytest
import torch

from maskpack.compressor import BaselineConfig, FitConfig
from maskpack.compressor.schedules import LINEAR, SCHEDULES, Span
from maskpack.compressor.training.train import Plan
from maskpack.formats import ConfigError


def rates(name, steps, *, warmup=0.1, cycles=1):
    plan = Plan(steps, 1, warmup, 0, schedule=name, cycles=cycles)
    return np.array([plan.rate(step) for step in range(steps)])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_every_rate_is_a_share_of_the_peak(name, steps):
    found = rates(name, steps)
    assert (found > 0).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_two_shapes_are_alike(name):
    others = [other for other in SCHEDULES if other != name]
    cycles = 3 if SCHEDULES[name].cyclical else 1
    own = rates(name, 60, cycles=cycles)
    for other in others:
        there = rates(other, 60, cycles=3 if SCHEDULES[other].cyclical else 1)
        assert np.abs(own - there).max() > 0.05


def test_one_cycle_has_the_values_of_torchs():
    steps, parameter = 40, torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    wanted = []
    for _ in range(steps):
        wanted.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(wanted) < steps:
            theirs.step()
    assert rates("one-cycle", steps) == pytest.approx(wanted, abs=1e-6)


def test_cosine_has_the_stated_values():
    found = rates("cosine", 12, warmup=1 / 6)
    assert found[:2] == pytest.approx([0.5, 1.0])
    assert found[2:] == pytest.approx([(1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)])


def test_restarts_begin_each_cycle_at_the_peak_and_end_it_near_zero():
    found = rates("restarts", 90, warmup=0.0, cycles=3)
    assert found[[0, 30, 60]] == pytest.approx([1, 1, 1])
    assert (found[[29, 59, 89]] < 0.01).all()
    assert np.allclose(found[:30], found[30:60])


def test_peaks_of_a_damped_triangle_halve():
    found = rates("triangular2", 60, cycles=3).reshape(3, 20).max(axis=1)
    assert found / found[0] == pytest.approx([1, 0.5, 0.25])
    assert np.ptp(rates("triangular", 60, cycles=3).reshape(3, 20).max(axis=1)) < 1e-9


def test_cycles_share_the_steps_and_the_last_one_ends_with_them():
    span = Span(steps=100, rise=10, cycles=7)
    lengths = np.diff([0, *span.ends()])
    assert span.ends()[-1] == 100
    assert lengths.max() - lengths.min() <= 1
    assert [span.in_cycle(step)[1] for step in (0, span.ends()[0], span.ends()[5])] == [0, 0, 0]
    with pytest.raises(ValueError, match="step 100 of 100"):
        span.in_cycle(100)


@pytest.mark.parametrize("config", [FitConfig, BaselineConfig])
def test_options_choose_the_shape(config):
    plan = Plan.of(config(steps=30, schedule="restarts", cycles=2, warmup=0.0), rows=100)
    assert plan.rate(15) == pytest.approx(1.0)
    assert plan.linear().rate(15) == pytest.approx(0.5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="`schedule` cosine has one cycle, `cycles` asks for 2"):
        FitConfig(schedule="cosine", cycles=2)
    with pytest.raises(ConfigError, match="no schedule `square`"):
        FitConfig(schedule="square")
    with pytest.raises(
        ConfigError, match="the run has 8 steps, fewer than the 9 cycles of its rates"
    ):
        Plan.of(FitConfig(schedule="restarts", cycles=9, steps=8), rows=100)


def test_a_record_of_the_usual_shape_has_no_word_of_it():
    assert FitConfig().record() == FitConfig(schedule=LINEAR, cycles=1).record()
    assert "schedule" not in FitConfig().record()
    assert FitConfig(schedule="cosine").record()["schedule"] == "cosine"
