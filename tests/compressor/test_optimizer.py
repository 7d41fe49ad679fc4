from __future__ import annotations

import pytest
import torch
from torch import nn

from maskpack.compressor.training.train import FlooredAdam


def drive(optimizer, parameters, gradients):
    """One step for each list of gradients."""
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def drawn(steps, *shapes, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(shape, generator=generator) * scale for shape in shapes] for _ in range(steps)
    ]


def test_without_a_floor_it_is_adam_bit_for_bit():
    ours, theirs = nn.Parameter(torch.ones(33)), nn.Parameter(torch.ones(33))
    gradients = drawn(50, (33,), scale=1e-4)
    drive(FlooredAdam([{"params": [ours], "lr": 0.01}]), [ours], gradients)
    adam = torch.optim.Adam([theirs], lr=0.01, eps=1e-12, fused=True)
    drive(adam, [theirs], gradients)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, torch.ones(33))


def test_tiny_gradients_move_a_score_as_far_as_large_ones_without_a_floor():
    parameter = nn.Parameter(torch.zeros(2))
    gradients = [[torch.tensor([1.0, 1e-9])]] * 10
    drive(FlooredAdam([{"params": [parameter], "lr": 0.01}]), [parameter], gradients)
    assert parameter[0].item() == pytest.approx(-0.1, rel=1e-3)
    assert parameter[1].item() == pytest.approx(-0.1, rel=1e-2)


@pytest.mark.parametrize("floor", [0.5, 1.0, 4.0])
def test_with_a_floor_small_gradients_move_in_proportion_to_their_size(floor):
    sizes = torch.tensor([1.0, 1.0, 0.1, 0.01])
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = FlooredAdam([{"params": [parameter], "lr": 0.01, "floor": floor}])
    drive(optimizer, [parameter], [[sizes]])  # the first step sets the floor
    start = parameter.detach().clone()
    drive(optimizer, [parameter], [[sizes]] * 10)
    moved = (start - parameter.detach()) / 0.1
    level = sizes.square().mean().sqrt()
    assert moved.tolist() == pytest.approx((sizes / (sizes + floor * level)).tolist(), rel=1e-3)


def test_a_parameter_that_never_had_a_gradient_does_not_count():
    """As an expert that no text has chosen yet, and a part of an encoder that its classifier does not use."""
    told, alone = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    unused = nn.Parameter(torch.zeros(8))
    gradients = drawn(5, (4,), scale=1e-3)
    together = FlooredAdam([{"params": [unused, told], "lr": 0.01, "floor": 1.0}])
    drive(together, [told], gradients)
    drive(FlooredAdam([{"params": [alone], "lr": 0.01, "floor": 1.0}]), [alone], gradients)
    assert torch.equal(told, alone)
    assert not unused.any()


def test_the_floor_follows_the_root_mean_square_of_the_whole_group():
    first, second = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(10))
    optimizer = FlooredAdam([{"params": [first, second], "lr": 0.01, "floor": 2.0}])
    gradients = drawn(5, (3, 2), (10,), scale=1e-3)
    for taken in range(1, 6):
        drive(optimizer, [first, second], gradients[taken - 1 : taken])
        squares = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in (first, second)])
        level = (squares.mean() / (1 - 0.999**taken)).sqrt().item()
        assert optimizer.param_groups[0]["eps"] == pytest.approx(2.0 * level, rel=1e-5)


def test_after_twenty_steps_the_floor_is_set_every_twenty_steps():
    parameter = nn.Parameter(torch.zeros(8))
    optimizer = FlooredAdam([{"params": [parameter], "lr": 0.01, "floor": 1.0}])
    seen = []
    for gradients in drawn(61, (8,)):
        drive(optimizer, [parameter], [gradients])
        seen.append(optimizer.param_groups[0]["eps"])
    changed = [step for step in range(2, 62) if seen[step - 1] != seen[step - 2]]
    assert changed == [*range(2, 21), 40, 60]


def test_groups_have_their_own_floors():
    scores, head = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    optimizer = FlooredAdam(
        [{"params": [scores], "lr": 0.01, "floor": 1.0}, {"params": [head], "lr": 0.01}]
    )
    drive(optimizer, [scores, head], [[torch.ones(4), torch.ones(4)]] * 3)
    assert [group["eps"] for group in optimizer.param_groups] == [
        pytest.approx(1.0, rel=1e-4),
        1e-12,
    ]
    assert head.tolist() == pytest.approx([-0.03] * 4, rel=1e-3)
    assert scores[0].item() > -0.025


def test_without_any_gradient_the_floor_stays_above_zero():
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = FlooredAdam([{"params": [parameter], "lr": 0.01, "floor": 1.0}])
    drive(optimizer, [parameter], [[torch.zeros(4)]] * 3)
    assert optimizer.param_groups[0]["eps"] == 1e-12
    assert parameter.tolist() == [0.0] * 4
