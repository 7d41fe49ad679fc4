"""The rounding of int8 graphs in training, so that masks, head and biases settle on the arithmetic that runs.

An int8 graph (`exporters/arithmetic/int8.py`) brings the activations of a linear to whole numbers of 0 to 255 in every
run, with one scale and one zero point for the tensor, as ONNX's DynamicQuantizeLinear defines them:

    scale = (max(x, 0) - min(x, 0)) / 255        zero = round(-min(x, 0) / scale)
    q     = clip(round(x / scale) + zero, 0, 255)

and multiplies them by 8-bit weights of one scale a row. Here the same values are floats: inputs `(q - zero) * scale`,
after the division of outlier channels, and weights `code * scale`, which the mask multiplies as it does otherwise
(Jacob et al. 2018, arXiv 1712.05877). The backward pass treats rounding as the identity (straight-through, Bengio et al.
2013), and the scale as a constant. The frozen weights are rounded once.

All linears of the backbone round, with a mask or without; head, embeddings, LayerNorms and products of attention are
floats in the graph and here. The scale is that of the rows which are computed together: of one part of a step in one process.
Channels of removed units do not count, as in graphs that leave them out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.formats import Backbone, QuantTensor
from maskpack.formats.channels import Divisors, channel_weights
from maskpack.models.linears import swap_linear

_LOG = logging.getLogger(__name__)

_LEVELS = 255  # steps between the smallest and the largest value of a uint8


class _Rounded(torch.autograd.Function):
    """`inputs * factor` on the grid of a uint8; the gradient passes the rounding unchanged."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.factor, ctx.dtype = factor, inputs.dtype
        even = inputs.float() if factor is None else inputs.float() * factor
        low, high = torch.aminmax(even)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low) / _LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = (-low / scale).round_()
        whole = (even / scale).round_().clamp_(max=_LEVELS - zero)
        return whole.mul_(scale).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient if ctx.factor is None else gradient * ctx.factor
        return gradient.to(ctx.dtype), None, None


@dataclass(frozen=True, eq=False)
class Rounding:
    """What the int8 graph makes of one linear.

    Attributes:
        weight: `(o, i)`, codes times scales, for divided inputs, in the type that a step multiplies in.
        factor: float32 `(i)`: 1 over divisor, 0 for channels of removed units; None: 1 for all.
    """

    weight: Tensor
    factor: Tensor | None

    @classmethod
    def of(
        cls,
        tensor: QuantTensor,
        divisor: NDArray[np.float32] | None,
        *,
        stays: Tensor | None = None,
        like: Tensor,
    ) -> Rounding:
        """The rounding of a tensor of the backbone.

        Args:
            tensor: the weights, whole.
            divisor: of its input channels, `(i)`, or None.
            stays: bool `(o, i)`, False for weights of removed units; None: there are none.
            like: of the device and the type of the result.
        """
        made = channel_weights(tensor, divisor)
        weight = torch.from_numpy((made.codes * made.scales).T.copy()).to(like)
        factor = None
        if divisor is not None:
            factor = torch.from_numpy(np.float32(1) / divisor).to(like.device)
        if stays is not None and not bool(stays.all()):
            weight.masked_fill_(~stays, 0.0)
            alive = stays.any(dim=0).to(torch.float32)
            factor = alive if factor is None else factor * alive
        return cls(weight, factor)

    def inputs(self, inputs: Tensor) -> Tensor:
        """`(..., i)` divided and rounded, in the type of the weight."""
        rounded: Tensor = _Rounded.apply(inputs, self.factor, self.weight.dtype)  # type: ignore[no-untyped-call]
        return rounded


class UnmaskedLinear(nn.Linear):
    """A linear of the backbone that the task leaves alone.

    Attributes:
        rounding: of the int8 graph, while it is simulated; else None.
    """

    rounding: Rounding | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> UnmaskedLinear:
        """The same linear, with the same parameters."""
        made = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        if self.rounding is None:
            return super().forward(inputs)
        return functional.linear(self.rounding.inputs(inputs), self.rounding.weight, self.bias)


class SimulatedRounding(TrainerCallback):
    """Turns rounding on in the last steps of a run, and off between them: evaluations are those of the float model.

    Args:
        base: the base model; its linears without a mask are replaced, in place.
        masked: parameter name -> masked linear.
        backbone: the integers of all linears.
        divisors: of outlier channels, by parameter name.
        first: step, from 0, in which rounding begins.
        dtype: in which a step multiplies.
    """

    def __init__(
        self,
        base: nn.Module,
        masked: Mapping[str, MaskedLinear],
        backbone: Backbone,
        divisors: Divisors,
        *,
        first: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._linears: dict[str, MaskedLinear | UnmaskedLinear] = {
            name: masked[name] if name in masked else swap_linear(base, name, UnmaskedLinear.of)
            for name in backbone.linears
        }
        self._backbone, self._divisors, self._dtype = backbone, divisors, dtype
        self.first = first
        self._made: dict[str, Rounding] = {}

    def on_step_begin(self, step: int) -> None:
        """Turn rounding on from the first step on that rounds."""
        if step < self.first:
            return
        if not self._made:
            _LOG.info("from step %d on the rounding of int8 graphs is simulated", step + 1)
        for name, linear in self._linears.items():
            if name not in self._made:
                self._made[name] = self._rounding_of(name, linear)
            linear.rounding = self._made[name]

    def on_step_end(self, step: int, steps: int) -> None:
        """Turn rounding off."""
        del step, steps
        for linear in self._linears.values():
            linear.rounding = None

    def _rounding_of(self, name: str, linear: MaskedLinear | UnmaskedLinear) -> Rounding:
        return Rounding.of(
            self._backbone.linears[name],
            self._divisors.get(name),
            stays=linear.stays if isinstance(linear, MaskedLinear) else None,
            like=linear.weight.new_empty(0, dtype=self._dtype),
        )
