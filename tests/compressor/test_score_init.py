from __future__ import annotations

import pytest
import torch

from maskpack.compressor.mask_config import PATTERNS, SCORE_INITS
from maskpack.compressor.masking.score_init import initial_scores, ranks_of, worth_of

RANKED = ("magnitude", "snip", "fisher", "unit-norm", "random")
SHARES = [0.0, 0.1, 1 / 3, 0.5, 0.9, 0.997]


def weights(*, zeros: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = {"a": torch.randn(20, 25), "b": 10.0 * torch.randn(7, 11)}
    for weight in found.values():
        weight.view(-1)[:zeros] = 0.0
    return found


def scores_of(start, *, sparsity, drawn=False, height=2.0, zeros=0, seed=0):
    found = weights(zeros=zeros)
    gradients = {name: torch.randn_like(weight) * weight for name, weight in found.items()}
    pattern = PATTERNS["weight"]
    worth = worth_of(SCORE_INITS[start], found, gradients=gradients, seed=seed, pattern=pattern)
    scores = initial_scores(
        SCORE_INITS[start], worth, height=height, sparsity=sparsity, drawn=drawn
    )
    return found, gradients, scores


@pytest.mark.parametrize("sparsity", SHARES)
@pytest.mark.parametrize("start", [*RANKED, "soft-magnitude"])
@pytest.mark.parametrize("zeros", [0, 9])
def test_the_asked_share_of_every_matrix_starts_under_the_threshold(start, sparsity, zeros):
    _, _, scores = scores_of(start, sparsity=sparsity, zeros=zeros)
    for score in scores.values():
        most = score.numel() - zeros
        expected = min(round(sparsity * score.numel()), most)
        assert int((score <= 0).sum()) == expected
        assert (score.view(-1)[:zeros] > 0).all()  # zero anyway: nothing is spent on it
        assert score.abs().max() <= 2.0


@pytest.mark.parametrize("start", ["magnitude", "soft-magnitude"])
def test_the_smallest_weights_go_first(start):
    found, _, scores = scores_of(start, sparsity=0.3)
    for name, score in scores.items():
        out = score <= 0
        assert found[name][out].abs().max() < found[name][~out].abs().min()


def test_the_weights_whose_removal_costs_least_go_first():
    _, gradients, scores = scores_of("snip", sparsity=0.3)
    for name, score in scores.items():
        out = score <= 0
        assert gradients[name][out].abs().max() < gradients[name][~out].abs().min()


def test_chance_follows_from_the_seed_and_differs_between_matrices():
    first, again, other = (scores_of("random", sparsity=0.5, seed=s)[2] for s in (1, 1, 2))
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(first["a"].view(-1)[:77], first["b"].view(-1))
    magnitude = scores_of("magnitude", sparsity=0.5)[2]
    assert (first["a"] == magnitude["a"]).float().mean() == pytest.approx(0.5, abs=0.1)


def test_hard_starts_have_two_heights_and_soft_ones_a_slope():
    hard = scores_of("magnitude", sparsity=0.5)[2]["a"]
    assert set(hard.view(-1).tolist()) == {-2.0, 2.0}
    soft = scores_of("soft-magnitude", sparsity=0.5)[2]["a"].view(-1).sort().values
    inside = soft[soft.abs() < 1.999]
    assert len(inside) == pytest.approx(250, abs=3)  # a quarter of the ranks on either side
    assert torch.allclose(
        inside.diff(), torch.full((len(inside) - 1,), 2.0 / 0.25 / 500), atol=1e-5
    )


def test_a_constant_start_prefers_nothing():
    _, _, scores = scores_of("constant", sparsity=0.4)
    assert all((score == 2.0).all() for score in scores.values())


def test_ties_are_broken_by_position():
    worth = torch.tensor([[1.0, 0.5, 1.0], [0.5, 1.0, 1.0]])
    assert (ranks_of(worth) * 6).round().tolist() == [[2, 0, 3], [1, 4, 5]]
    scores = initial_scores(
        SCORE_INITS["magnitude"], {"w": torch.ones(2, 4)}, height=1.0, sparsity=0.5, drawn=False
    )
    assert scores["w"].tolist() == [[-1.0] * 4, [1.0] * 4]


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("start", ["soft-magnitude", "magnitude", "constant"])
def test_logits_of_drawn_masks_keep_the_asked_share_on_average(start, sparsity):
    found, _, scores = scores_of(start, sparsity=sparsity, drawn=True)
    for name, score in scores.items():
        keep = torch.sigmoid(score)
        assert keep.mean() == pytest.approx(1 - sparsity, abs=0.01)
        assert keep.min() >= 0.0099
        order = found[name].abs().view(-1).argsort()
        assert (keep.view(-1)[order].diff() >= -1e-6).all()


def test_without_a_share_of_zeros_drawn_masks_keep_nearly_all():
    scores = scores_of("constant", sparsity=0.0, drawn=True)[2]
    assert torch.sigmoid(scores["a"]).min() == pytest.approx(0.99)


def test_outputs_with_the_smallest_norm_go_as_a_whole():
    found, _, scores = scores_of("unit-norm", sparsity=0.3)
    for name, score in scores.items():
        out = score <= 0
        whole = out.all(dim=1) | ~out.any(dim=1)
        assert (~whole).sum() <= 1, "one output may lose a part of its weights"
        norms = found[name].norm(dim=1)
        assert norms[out.all(dim=1)].max() < norms[~out.any(dim=1)].min()
