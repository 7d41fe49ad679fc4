"""A linear layer whose weights are frozen and whose mask is learned.

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

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskpack.compressor.masking.patterns import PATTERNS, MaskPattern
from maskpack.formats import MaskCount
from maskpack.models.linears import swap_linear

Draw = Callable[[Tensor], Tensor]
"""Scores to uniform numbers of [0, 1), in their shape and on their device."""


class LinearRounding(Protocol):
    """What an exported graph makes of a linear, see `rounding.py`."""

    @property
    def weight(self) -> Tensor:
        """The frozen weights as they are rounded, `(o, i)`, in the type that a step multiplies in."""

    def inputs(self, inputs: Tensor) -> Tensor:
        """Inputs `(..., i)` as they are rounded."""


class _StraightThrough(torch.autograd.Function):
    """`weight * keep`; the score gets the gradient of the mask."""

    @staticmethod
    def forward(
        ctx: Any, score: Tensor, weight: Tensor, keep: Tensor, pattern: MaskPattern
    ) -> Tensor:
        del score  # only its gradient matters
        ctx.save_for_backward(weight)
        ctx.pattern = pattern
        return weight * keep

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return ctx.pattern.reduce(gradient * weight).float(), None, None, None


class MaskedLinear(nn.Module):
    """A drop-in for `nn.Linear` with frozen weights and learned scores.

    Attributes:
        weight: frozen, dequantised `(o, i)`.
        bias: `(o)`, frozen unless the task trains it, or None.
        score: learned; of the shape that the pattern gives it, `(o, i)` for a score a weight.
        gain: `(o)` factors of the rows, learned, or None.
        threshold: scalar; a weight is kept where its score is above it.
        stays: bool `(o, i)`, False for weights of units that are removed, whatever their scores are; None: there are none.
        drawn: draws the uniform numbers of a training step, which keeps each weight with probability
            `sigmoid(score)`; None: a threshold decides.
        pattern: what a score stands for.
        rounding: of an exported graph, while it is simulated; else None.
    """

    weight: Tensor
    threshold: Tensor

    def __init__(
        self,
        linear: nn.Linear,
        *,
        start: float | Tensor,
        drawn: Draw | None = None,
        gains: bool = False,
        pattern: MaskPattern = PATTERNS["weight"],
    ) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("threshold", self.weight.new_zeros(()))
        self.bias = linear.bias
        score = self.weight.new_empty(pattern.score_shape(self.weight.shape))
        self.score = nn.Parameter(score.copy_(torch.as_tensor(start)))
        self.gain = nn.Parameter(self.weight.new_ones(len(self.weight))) if gains else None
        self.drawn, self.pattern = drawn, pattern
        self.stays: Tensor | None = None
        self.rounding: LinearRounding | None = None
        self._narrow: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        if self.rounding is None:
            frozen = self._working_weight()
        else:
            frozen, inputs = self.rounding.weight, self.rounding.inputs(inputs)
        weight = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            self.score, frozen, self._mask_like(frozen), self.pattern
        )
        if self.gain is None:
            return functional.linear(inputs, weight, self.bias)
        outputs = functional.linear(inputs, weight) * self.gain
        return outputs if self.bias is None else outputs + self.bias

    def keep(self) -> Tensor:
        """The mask as bool `(o, i)`. Weights that are already 0 count as kept; they cost no bit.

        Those of units that are removed do not count as kept: a full mask has all zeros of a task.
        """
        kept = self.score.detach() > self.threshold
        mask = self.pattern.expand(kept, self.weight.shape) | (self.weight == 0)
        return mask if self.stays is None else mask & self.stays

    @torch.no_grad()
    def remove_units(self, stays: Tensor) -> None:
        """Make the weights 0 for which `stays (o, i)` is False, for good: no gradient reaches their scores any more."""
        self.stays = stays.to(self.weight.device)
        self.weight.masked_fill_(~self.stays, 0.0)
        self._narrow = None

    def alive(self) -> Tensor | None:
        """Which scores stand for a weight that no removed unit has, bool in their shape; None: all of them."""
        if self.stays is None:
            return None
        return self.pattern.reduce(self.stays.to(self.weight.dtype)) > 0

    def live_scores(self) -> Tensor:
        """Scores that stand for a weight other than zero, flat; the other scores are ignored."""
        live = self.pattern.reduce((self.weight != 0).to(self.weight.dtype)) > 0
        return self.score.detach()[live]

    def _mask_like(self, weight: Tensor) -> Tensor:
        """The mask as ones and zeros of the weight's own type, which is five times as fast as bool."""
        score = self.score.detach()
        mask = torch.empty_like(score, dtype=weight.dtype)
        if self.drawn is not None and self.training:
            torch.lt(self.drawn(score), torch.sigmoid(score), out=mask)
        else:
            torch.gt(score, self.threshold, out=mask)
        return self.pattern.expand(mask, weight.shape)

    def _working_weight(self) -> Tensor:
        """The frozen weights in the arithmetic of the step; a narrow copy is made once."""
        device = self.weight.device.type
        if not torch.is_autocast_enabled(device):
            return self.weight
        if self._narrow is None:
            self._narrow = self.weight.to(torch.get_autocast_dtype(device))
        return self._narrow


def mask_linears(
    base: nn.Module,
    starts: Mapping[str, float | Tensor],
    *,
    drawn: Callable[[int, Tensor], Tensor] | None = None,
    gains: bool = False,
    pattern: MaskPattern = PATTERNS["weight"],
) -> dict[str, MaskedLinear]:
    """Replace the linears whose weights are named in `starts`, in place, and freeze all other parameters.

    Args:
        base: the base model; modified.
        starts: parameter name, such as `encoder.layer.0.output.dense.weight`, -> first scores:
            `(o, i)`, or one number for all.
        drawn: of the number of a linear and its scores: what draws its mask bits, see `MaskedLinear`.
        gains: whether rows get learned factors.
        pattern: what a score stands for.

    Returns:
        Parameter name -> the masked linear.
    """
    base.requires_grad_(requires_grad=False)
    masked = {}
    for number, (name, start) in enumerate(starts.items()):
        draw = None if drawn is None else partial(drawn, number)
        make = partial(MaskedLinear, start=start, drawn=draw, gains=gains, pattern=pattern)
        masked[name] = swap_linear(base, name, make)
    return masked


def count_zeros(layers: Sequence[MaskedLinear]) -> MaskCount:
    """Size of the mask now."""
    with torch.no_grad():
        zeros = sum(int((~layer.keep()).sum()) for layer in layers)
    return MaskCount(sum(layer.weight.numel() for layer in layers), zeros)
