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

from maskpack.compressor.masking.gates import Compared, Gate
from maskpack.compressor.masking.patterns import WEIGHT, MaskPattern
from maskpack.formats import MaskCount
from maskpack.models.linears import swap_linear

_COMPARED = Compared()
_LEAST = 0.1  # of the usual height, of a score that stands for a weight of the mask that a run starts from


class LinearRounding(Protocol):
    """What an exported graph makes of a linear, see `rounding.py`."""

    @property
    def weight(self) -> Tensor:
        """The frozen weights as they are rounded, `(o, i)`, in the type that a step multiplies in."""

    def inputs(self, inputs: Tensor) -> Tensor:
        """Inputs `(..., i)` as they are rounded."""


class _StraightThrough(torch.autograd.Function):
    """`weight * keep`; the score gets the gradient of the mask, times a slope if there is one."""

    @staticmethod
    def forward(
        ctx: Any,
        score: Tensor,
        weight: Tensor,
        keep: Tensor,
        slope: Tensor | None,
        pattern: MaskPattern,
        gate: Gate,
    ) -> Tensor:
        del score  # only its gradient matters
        ctx.save_for_backward(weight, slope)
        ctx.pattern, ctx.gate = pattern, gate
        return weight * keep

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        weight, slope = ctx.saved_tensors
        own = ctx.pattern.reduce(gradient * weight).float()
        chained = own if slope is None else ctx.gate.chain(own, slope)
        return chained, None, None, None, None, None


class MaskedLinear(nn.Module):
    """A drop-in for `nn.Linear` with frozen weights and learned scores.

    Attributes:
        weight: frozen, dequantised `(o, i)`.
        bias: `(o)`, frozen unless the task trains it, or None.
        score: learned; of the shape that the pattern gives it, `(o, i)` for a score a weight.
        gain: `(o)` factors of the rows, learned, or None.
        threshold: scalar, or one for each score; a weight is kept where its score is above it.
        stays: bool `(o, i)`, False for weights of units that are removed, whatever their scores are; None: there are none.
        gate: how mask values follow from scores.
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
        gate: Gate = _COMPARED,
        gains: bool = False,
        pattern: MaskPattern = WEIGHT,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        self.register_buffer("threshold", self.weight.new_zeros(()))
        self.bias = linear.bias
        score = self.weight.new_empty(pattern.score_shape(self.weight.shape))
        self.score = nn.Parameter(score.copy_(torch.as_tensor(start)))
        self.gain = nn.Parameter(self.weight.new_ones(len(self.weight))) if gains else None
        self.gate, self.pattern = gate, pattern
        self.stays: Tensor | None = None
        self.rounding: LinearRounding | None = None
        self._narrow: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        if self.rounding is None:
            frozen = self._working_weight()
        else:
            frozen, inputs = self.rounding.weight, self.rounding.inputs(inputs)
        mask, slope = self._mask_like(frozen)
        weight = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            self.score, frozen, mask, slope, self.pattern, self.gate
        )
        if self.gain is None:
            return functional.linear(inputs, weight, self.bias)
        outputs = functional.linear(inputs, weight) * self.gain
        return outputs if self.bias is None else outputs + self.bias

    def keep(self) -> Tensor:
        """The mask as bool `(o, i)`. Weights that are already 0 count as kept; they cost no bit.

        Those of units that are removed do not count as kept: a full mask has all zeros of a task.
        """
        kept = torch.empty_like(self.score, dtype=torch.bool)
        self.gate.fill(kept, self.score.detach(), self.threshold, training=False)
        mask = self.pattern.expand(kept, self.weight.shape) | (self.weight == 0)
        return mask if self.stays is None else mask & self.stays

    @torch.no_grad()
    def remove_units(self, stays: Tensor) -> None:
        """Make the weights 0 for which `stays (o, i)` is False, for good: no gradient reaches their scores any more."""
        self.stays = stays.to(self.weight.device)
        self.weight.masked_fill_(~self.stays, 0.0)
        self._narrow = None

    @torch.no_grad()
    def start_removed(self, gone: Tensor, height: float) -> None:
        """Let the scores for which `gone` is True start as those of removed weights, `height` from the threshold, and others as kept."""
        if self.gate.lifts:
            self._lift(~gone & self.live(), height)
        self.score.masked_fill_(gone, self.gate.removed(height))
        if self.threshold.ndim:  # they hold the mask, see `regrow.py`
            self.threshold.copy_(torch.where(gone, torch.inf, -torch.inf))

    def _lift(self, kept: Tensor, height: float) -> None:
        """Raise scores of weights that stay above the threshold, in their order, where a ranking put some of them below it."""
        least = _LEAST * height
        if bool((self.score[kept] < least).any()):
            raised = least + (self.score + height) * ((1.0 - _LEAST) / 2.0)
            self.score.copy_(torch.where(kept, raised.clamp(min=least), self.score))

    def alive(self) -> Tensor | None:
        """Which scores stand for a weight that no removed unit has, bool in their shape; None: all of them."""
        if self.stays is None:
            return None
        return self.pattern.reduce(self.stays.to(self.weight.dtype)) > 0

    def live_scores(self) -> Tensor:
        """What is compared with a threshold, of scores that stand for a weight other than zero, flat; the others are ignored."""
        return self.gate.strength(self.score.detach())[self.live()]

    def live(self) -> Tensor:
        """Which scores stand for a weight other than zero, bool in their shape."""
        return self.pattern.reduce((self.weight != 0).to(self.weight.dtype)) > 0

    def _mask_like(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mask values `(o, i)` of the weight's own type, and their slopes in the shape of the scores."""
        score = self.score.detach()
        mask = torch.empty_like(score, dtype=weight.dtype)
        slope = self.gate.fill(mask, score, self.threshold, training=self.training)
        return self.pattern.expand(mask, weight.shape), slope

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
    gate: Callable[[int], Gate] = lambda _: _COMPARED,
    gains: bool = False,
    pattern: MaskPattern = WEIGHT,
) -> dict[str, MaskedLinear]:
    """Replace the linears whose weights are named in `starts`, in place, and freeze all other parameters.

    Args:
        base: the base model; modified.
        starts: parameter name, such as `encoder.layer.0.output.dense.weight`, -> first scores:
            `(o, i)`, or one number for all.
        gate: of the number of a linear: how its mask values follow from its scores.
        gains: whether rows get learned factors.
        pattern: what a score stands for.

    Returns:
        Parameter name -> the masked linear.
    """
    base.requires_grad_(requires_grad=False)
    masked = {}
    for number, (name, start) in enumerate(starts.items()):
        own = gate(number)
        make = partial(MaskedLinear, start=start, gate=own, gains=gains, pattern=pattern)
        masked[name] = swap_linear(base, name, make)
    return masked


def count_zeros(layers: Sequence[MaskedLinear]) -> MaskCount:
    """Size of the mask now."""
    with torch.no_grad():
        zeros = sum(int((~layer.keep()).sum()) for layer in layers)
    return MaskCount(sum(layer.weight.numel() for layer in layers), zeros)
