from __future__ import annotations

import pytest
import torch
from torch import nn

from maskpack.compressor.masking.even_sparsity import EvenSparsity
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import (
    FlipPenalty,
    GlobalSparsity,
    MatrixSparsity,
    risen,
)

SHARES = [0.001, 0.01, 0.1, 0.5, 0.9, 0.999]


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


def with_zero_weights(layers, share: float):
    """The same layers with some weights that are zero anyway."""
    for layer in layers:
        layer.weight.view(-1)[: round(share * layer.weight.numel())] = 0.0
    return layers


@pytest.mark.parametrize("sparsity", SHARES)
def test_the_last_step_ends_at_the_asked_share_to_the_weight(sparsity):
    layers = layers_of(1.0, 0.1)
    GlobalSparsity(layers, sparsity).on_step_end(77, 77)
    assert share_out(layers) == pytest.approx(sparsity, abs=0.5 / 1000)


def test_all_layers_get_one_threshold_so_that_they_compete():
    layers = layers_of(1.0, 0.01)
    GlobalSparsity(layers, 0.2).on_step_end(100, 100)
    assert layers[0].threshold == layers[1].threshold
    assert share_out(layers[:1]) == pytest.approx(0.4, abs=0.01)
    assert share_out(layers[1:]) == 0.0


@pytest.mark.parametrize("step", [20, 40, 60, 80])
@pytest.mark.parametrize("start", [0.0, 0.25])
def test_the_share_rises_as_a_cubic_over_the_first_six_tenths(step, start):
    layers = layers_of(1.0)
    GlobalSparsity(layers, 0.5, start).on_step_end(step, 100)
    done = min(1.0, step / 60)
    assert share_out(layers) == pytest.approx(0.5 - (0.5 - start) * (1 - done) ** 3, abs=0.002)


def test_between_two_looks_thresholds_stay():
    layers = layers_of(1.0)
    for target in (GlobalSparsity(layers, 0.5), MatrixSparsity({"a": layers[0]}, 0.5)):
        for step in (1, 19, 21, 99):
            target.on_step_end(step, 100)
    assert share_out(layers) == (layers[0].score <= 0).float().mean()
    assert float(layers[0].threshold) == 0.0


def test_a_start_at_the_target_holds_the_count_while_weights_swap():
    layers = layers_of(1.0, 0.5)
    target, seen = GlobalSparsity(layers, 0.3, 0.3), set()
    for step in range(20, 101, 20):
        for layer in layers:
            layer.score.data += 0.3 * torch.randn(25, 20)
        target.on_step_end(step, 100)
        assert share_out(layers) == pytest.approx(0.3, abs=0.5 / 1000)
        seen.add(layers[0].keep().numpy().tobytes())
    assert len(seen) == 5


@pytest.mark.parametrize("sparsity", [0.1, 0.5])
def test_weights_that_are_zero_anyway_are_never_counted_as_removed(sparsity):
    layers = with_zero_weights(layers_of(1.0, 0.1), 0.2)
    GlobalSparsity(layers, sparsity).on_step_end(1, 1)
    assert share_out(layers) == pytest.approx(sparsity, abs=0.5 / 1000)
    kinds = with_zero_weights(layers_of(1.0, 0.1), 0.2)
    MatrixSparsity({"l.0.a": kinds[0], "l.1.a": kinds[1]}, sparsity).on_step_end(1, 1)
    assert share_out(kinds) == pytest.approx(sparsity, abs=1 / 1000)


@pytest.mark.parametrize("sparsity", SHARES)
def test_every_kind_of_matrix_reaches_the_share_by_itself(sparsity):
    near, far = layers_of(1.0), [*layers_of(0.1), *layers_of(3.0)]
    for layer in near:
        layer.score.data -= 5.0
    layers = {"l.0.q": near[0], "l.0.v": far[0], "l.1.v": far[1]}
    MatrixSparsity(layers, sparsity).on_step_end(9, 9)
    assert share_out(near) == pytest.approx(sparsity, abs=0.51 / 500)
    assert share_out(far) == pytest.approx(sparsity, abs=1 / 500)


def test_within_a_kind_a_matrix_keeps_in_proportion_to_its_mean_sigmoid():
    layers = layers_of(0.5, 0.5)
    layers[1].score.data -= 2.0
    MatrixSparsity({"l.0.q": layers[0], "l.1.q": layers[1]}, 0.6).on_step_end(5, 5)
    worth = [float(torch.sigmoid(layer.score.detach()).mean()) for layer in layers]
    kept = [1.0 - share_out([layer]) for layer in layers]
    assert kept[0] / kept[1] == pytest.approx(worth[0] / worth[1], rel=0.02)
    assert sum(kept) / 2 == pytest.approx(0.4, abs=1 / 500)


