"""An encoder that holds the float weights of one layer at a time.

Each pass runs the encoder's own forward over all batches, with one layer that computes: layers before it answer with
what they gave in an earlier pass, and the first layer behind it ends the pass. So no code of an architecture is
repeated here, and what a layer sees is, bit for bit, what it sees in the whole encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from maskpack.formats import QuantTensor
from maskpack.models.linears import holder_of, layer_of
from maskpack.models.mapped import float_weight
from maskpack.models.placement import to_tensors
from maskpack.tasks.batches import Feeds

BEFORE, BEHIND = -1, 2**31
"""Numbers that stand for what lies before the first layer and behind the last one."""


class _EndOfPass(Exception):  # noqa: N818 - no error
    """A layer behind the one that computes was called."""


class LayerwiseEncoder:
    """A copy of an encoder whose layers are filled when they compute.

    Args:
        base: the encoder; its parameters are shared, and it is not modified.
        batches: what it reads.

    Attributes:
        model: the copy; parameters outside its layers are there in float32.
    """

    def __init__(self, base: nn.Module, batches: Sequence[Feeds]) -> None:
        self._source = dict(base.named_parameters())
        shared: dict[int, Any] = {id(one): one for one in self._source.values()}
        self.model: nn.Module = copy.deepcopy(base, shared).eval()
        self._batches = batches
        self._quantized: dict[str, QuantTensor] = {}
        self._places = _places(self.model)
        self._outputs: list[Any] = [None] * len(batches)  # of the last layer that was kept
        self._layer, self._index, self._keep, self._kept = BEFORE, 0, False, BEFORE
        self._numbers = sorted({one for one in map(layer_of, self._source) if one is not None})
        for path, number in {holder_of(name): layer_of(name) for name in self._source}.items():
            if number is not None:
                _wrap(self.model.get_submodule(path), partial(self._forward, number))
        for name in self._source:
            if layer_of(name) is None:
                self._put(name)

    def settle(self, tensors: Mapping[str, QuantTensor]) -> None:
        """From now on compute with these weights."""
        self._quantized.update(tensors)
        for name in tensors:
            if layer_of(name) is None:
                self._put(name)

    def advance(self, layer: int) -> None:
        """Keep what the layers before this one give with the weights that they have by now, for later passes."""
        for number in self._numbers:
            if self._kept < number < layer:
                self._pass(number, lambda _: None, keep=True)
                self._kept = number

    def run(self, layer: int, before: Callable[[dict[str, Tensor]], None]) -> None:
        """Pass every batch through one layer; those before it must have been passed by `advance`.

        Args:
            layer: its number, `BEFORE` or `BEHIND`.
            before: called with each batch before it is passed.
        """
        self._pass(layer, before, keep=False)

    @torch.no_grad()
    def _pass(self, layer: int, before: Callable[[dict[str, Tensor]], None], *, keep: bool) -> None:
        own = [name for name in self._source if layer_of(name) == layer]
        for name in own:
            self._put(name)
        self._layer, self._keep = layer, keep
        for index, feeds in enumerate(self._batches):
            self._index = index
            inputs = to_tensors(feeds, self.model)
            before(inputs)
            with suppress(_EndOfPass):
                self.model(**inputs)
        for name in own:
            self._set(name, self._source[name])

    def _forward(self, number: int, compute: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        """What a layer answers in this pass."""
        if number > self._layer:
            raise _EndOfPass
        if number < self._layer:
            return self._outputs[self._index]
        outputs = compute(*inputs, **named)
        if self._keep:
            self._outputs[self._index] = (
                outputs  # a layer that is used several times leaves its last ones
            )
        return outputs

    def _put(self, name: str) -> None:
        """Fill a parameter with its float32 values."""
        tensor = self._quantized.get(name)
        value = float_weight(self._source[name])
        if tensor is not None:
            value = torch.from_numpy(tensor.dequantize())
        self._set(name, nn.Parameter(value, requires_grad=False))

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        for module, leaf in self._places[name]:
            setattr(module, leaf, parameter)


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Name of each parameter -> modules that hold it, and its name there. Buffers become float32, as a whole model's would."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names.values()}
    for module in model.modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            places[names[id(parameter)]].append((module, leaf))
        for leaf, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, leaf, buffer.float())
    return places


def _wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let `forward(compute, ...)` answer for a module."""
    module.forward = partial(forward, module.forward)
