"""Train the codes of a quantised backbone to copy the float model on unlabelled text.

Below 4 bits rounding each layer by itself is not enough: errors of the layers add up. Here all codes
are learned together, against the hidden states of the float model after every layer (as in
TernaryBERT, Zhang et al. 2020, arXiv 2009.12812, and BinaryBERT, Bai et al. 2021, arXiv 2012.15701,
but without labels or a task, so that all tasks can share the backbone):

    forward    w' = s * level(w / s),   s = c * mean |w| of the group
    backward   the gradient of w' goes to w (straight-through) and, through s, to the whole group

Biases and LayerNorm parameters are learned along with the codes; they belong to the backbone too. So are the rows of a table of tokens
below 8 bits whose tokens the text has (`learned_rows.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskpack.compressor.quantization.calibration import Calibration
from maskpack.compressor.quantization.learned_rows import RoundedTable
from maskpack.compressor.quantization.quantize import to_half, token_table
from maskpack.compressor.quantization.rounding import Levels, encode
from maskpack.compressor.training.loss import HiddenStateTeacher, distance, states_of
from maskpack.compressor.training.progress import OnProgress, Progress
from maskpack.compressor.training.train import FlooredAdam, Plan, planned_batches
from maskpack.formats import Backbone, ConfigError, QuantTensor
from maskpack.formats.errors import Hint
from maskpack.models.linears import swap_linear
from maskpack.models.placement import Placement, to_numpy, to_tensors
from maskpack.tasks.batches import EncodedTokens

_BATCH = 32
_LR = 1e-3
_WARMUP = 0.1
_LEAST_SCALE = 2.0**-14  # smallest normal float16

# scale over mean magnitude of least squared error on normal weights; mse's grid gives the same
_SCALE_OF_MEAN = {1: 1.0, 2: 0.6246}


class _Rounded(torch.autograd.Function):
    """`scale * level(weight / scale)`; the weight gets the gradient of the result (straight-through)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, limit: int) -> Tensor:
        level = (2 * torch.floor(weight / (2 * scale)) + 1).clamp_(-limit, limit)
        ctx.save_for_backward(level)
        return level * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (level,) = ctx.saved_tensors
        return gradient, (gradient * level).sum(dim=-1, keepdim=True), None