def test_no_matrix_is_asked_to_keep_more_than_itself():
    layers = layers_of(0.1, 0.1)
    layers[1].score.data -= 6.0
    MatrixSparsity({"l.0.q": layers[0], "l.1.q": layers[1]}, 0.1).on_step_end(5, 5)
    assert [share_out([layer]) for layer in layers] == pytest.approx([0.1, 0.1], abs=1 / 500)


def flip_cost(layers, sparsity, *, height=1.0, steps=1000, rate=0.01) -> FlipPenalty:
    return FlipPenalty(layers, sparsity, height=height, rates=torch.full((steps,), rate))


def price(cost) -> float:
    return float(cost.state()["price"])


def test_the_price_rises_over_the_target_and_falls_under_it():
    layers = layers_of(1.0)  # a sixth is under the threshold
    cost, prices = flip_cost(layers, 0.01), []
    for step in range(620, 720, 20):
        cost.on_step_end(step, 1000)
        prices.append(price(cost))
    assert all(after > before for before, after in zip([0.0, *prices], prices, strict=False))
    layers[0].score.data.fill_(1.0)
    for step in range(720, 980, 20):
        cost.on_step_end(step, 1000)
        assert price(cost) <= prices[-1]
        prices.append(price(cost))
    assert prices[-1] == 0.0  # it does not go below


def test_the_price_pushes_scores_near_the_threshold_up_and_leaves_others_alone():
    layer = MaskedLinear(nn.Linear(3, 1), start=torch.tensor([[0.0, 0.1, 1.0]]))
    cost = flip_cost([layer], 0.1, rate=0.01)
    cost.state()["price"].fill_(0.5)
    cost.on_step_end(4, 1000)
    moved = layer.score.detach()[0] - torch.tensor([0.0, 0.1, 1.0])
    near = torch.sigmoid(torch.tensor([0.0, 1.0]))
    expected = 4 * 0.01 * 0.5 * 4 * near * (1 - near)  # four steps at once, T a tenth of 1
    assert torch.allclose(moved[:2], expected, rtol=1e-5)
    assert 0.0 <= float(moved[2]) < 1e-5


def test_without_a_price_scores_stay():
    layers = layers_of(0.01)
    before = layers[0].score.detach().clone()
    flip_cost(layers, 0.1).on_step_end(4, 1000)
    assert torch.equal(layers[0].score, before)


@pytest.mark.parametrize("sparsity", [0.0001, 0.0015, 0.01, 0.1, 0.1299])
def test_what_is_too_much_at_the_end_comes_back_and_nothing_else(sparsity):
    layers = layers_of(1.0, 1.0)
    free = share_out(layers)
    assert free > 0.13
    flip_cost(layers, sparsity).on_step_end(1000, 1000)
    assert sparsity - 1 / 1000 < share_out(layers) <= sparsity
    least = torch.cat([layer.score.detach().flatten() for layer in layers]).sort().values
    out = torch.cat([layer.score.detach()[~layer.keep()] for layer in layers]).sort().values
    assert torch.equal(out, least[: len(out)])


def test_a_mask_within_its_target_is_not_cut():
    layers = layers_of(1.0)
    flip_cost(layers, 0.9).on_step_end(1000, 1000)
    assert float(layers[0].threshold) == 0.0


def test_the_risen_share_starts_where_it_should_and_ends_at_the_target():
    assert risen(0.1, 0.4, 0, 50) == pytest.approx(0.1)
    assert [risen(0.1, 0.4, step, 50) for step in (30, 31, 50)] == [0.4] * 3


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 16)])
@pytest.mark.parametrize("estimator", ["threshold", "topk", "fixed"])
def test_a_fit_with_a_target_stores_that_share_of_zeros(bits, group, estimator, request_for):
    from maskpack.compressor import fit_task

    extra = {"init": "magnitude"} if estimator == "fixed" else {}
    request = request_for(bits=bits, group=group, estimator=estimator, sparsity=0.1, **extra)
    assert fit_task(request).count.sparsity == pytest.approx(0.1, abs=0.001)


def test_a_target_in_bits_is_kept_to_and_nearly_used_up(request_for):
    from maskpack.compressor import fit_task

    free = fit_task(request_for("free", margin=0.3)).count.entropy_bpp
    held = fit_task(request_for("held", margin=0.3, target_bpp=0.2)).count.entropy_bpp
    assert free > 0.3
    assert 0.195 < held <= 0.2


def test_scores_that_are_all_zero_begin_with_all_weights():
    """Movement's scores start at 0, and no weight is above a threshold of 0."""
    layers = layers_of(1.0, 0.1)
    for layer in layers:
        layer.score.data.zero_()
    assert share_out(layers) == 1.0
    EvenSparsity(layers, 0.5).on_step_begin(0)
    assert share_out(layers) == 0.0
