"""Gradients of the loss with respect to mask values, before training: what some initialisations rank weights by.

The gradient of a mask value `m` of a weight `w` in `W' = m W` is `w dL/dw`. Where a score stands for several weights, it is
their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.train import Plan
from maskpack.formats import ConfigError
from maskpack.models.placement import to_tensors
from maskpack.tasks.batches import Encoded, training_batches

_BATCHES = 16  # of a step's size
_ROWS = 256  # looked at one by one

Gradients = Callable[[Any, Mapping[str, MaskedLinear], Plan, Encoded, TaskLoss], dict[str, Tensor]]
"""Of a model, its masked linears, the plan, the training rows and the loss: parameter name -> a number for each score."""


def summed_gradients(
    model: Any, masked: Mapping[str, MaskedLinear], plan: Plan, rows: Encoded, task_loss: TaskLoss
) -> dict[str, Tensor]:
    """`dL/dw * w` of every masked weight, summed over some batches; leaves no gradient behind."""
    model.eval()
    rows = rows.of_epoch(plan.seed, 0)
    batches = training_batches(rows.lengths, batch_size=plan.batch_size, seed=plan.seed, epoch=0)
    for batch in batches[:_BATCHES]:
        inputs = to_tensors(rows.feeds(batch), model)
        task_loss.over(model, inputs, np.asarray(batch), rows).backward()  # type: ignore[no-untyped-call]
    gradients = {name: _gradient(layer).clone() for name, layer in masked.items()}
    model.zero_grad(set_to_none=True)
    return gradients


def squared_gradients(
    model: Any, masked: Mapping[str, MaskedLinear], plan: Plan, rows: Encoded, task_loss: TaskLoss
) -> dict[str, Tensor]:
    """`(dL/dw * w)^2` of every masked weight, summed over rows, whose losses are looked at one by one.

    Half of their mean is what the loss would rise by without the weight, where a Fisher matrix stands for the curvature.

    Raises:
        ConfigError: a row alone has no gradient, as where a loss compares rows with each other.
    """
    model.eval()
    rows = rows.of_epoch(plan.seed, 0)
    batches = training_batches(rows.lengths, batch_size=1, seed=plan.seed, epoch=0)
    squares = {name: torch.zeros_like(layer.score) for name, layer in masked.items()}
    for batch in batches[:_ROWS]:
        inputs = to_tensors(rows.feeds(batch), model)
        task_loss.over(model, inputs, np.asarray(batch), rows).backward()  # type: ignore[no-untyped-call]
        for name, layer in masked.items():
            squares[name] += _gradient(layer).square()
        model.zero_grad(set_to_none=True)
    if not any(bool(each.any()) for each in squares.values()):
        raise ConfigError(
            "init fisher looks at rows one by one, and the loss of one row has no gradient here",
            "use the init snip",
        )
    return squares


def _gradient(layer: MaskedLinear) -> Tensor:
    """The gradient of the scores; zeros where the loss does not reach them, as those of an expert that nothing was sent to."""
    return torch.zeros_like(layer.score) if layer.score.grad is None else layer.score.grad
