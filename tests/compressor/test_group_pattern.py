"""Masks of two weights in every four: ranks within groups, from the first scores to the stored file and the graph."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor import FitConfig, fit_task
from maskpack.compressor.mask_config import ESTIMATORS, PATTERNS, SCORE_INITS
from maskpack.compressor.masking.gates import Ranked
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.patterns import GroupPattern
from maskpack.compressor.masking.score_init import initial_scores, worth_of
from maskpack.compressor.training.train import FlooredAdam, Group
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.formats import ConfigError, open_artifact, pack_task, unpack_task

HALF = {"pattern": "2:4", "sparsity": 0.5}


def ranks_by_sorting(score, kept, group):
    """The mask by a sort of every group."""
    grouped = score.reshape(-1, group)
    best = grouped.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return torch.zeros_like(grouped).scatter_(1, best, 1.0).view_as(score)


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (1, 2), (4, 8)])
def test_the_best_of_each_group_stay_and_of_equal_ones_the_first(kept, group):
    for score in (torch.randn(6, 16), torch.randint(0, 3, (6, 16)).float(), torch.zeros(6, 16)):
        out = torch.empty_like(score)
        Ranked(kept, group).fill(out, score, torch.tensor(9.0), training=True)
        assert torch.equal(out, ranks_by_sorting(score, kept, group))


@pytest.mark.parametrize("init", [name for name in SCORE_INITS if name != "constant"])
def test_first_scores_keep_two_of_four_by_what_they_are_ranked_by(init):
    pattern, weight = PATTERNS["2:4"], torch.randn(10, 16)
    weight[:, ::8] = 0.0
    gradients = {"w": torch.rand_like(weight)}
    start = SCORE_INITS[init]
    worth = worth_of(start, {"w": weight}, gradients=gradients, seed=0, pattern=pattern)
    score = initial_scores(start, worth, height=1.0, sparsity=0.5, drawn=False)["w"]
    assert torch.equal((score > 0).view(-1, 4).sum(dim=1), torch.full((40,), 2))
    assert not (score > 0)[:, ::8].any(), "a weight that is zero anyway takes no place"
    if init == "magnitude":
        expected = ranks_by_sorting(weight.abs(), 2, 4)
        assert torch.equal((score > 0).float(), expected)


def test_a_planted_mask_of_groups_is_found():
    torch.manual_seed(0)
    linear, inputs = nn.Linear(24, 16, bias=False), torch.randn(512, 24)
    right = ranks_by_sorting(torch.rand(16, 24), 2, 4)
    wanted = inputs @ (linear.weight.detach() * right).T
    pattern = PATTERNS["2:4"]
    layer = MaskedLinear(linear, start=0.0, gate=Ranked(2, 4), pattern=pattern)
    weights = {"w": layer.weight}
    worth = worth_of(SCORE_INITS["magnitude"], weights, gradients={}, seed=0, pattern=pattern)
    with torch.no_grad():
        layer.score.copy_(
            initial_scores(SCORE_INITS["magnitude"], worth, height=0.2, sparsity=0.5, drawn=False)[
                "w"
            ]
        )

    def error():
        return (layer(inputs) - wanted).square().mean()

    one_shot = float(error().detach())
    began = float((layer.keep() == right.bool()).float().mean())
    optimizer = FlooredAdam([Group([layer.score], 0.02, 1.0).settings()])
    for _ in range(200):
        error().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(error().detach()) < 0.2 * one_shot
    assert began < 0.75
    assert float((layer.keep() == right.bool()).float().mean()) > 0.9


@pytest.fixture(scope="module")
def made(tiny_model, sentiment, quick, tmp_path_factory):
    """An artifact with a learned task and a one-shot one."""
    from maskpack.compressor import FitRequest
    from maskpack.tasks import find_task

    out = tmp_path_factory.mktemp("groups") / "artifact"
    for name, options in (("learned", {"margin": 0.3}), ("one-shot", {"estimator": "fixed"})):
        config = quick(**HALF, **options)
        task = find_task("sst2")
        fit_task(FitRequest(str(tiny_model), task, out, config, data=sentiment, name=name))
    return out


def bits(artifact, task):
    patch = open_artifact(artifact).patch(task)
    return {name: mask.to_bool() for name, mask in patch.masks.items()}


def test_a_stored_mask_leaves_two_weights_of_four(made):
    codes = open_artifact(made).backbone.linears
    for task in ("learned", "one-shot"):
        for name, mask in bits(made, task).items():
            left = (mask & (codes[name].codes != 0)).reshape(-1, 4).sum(axis=1)
            there = (codes[name].codes != 0).reshape(-1, 4).sum(axis=1)
            assert (left == np.minimum(there, 2)).all()
    first, second = (bits(made, task) for task in ("learned", "one-shot"))
    assert sum((first[name] != second[name]).sum() for name in first) > 50


def test_it_is_packed_read_and_exported_as_any_other(made, tmp_path, sentiment):
    packed = pack_task(open_artifact(made), "learned")
    other = tmp_path / "other"
    shutil.copytree(made, other)
    unpack_task(other, packed, name="again")
    assert all((bits(other, "again")[n] == m).all() for n, m in bits(made, "learned").items())
    request = ExportRequest(
        made, "learned", tmp_path / "graph", "fp32", Tolerance(1e-4, 100.0), data=sentiment
    )
    assert export_onnx(request).ok


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "the pattern 2:4 has a share of zeros of 0.5", "give `sparsity` 0.5"),
        ({"sparsity": 0.4}, "has a share of zeros of 0.5", "give `sparsity` 0.5"),
        *[
            (
                {"sparsity": 0.5, "estimator": name},
                f"estimator {name} in another way",
                "use the est",
            )
            for name, entry in ESTIMATORS.items()
            if not entry.compares and not entry.chooses
        ],
        (
            {"sparsity": 0.5, "estimator": "topk"},
            "init constant gives all the same",
            "use the init",
        ),
        (
            {"sparsity": 0.5, "init": "constant"},
            "init constant gives all",
            "use the init magnitude",
        ),
    ],
)
def test_what_a_group_cannot_do_is_refused(options, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        PATTERNS["2:4"].check(FitConfig(pattern="2:4", **options), {"w": (8, 16)})
    assert hint in str(caught.value.hint)


def test_rows_that_groups_do_not_divide_are_refused_before_anything_is_quantised(request_for):
    with pytest.raises(ConfigError, match="`w` has rows of 1,002 weights"):
        PATTERNS["2:4"].check(FitConfig(**HALF), {"w": (8, 1002)})
    with pytest.raises(ConfigError, match="the pattern 2:4 has a share of zeros"):
        fit_task(request_for(pattern="2:4"))


def test_another_form_is_one_entry(monkeypatch, request_for):
    monkeypatch.setitem(PATTERNS, "1:4", GroupPattern(1, 4))
    request = request_for(pattern="1:4", sparsity=0.75)
    fit_task(request)
    for name, mask in bits(request.out, "sst2").items():
        live = open_artifact(request.out).backbone.linears[name].codes != 0
        assert (mask & live).reshape(-1, 4).sum(axis=1).max() == 1
