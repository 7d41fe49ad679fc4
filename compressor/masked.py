"""A linear layer whose weights are frozen and whose mask is learned. The one clever file.

Each weight has a score; the weight is kept where its score exceeds the layer's threshold. The
comparison has no useful gradient, so the backward pass treats it as the identity (straight-through,
Bengio et al. 2013; for masks Mallya et al. 2018, "Piggyback"; Zhao et al. 2020, arXiv 2004.12406):

    forward    W' = W * [S > t]
    backward   dL/dS = dL/dW' * W

The sparse-flip regime: every score starts at the same height above the threshold, so high that only
the few weights whose gradient is large and keeps its sign can cross it. The height is stated in
standard deviations of the distance that noise alone would drive a score (`margin`), and so depends
neither on the number of steps nor on the learning rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _StraightThrough(torch.autograd.Function):
    """`weight * [score > threshold]`, with the identity as the derivative of the comparison."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.where(score > threshold, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradient * weight, None, None


class MaskedLinear(nn.Module):
    """A drop-in for `nn.Linear` with frozen weight and bias and one learned score a weight.

    Attributes:
        weight: frozen, dequantised `(o, i)`.
        bias: frozen `(o)`, or None.
        score: learned `(o, i)`.
        threshold: scalar; a weight is kept where its score is above it.
    """

    weight: Tensor
    bias: Tensor | None
    threshold: Tensor

    def __init__(self, linear: nn.Linear, *, start: float) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)
        self.register_buffer("threshold", torch.zeros(()))
        self.score = nn.Parameter(torch.full_like(self.weight, start))

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        weight = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            self.score, self.weight, self.threshold
        )
        return functional.linear(inputs, weight, self.bias)

    def keep(self) -> Tensor:
        """The mask as bool `(o, i)`. Weights that are zero anyway count as kept: they cost no bit."""
        return (self.score.detach() > self.threshold) | (self.weight == 0)
