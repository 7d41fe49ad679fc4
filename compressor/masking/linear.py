"""A linear layer whose weights are frozen and whose mask is learned. The one clever file.

Each weight has a score; the weight is kept where its score exceeds the layer's threshold. The
comparison has no useful gradient, so the backward pass treats it as the identity (straight-through,
Bengio et al. 2013; for masks Mallya et al. 2018, "Piggyback"; Zhao et al. 2020, arXiv 2004.12406):

    forward    W' = W * [S > t]                     (drawn: [u < sigmoid(S)], u uniform)
    backward   dL/dS = dL/dW' * W

The sparse-flip regime: every score starts at the same height above the threshold, so high that only
the few weights whose gradient is large and keeps its sign can cross it. The height is stated in
standard deviations of the distance that noise alone would drive a score (`margin`), and so depends
neither on the number of steps nor on the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskpack.formats import MaskCount
from maskpack.models.linears import swap_linear


class _StraightThrough(torch.autograd.Function):
    """`weight * keep`; the gradient reaches the score as if the mask were it."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, weight: Tensor, keep: Tensor) -> Tensor:
        del score  # only its gradient matters
        ctx.save_for_backward(weight)
        return weight * keep

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradient * weight).float(), None, None


class MaskedLinear(nn.Module):
    """A drop-in for `nn.Linear` with frozen weights and one learned score a weight.

    Attributes:
        weight: frozen, dequantised `(o, i)`.
        bias: `(o)`, frozen unless the task trains it, or None.
        score: learned `(o, i)`.
        gain: `(o)` factors of the rows, learned, or None.
        threshold: scalar; a weight is kept where its score is above it.
        drawn: whether a training step draws each mask bit with probability `sigmoid(score)`.
    """

    weight: Tensor
    threshold: Tensor

    def __init__(
        self, linear: nn.Linear, *, start: float | Tensor, drawn: bool = False, gains: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("threshold", torch.zeros(()))
        self.bias = linear.bias
        self.score = nn.Parameter(torch.empty_like(self.weight).copy_(torch.as_tensor(start)))
        self.gain = nn.Parameter(torch.ones(len(self.weight))) if gains else None
        self.drawn = drawn
        self._narrow: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        frozen = self._working_weight()
        weight = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            self.score, frozen, self._mask_like(frozen)
        )
        if self.gain is None:
            return functional.linear(inputs, weight, self.bias)
        outputs = functional.linear(inputs, weight) * self.gain
        return outputs if self.bias is None else outputs + self.bias

    def keep(self) -> Tensor:
        """The mask as bool `(o, i)`. Weights that are zero anyway count as kept: they cost no bit."""
        return (self.score.detach() > self.threshold) | (self.weight == 0)

    def _mask_like(self, weight: Tensor) -> Tensor:
        """The mask as ones and zeros of the weight's own type: five times as fast as by way of bool."""
        score, mask = self.score.detach(), torch.empty_like(weight)
        if self.drawn and self.training:
            return torch.lt(torch.rand_like(score), torch.sigmoid(score), out=mask)
        return torch.gt(score, self.threshold, out=mask)

    def _working_weight(self) -> Tensor:
        """The frozen weights in the arithmetic of the step; a narrow copy is made once."""
        if not torch.is_autocast_enabled("cpu"):
            return self.weight
        if self._narrow is None:
            self._narrow = self.weight.to(torch.get_autocast_dtype("cpu"))
        return self._narrow


def mask_linears(
    base: nn.Module,
    starts: Mapping[str, float | Tensor],
    *,
    drawn: bool = False,
    gains: bool = False,
) -> dict[str, MaskedLinear]:
    """Replace the linears whose weights are named in `starts` in place, and freeze all that is left.

    Args:
        base: the base model; modified.
        starts: parameter name, such as `encoder.layer.0.output.dense.weight`, -> first scores:
            `(o, i)`, or one number for all.
        drawn: whether mask bits are drawn, see `MaskedLinear`.
        gains: whether rows get learned factors.

    Returns:
        Parameter name -> the masked linear that now stands there.
    """
    base.requires_grad_(requires_grad=False)
    masked = {}
    for name, start in starts.items():
        make = partial(MaskedLinear, start=start, drawn=drawn, gains=gains)
        masked[name] = swap_linear(base, name, make)
    return masked


def count_zeros(layers: Sequence[MaskedLinear]) -> MaskCount:
    """Size of the mask now."""
    with torch.no_grad():
        zeros = sum(int((~layer.keep()).sum()) for layer in layers)
    return MaskCount(sum(layer.score.numel() for layer in layers), zeros)
