"""Iterative magnitude pruning with rewinding: what goes, what comes back to what, and how often."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.compressor.rewind_config import RewindConfig
from maskpack.compressor.training.rewind import Pruned, Rewinding, prune_in_rounds
from maskpack.compressor.training.train import FlooredAdam, Group, State
from maskpack.formats import ConfigError, Interrupted
from maskpack.models.build import base_of
from maskpack.models.placement import Placement
from maskpack.tasks import find_task

STEPS, REWIND = 12, 3


class Base(nn.Module):
    """Two linears, a norm and a table that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(6, 8)
        self.first, self.norm, self.second = nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, ids):
        return self.second(self.norm(self.first(self.words(ids))))


class Recorder:
    """A loop of training that remembers what each round began with."""

    def __init__(self, base: Base) -> None:
        self.base, self.begun, self.after, self.moments = base, [], [], []

    def __call__(self, rewinding: Rewinding) -> int:
        optimizer = FlooredAdam([Group(list(self.base.parameters()), 0.05).settings()])
        done = rewinding.load(State(self.base, optimizer, rewinding, Placement("cpu").scaler()))
        self.begun.append((done, self.weights()))
        first = self.base.first.weight
        self.moments.append(optimizer.state[first]["exp_avg"].clone() if done else None)
        ids = torch.arange(6)
        for step in range(done, STEPS):
            self.base(ids).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            rewinding.on_step_end(step + 1, STEPS)
            self.after.append((step + 1, self.weights(), optimizer.state[first]["exp_avg"].clone()))
        return STEPS

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.base.named_parameters()}


def learned(**options):
    config = RewindConfig(**{"sparsity": 0.5, "rewind": REWIND, **options})
    recorder = Recorder(base := Base())
    pruned, steps = prune_in_rounds(base, config, STEPS, recorder)
    return recorder, pruned, steps, config


@pytest.mark.parametrize("rewind", [0, REWIND])
def test_what_stays_goes_back_to_the_early_step_and_what_goes_stays_gone(rewind):
    recorder, pruned, steps, config = learned(rewind=rewind)
    early = recorder.begun[0][1] if rewind == 0 else recorder.after[rewind - 1][1]
    assert config.all_rounds == 4
    assert [done for done, _ in recorder.begun] == [0, *[rewind] * 4]
    assert steps == STEPS + 4 * (STEPS - rewind)
    gone = {name: torch.zeros_like(pruned.kept[name]) for name in pruned.kept}
    for _, begun in recorder.begun[1:]:
        for name, value in begun.items():
            if name not in gone:
                assert torch.equal(value, early[name]), "tables, norms and biases go back whole"
                continue
            removed = (value == 0) & (early[name] != 0)
            assert (removed | ~gone[name]).all(), "what went in one round is gone in the next"
            assert torch.equal(value[~removed], early[name][~removed])
            gone[name] = removed
    for name, kept in pruned.kept.items():
        last = recorder.weights()[name]
        assert torch.equal(gone[name], ~kept)
        assert (last[~kept] == 0).all()
        assert (last[kept] != early[name][kept]).any(), "the last network is trained to its end"


def test_moments_go_back_too():
    recorder, *_ = learned()
    step, _, moments = recorder.after[REWIND - 1]
    assert step == REWIND
    assert all(torch.equal(found, moments) for found in recorder.moments[1:])


@pytest.mark.parametrize("sparsity", [0.2, 0.37, 0.9])
def test_the_asked_share_is_reached_and_at_most_a_fifth_goes_in_a_round(sparsity):
    recorder, pruned, _, config = learned(sparsity=sparsity)
    zeros = [0]
    for _, begun in recorder.begun[1:]:
        zeros.append(sum(int((begun[name] == 0).sum()) for name in pruned.kept))
    assert pruned.zeros == zeros[-1] == round(sparsity * pruned.size)
    assert set(pruned.kept) == {"first.weight", "second.weight"}
    for before, now in pairwise(zeros):
        assert 0 < now - before <= 0.2 * (pruned.size - before) + 1
    assert len(zeros) == config.all_rounds + 1


