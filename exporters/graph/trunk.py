"""A traced classifier in two parts: a trunk, from tokens to hidden states, and a top, from there to logits.

The cut is made before weights become integers. Hidden states are an output of the traced graph, so that one rule fits every
family: the trunk is what the states behind some layers depend on, the top is what the logits depend on besides. Nodes that read
the inputs for both, as those of the attention mask do, are in both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import onnx_ir as ir
from onnx_ir.passes import common

from maskpack.exporters.graph.trace import STATE, state_name
from maskpack.models.families import Family
from maskpack.runtime.task import HIDDEN

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the graphs of one encoder.

    Attributes:
        cut: a traced graph with the states of every layer -> the part of it; changes the graph.
        held: names inside the encoder of the parameters that the part holds.
    """

    cut: Callable[[ir.Model], ir.Model]
    held: frozenset[str]

    def only(self, parameters: Mapping[str, Value], base: str) -> dict[str, Value]:
        """Those parameters, by name inside the classifier, that the part holds."""
        held = {f"{base}.{name}" for name in self.held}
        return {name: one for name, one in parameters.items() if name in held}


class Split:
    """Where the graphs of one encoder can be cut.

    Args:
        model: of `trace`, with states.
        prefix: of the names of the encoder's parameters in it.
        family: the architecture.

    Attributes:
        layers: of the encoder.
    """

    def __init__(self, model: ir.Model, prefix: str, family: Family) -> None:
        self._graph, self._prefix, self._family = model.graph, prefix, family
        self.layers = len(model.graph.outputs) - len(_own(model.graph))

    def trunk(self, layers: int) -> Part:
        """The part that computes the hidden states behind so many layers, 1 or more."""
        states = _states(self._graph, layers, self._family)
        cut = partial(_trunk, layers=layers, family=self._family)
        return Part(cut, self._parameters(states, None))

    def top(self, layers: int) -> Part:
        """The part that computes the logits from those states."""
        states = _states(self._graph, layers, self._family)
        cut = partial(_top, layers=layers, family=self._family)
        return Part(cut, self._parameters(_own(self._graph)[0], states))

    def _parameters(self, value: ir.Value, stop: ir.Value | None) -> frozenset[str]:
        names = (name for name in _constants(value, stop) if name.startswith(self._prefix))
        return frozenset(name.removeprefix(self._prefix) for name in names)


def _trunk(model: ir.Model, layers: int, family: Family) -> ir.Model:
    states = _states(model.graph, layers, family)
    states.name, states.shape = HIDDEN, _axes(states, family)
    return _with_outputs(model, [states])


def _top(model: ir.Model, layers: int, family: Family) -> ir.Model:
    states, own = _states(model.graph, layers, family), _own(model.graph)
    model.graph.outputs[:] = own
    given = ir.Value(name=HIDDEN, shape=_axes(states, family), type=states.type)
    states.name = None
    states.replace_all_uses_with(given)
    model.graph.inputs.insert(0, given)
    return _with_outputs(model, own)


def _own(graph: ir.Graph) -> list[ir.Value]:
    """Outputs of the classifier, which stand before the states of its layers."""
    return [value for value in graph.outputs if not (value.name or "").startswith(STATE)]


def _states(graph: ir.Graph, layers: int, family: Family) -> ir.Value:
    """The states as the next layer reads them."""
    (found,) = (value for value in graph.outputs if value.name == state_name(layers))
    source = found.producer()
    if not family.time_first or source is None or source.op_type != "Transpose":
        return found
    (inner,) = source.inputs
    return found if inner is None else inner


def _axes(states: ir.Value, family: Family) -> ir.Shape:
    assert states.shape is not None
    width = states.shape[-1]
    assert isinstance(width, int)
    axes = ("sequence", "batch") if family.time_first else ("batch", "sequence")
    return ir.Shape([*axes, width])


def _with_outputs(model: ir.Model, outputs: list[ir.Value]) -> ir.Model:
    """The graph of these outputs alone, with the inputs that they read."""
    model.graph.outputs[:] = outputs
    cleaned = common.RemoveUnusedNodesPass()(model).model
    for value in [value for value in cleaned.graph.inputs if not value.uses()]:
        cleaned.graph.inputs.remove(value)
    return cleaned


def _constants(value: ir.Value, stop: ir.Value | None) -> Iterator[str]:
    """Names of the constants behind a value, without those that only another value needs."""
    seen, waiting = {stop, value}, [value]
    while waiting:
        one = waiting.pop()
        if one.is_initializer() and one.name is not None:
            yield one.name
        for source in () if (node := one.producer()) is None else node.inputs:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
