"""Every entry of `ESTIMATORS`, one added later too: a run of it learns another mask than its first one, goes on bit for bit after a stop, and
what it cannot do is refused: sizes, patterns, devices, options.

That it learns what is right, and more than one-shot pruning does, is `test_a_planted_mask_is_found`; that a step of it computes on
other devices is `test_other_device.py`. Both go over the same table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import FitConfig, fit_task
from maskpack.compressor.fit import loss_of, masked_model_of, prepare
from maskpack.compressor.mask_config import ESTIMATORS, PATTERNS
from maskpack.compressor.masking.model import freeze
from maskpack.formats import ConfigError, Interrupted, open_artifact

SHARE = 0.3
LEARNING = [name for name, entry in ESTIMATORS.items() if entry.learns]
SHARED = [name for name, entry in ESTIMATORS.items() if entry.needs_share]
UNITS = {"units": "heads", "keep_units": 0.5}
GIVEN = {"ema": 0.9, "tail": 0.3}
"""A value of each option that an entry refuses by name."""

KEPT = {
    "hard-concrete": ["1/price"],
    "dsr": ["1/bound"],
    "sparse-momentum": ["1/0"],
}
"""Tensors that a checkpoint must hold beside those of every run."""


def usual(estimator, **more):
    """The fewest options of a run of it; of one that needs no share, a margin at which weights go."""
    entry = ESTIMATORS[estimator]
    if entry.chooses:
        return {"estimator": estimator, "pattern": "2:4", "sparsity": 0.5, **more}
    share = {"sparsity": SHARE} if entry.needs_share else {"margin": 0.5}
    return {"estimator": estimator, **share, **more}


@pytest.mark.parametrize("estimator", LEARNING)
def test_a_run_ends_with_another_mask_than_it_began_with(estimator, request_for):
    request = request_for(steps=40, **usual(estimator))
    run = prepare(request)
    masked = masked_model_of(run, loss_of(run, None))
    masked.model.eval()
    first = freeze(masked.model, masked.layers).masks
    result = fit_task(request)
    patch = open_artifact(request.out).patch("sst2")
    changed = sum(int((first[n].to_bool() != m.to_bool()).sum()) for n, m in patch.masks.items())
    assert changed > 0.005 * result.weights
    if ESTIMATORS[estimator].needs_share and estimator != "bernoulli":  # its share is the first one
        asked, share = usual(estimator)["sparsity"], result.zeros / result.weights
        least = 0.7 * asked if ESTIMATORS[estimator].chooses else asked - 0.01
        assert least < share < asked + 0.01  # of four weights the codes may make some 0 already
    assert 0 < result.zeros < 0.9 * result.weights


@pytest.mark.parametrize("estimator", [name for name in SHARED if ESTIMATORS[name].learns])
def test_the_mask_is_not_one_shot_pruning(estimator, request_for):
    found = {}
    pattern = {"pattern": "2:4", "sparsity": 0.5} if ESTIMATORS[estimator].chooses else {}
    for name in (estimator, "fixed"):
        request = request_for(name, steps=40, **usual(name, **pattern))
        fit_task(request)
        found[name] = open_artifact(request.out).patch("sst2").masks
    shares = [
        (mask.to_bool() != found["fixed"][name].to_bool()).mean()
        for name, mask in found[estimator].items()
    ]
    assert np.mean(shares) > 0.02


def test_an_estimator_that_does_not_learn_keeps_its_first_mask(request_for):
    """Such entries are one-shot pruning: the head learns, the mask stays."""
    for estimator in ESTIMATORS.keys() - set(LEARNING):
        request = request_for(estimator, steps=12, **usual(estimator))
        run = prepare(request)
        masked = masked_model_of(run, loss_of(run, None))
        first = freeze(masked.model, masked.layers)
        fit_task(request)
        last = open_artifact(request.out).patch("sst2")
        assert all((last.masks[n].packed == m.packed).all() for n, m in first.masks.items())
        assert any((last.head[n] != value).any() for n, value in first.head.items())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_run_that_goes_on_ends_with_the_same_bytes(estimator, request_for, stop_at, snapshot):
    options = usual(estimator, steps=48, checkpoint_every=7, dropout=0.1)
    whole, broken = request_for("w", **options), request_for("b", **options)
    fit_task(whole)
    with pytest.raises(Interrupted, match="the checkpoint is kept"):
        fit_task(broken, on_progress=stop_at(40))
    state = names_in(broken.checkpoint_folder / "state.safetensors")
    assert {f"companion/{name}" for name in KEPT.get(estimator, ())} <= state
    torch.manual_seed(77)  # what happened in between must not matter
    told = []
    fit_task(replace(broken, resume=True), on_progress=lambda news: told.append(news.step))
    assert told[0] > 30
    assert told[-1] == 48
    assert snapshot(broken.out) == snapshot(whole.out)
    assert not broken.checkpoint_folder.exists()


def names_in(file):
    """Names of the tensors of a checkpoint."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as kept:
        return set(kept.keys())


@pytest.mark.parametrize("size", [{}, {"target_bpp": 0.1}, {"target_bytes": 9000}, UNITS])
@pytest.mark.parametrize("estimator", SHARED)
def test_a_size_that_is_no_share_is_refused_where_one_is_needed(estimator, size):
    if size is UNITS and not ESTIMATORS[estimator].learns:
        assert FitConfig(estimator=estimator, **size).share is None, "units alone go"
        return
    with pytest.raises(ConfigError, match=f"estimator {estimator} needs a share of zeros") as found:
        FitConfig(estimator=estimator, **size)
    assert found.value.hint


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(estimator, share):
    with pytest.raises(ConfigError, match="`sparsity` is"):
        FitConfig(estimator=estimator, sparsity=share)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_several_shares_are_refused_where_there_is_no_threshold_to_move(estimator):
    if estimator == "threshold":
        assert FitConfig(continual="0.1,0.2").share == 0.2
        return
    with pytest.raises(ConfigError, match=f"estimator {estimator} has none to move"):
        FitConfig(estimator=estimator, continual="0.1,0.2")


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "weight"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_pattern_is_learned_or_refused(estimator, pattern, request_for):
    init = {} if ESTIMATORS[estimator].init is None else {"init": "magnitude"}
    request = request_for(
        steps=3, estimator=estimator, pattern=pattern, sparsity=0.5, max_length=16, **init
    )
    if ESTIMATORS[estimator].compares or ESTIMATORS[estimator].chooses:
        assert fit_task(request).zeros > 0
        return
    with pytest.raises(ConfigError, match=f"estimator {estimator} in another way"):
        fit_task(request)
    assert not request.out.exists()


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [("abacus", "auto", "no device `abacus`"), ("cpu", "fp16", "fp16")],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_device_that_cannot_is_refused(estimator, device, precision, words, request_for):
    request = replace(request_for(**usual(estimator, precision=precision)), device=device)
    with pytest.raises(ConfigError, match=words):
        fit_task(request)
    assert not request.out.exists()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_options_that_mean_nothing_to_it_are_refused_by_name(estimator):
    entry = ESTIMATORS[estimator]
    assert set(entry.refuses) <= GIVEN.keys(), "give a value of it above"
    for option, value in GIVEN.items():
        if option not in entry.refuses:
            assert FitConfig(**usual(estimator, **{option: value}))
            continue
        with pytest.raises(ConfigError, match=f"`{option}` means nothing to estimator {estimator}"):
            FitConfig(**usual(estimator, **{option: value}))
    if entry.init is None:
        with pytest.raises(ConfigError, match="has first scores of its own"):
            FitConfig(**usual(estimator, init="magnitude"))