def test_the_smallest_go_over_all_linears_together():
    recorder, pruned, *_ = learned(sparsity=0.1, rounds=1)
    trained = recorder.after[STEPS - 1][1]
    flat = torch.cat([trained[name].abs().flatten() for name in pruned.kept])
    limit = flat.kthvalue(pruned.zeros).values
    for name, kept in pruned.kept.items():
        assert torch.equal(kept, trained[name].abs() > limit)
    shares = [float((~kept).float().mean()) for kept in pruned.kept.values()]
    assert shares[0] != shares[1]


def test_a_weight_that_is_gone_is_never_counted_twice():
    pruned = Pruned({"a": torch.tensor([0.0, 1.0, 2.0, 3.0])})
    pruned.prune(1)
    pruned.prune(2)
    assert pruned.kept["a"].tolist() == [False, False, True, True]


@pytest.fixture
def request_for(tiny_model, sentiment):
    def make(out=None, **options):
        usual = {"steps": 20, "batch_size": 16, "max_length": 16, "precision": "fp32"}
        config = BaselineConfig(**{**usual, "method": "imp", "sparsity": 0.5, **options})
        return BaselineRequest(str(tiny_model), find_task("sst2"), config, out, sentiment)

    return make


def test_it_learns_and_the_saved_model_has_the_asked_share_of_zeros(
    shared, request_for, tmp_path, caplog
):
    data = shared.write_sentiment(tmp_path, train=512, dev=128)
    request = request_for(tmp_path / "model", steps=150, lr=2e-3, head_lr=0.01, rounds=2)
    with caplog.at_level(logging.INFO):
        result = run_baseline(replace(request, data=data))
    assert result.score > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    linears = [m.weight for m in base_of(model).modules() if isinstance(m, nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in linears)
    size = sum(weight.numel() for weight in linears)
    assert (result.zeros, result.weights) == (zeros, size) == (round(size / 2), size)
    assert result.steps == 150 + 2 * (150 - 7)
    assert "round 2 of 2" in caplog.text
    every = sum(p.numel() for p in model.parameters())
    assert result.patch_bytes == 4 * (every - zeros)
    assert result.coded_bytes == result.patch_bytes // 2 + size // 8
    assert result.options["sparsity"] == 0.5


def test_the_same_seed_gives_the_same_network(request_for, tmp_path):
    written = []
    for name in ("a", "b"):
        run_baseline(request_for(tmp_path / name, rounds=1))
        written.append((tmp_path / name / "model.safetensors").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"sparsity": None}, "the method imp needs a share of zeros", "give `sparsity`"),
        ({"sparsity": 1.0}, "`sparsity` is 1.0", ""),
        ({"rounds": 0}, "`rounds` is 0", ""),
        ({"rewind": -1}, "`rewind` is -1", ""),
        ({"method": "full"}, "`sparsity` is of the method imp, and the method is full", "leave"),
        (
            {"method": "head", "sparsity": None, "rewind": 3},
            "`rewind` is of the method imp, and the method is head",
            "leave one",
        ),
        ({"rewind": 20}, "goes back to step 20, and the run has 20", "give a `rewind` below 20"),
        ({"rounds": 100_000}, "a round would remove none", "give fewer `rounds`"),
    ],
)
def test_impossible_numbers_are_refused(request_for, options, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        run_baseline(request_for(**options))
    assert hint in str(caught.value.hint or "")


def test_a_stopped_run_says_that_it_is_not_resumed(request_for, stop_at, tmp_path):
    with pytest.raises(Interrupted, match="a baseline keeps no checkpoint"):
        run_baseline(request_for(tmp_path / "model"), on_progress=stop_at(2))
    assert list(tmp_path.iterdir()) == []