class RoundedLinear(nn.Module):
    """A linear that computes with zero-free codes of its float weights.

    Attributes:
        weight: learned `(o, i)`.
        bias: learned `(o)`, or None.
        group: inputs that share a scale.
        bits: width of a code.
    """

    _present: Tensor

    def __init__(self, linear: nn.Linear, *, bits: int, group: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.bits, self.group = bits, group
        width = self.weight.shape[1]
        sizes = [min(group, width - start) for start in range(0, width, group)]
        self.register_buffer("_present", self.weight.new_tensor(sizes))

    def scales(self) -> Tensor:
        """`(o, g)`, from the weights."""
        means = self._blocks().abs().sum(dim=-1) / self._present
        return _SCALE_OF_MEAN[self.bits] * means + _LEAST_SCALE

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., i)` to `(..., o)`."""
        limit = Levels(self.bits, zero_free=True).limit
        rounded = _Rounded.apply(  # type: ignore[no-untyped-call]
            self._blocks(), self.scales()[:, :, None], limit
        )
        weight = rounded.flatten(1)[:, : self.weight.shape[1]]
        return functional.linear(inputs, weight, self.bias)

    def _blocks(self) -> Tensor:
        """The weights by groups, `(o, g, group)`; a short last group is filled with zeros."""
        missing = -self.weight.shape[1] % self.group
        padded = functional.pad(self.weight, (0, missing)) if missing else self.weight
        return padded.view(self.weight.shape[0], -1, self.group)

    def freeze(self) -> QuantTensor:
        """Its codes and scales."""
        weight = to_numpy(self.weight)
        levels = Levels(self.bits, zero_free=True)
        return encode(weight, to_numpy(self.scales()), levels, self.group)


def refine(
    base: nn.Module,
    backbone: Backbone,
    calibration: Calibration,
    *,
    steps: int,
    placement: Placement,
    on_progress: OnProgress = lambda _: None,
) -> Backbone:
    """Learn codes, biases and LayerNorm parameters of `backbone` against `base`.

    Args:
        base: the float encoder; not modified.
        backbone: its quantised form; zero-free linears are learned, and rows of a narrow table of tokens; others stay as they are.
        calibration: the text.
        steps: optimiser steps.
        placement: where and in which arithmetic.
        on_progress: called after every step, for progress bars.
    """
    teacher = HiddenStateTeacher(placement.put(copy.deepcopy(base).float().eval()), 1.0)
    student = copy.deepcopy(teacher.model)
    rounded = _round_linears(student, backbone)
    tables = _round_table(student, base, backbone, calibration)
    plan = Plan(steps, _BATCH, _WARMUP, 0)
    optimizer = FlooredAdam([{"params": _learned(student, rounded, tables), "lr": _LR}])
    for step, rows in planned_batches(calibration.encoded.lengths, plan):
        optimizer.set_rates(plan.rate(step))
        feeds = to_tensors(calibration.encoded.feeds(rows), student)
        loss = _distance(student, teacher, feeds, placement)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_progress(
            Progress(step + 1, steps, float(loss.detach()), "distance", None, None, "backbone")
        )
    parameters = dict(student.named_parameters())
    linears = {**backbone.linears, **{name: layer.freeze() for name, layer in rounded.items()}}
    halves = {n: to_half(n, to_numpy(parameters[n])) for n in backbone.dense}
    embeddings = {**backbone.embeddings, **{name: one.freeze() for name, one in tables.items()}}
    return replace(backbone, linears=linears, embeddings=embeddings, dense=halves)


_PER_WEIGHT = 8  # bytes: the float model and its copy that learns
_PER_LEARNED = 20  # more: gradient, both moments, and level and rounded value until the step's gradients are there


def refinement_bytes(values: int, learned: int) -> int:
    """Memory that `refine` takes at least, beside the activations of a batch.

    Args:
        values: parameters of the encoder.
        learned: those of linears whose codes are learned.
    """
    return values * _PER_WEIGHT + learned * _PER_LEARNED


def check_memory(model: str, values: int, learned: int, available: int | None) -> None:
    """Raise ConfigError unless there is memory for `refine`.

    Args:
        model: its name.
        values: parameters of the encoder.
        learned: those of linears whose codes are learned.
        available: bytes; None: nobody knows.
    """
    needed = refinement_bytes(values, learned)
    if available is not None and needed > available:
        raise ConfigError(
            f"refining `{model}` trains all its layers together and takes {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available",
            Hint(
                "quantise without it (`refine` 0), give 4 bits, or use a machine with more memory"
            ),
        )


def refinable(backbone: Backbone, base: Any = None) -> bool:
    """Whether there is a linear whose codes `refine` would learn, or rows of the table of `base`'s tokens."""
    narrow = base is not None and _narrow_table(base, backbone) is not None
    return narrow or any(tensor.zero_free for tensor in backbone.linears.values())


def _narrow_table(base: Any, backbone: Backbone) -> str | None:
    """The table of tokens, if it is narrow and does nothing but look rows up: some families scale what they find."""
    name = token_table(base)
    if name is None or name not in backbone.embeddings:
        return None
    plain = type(base.get_input_embeddings()) is nn.Embedding
    return name if plain and backbone.embeddings[name].bits != 8 else None


def _round_linears(student: nn.Module, backbone: Backbone) -> dict[str, RoundedLinear]:
    """Replace the linears that are learned, starting at the float weights; others, and tables, get the backbone's weights."""
    rounded = {}
    parameters: Mapping[str, nn.Parameter] = dict(student.named_parameters())
    with torch.no_grad():
        for name, tensor in backbone.embeddings.items():
            parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
        for name, tensor in backbone.linears.items():
            if tensor.zero_free:
                make = partial(RoundedLinear, bits=tensor.bits, group=tensor.group)
                rounded[name] = swap_linear(student, name, make)
            else:
                parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
    return rounded


def _round_table(
    student: Any, base: nn.Module, backbone: Backbone, calibration: Calibration
) -> dict[str, RoundedTable]:
    """Replace the table of tokens if its rows can be learned; by name, none or one."""
    name, encoded = _narrow_table(base, backbone), calibration.encoded
    if name is None or not isinstance(encoded, EncodedTokens):
        return {}
    table, module = backbone.embeddings[name], student.get_input_embeddings()
    rows = np.unique(np.concatenate([np.asarray(row) for row in encoded.ids]))
    weight = dict(base.named_parameters())[name].detach().float().to(module.weight.device)
    rounded = RoundedTable(weight, table, rows.astype(np.int64))
    student.set_input_embeddings(rounded)
    return {name: rounded}


def _learned(
    student: nn.Module,
    rounded: Mapping[str, RoundedLinear],
    tables: Mapping[str, RoundedTable],
) -> list[nn.Parameter]:
    """Freeze all but the rounded weights, biases and LayerNorm parameters; return these."""
    weights = {id(layer.weight) for layer in (*rounded.values(), *tables.values())}
    for parameter in student.parameters():
        parameter.requires_grad = parameter.ndim == 1 or id(parameter) in weights
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


def _distance(
    student: nn.Module, teacher: HiddenStateTeacher, feeds: dict[str, Tensor], placement: Placement
) -> Tensor:
    """Distance of the student's states of a batch from the teacher's."""
    with placement.training():
        wanted = teacher.states(feeds)
        states = states_of(student(**feeds, output_hidden_states=True), feeds)
    return distance(states, wanted)
