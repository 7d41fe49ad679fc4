"""How long a graph takes, from the numbers of its heads and neurons: a linear model, measured once. Numpy and JSON alone.

A graph's time is that of everything outside its layers and that of two sub-layers in each layer:

    ms = outside + sum over layers (attention + heads * head) + (feed_forward + neurons * neuron)

A sub-layer whose last unit is gone is a bias in the graph and costs nothing here. A graph with all units has matrices of other
sizes than learned ones, and kernels are fast for some sizes. So its time is a number of its own, to which speeds refer: never
more than that of all parts. `UnitCosts` is that model for one shape, as `compress costs` measures it. `UnitRates` says the same
for any shape, less exactly: what a head or a neuron costs follows from its multiply-adds and from the values that are moved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from maskpack.formats.errors import ConfigError
from maskpack.formats.units import UnitCount

_KIND = "maskpack unit costs"
_VERSION = 1
_RATES = "unit_rates.json"
_MOST = 2**40  # units, weights or anything else of a shape
_ROUNDING = 1e-9
_LEAST = 1e-9  # ms, of a graph whose time is not known yet
_MEASURE = "measure one with `unit_costs_of`"


@dataclass(frozen=True)
class UnitShape:
    """What a cost model must know of an encoder.

    Attributes:
        layers: that have units of their own.
        uses: how often each of them computes; more than once in ALBERT.
        hidden: size of the residual.
        heads, neurons: units of a layer; heads that share a key and a value are one.
        head_width: columns of a head.
        head_weights, neuron_weights: weights of a unit, in all linears.
    """

    layers: int
    uses: int
    hidden: int
    heads: int
    head_width: int
    neurons: int
    head_weights: int
    neuron_weights: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is not int or not 1 <= value < _MOST:
                raise ConfigError(f"`{each.name}` of a shape is {value!r}, expected 1 to {_MOST:,}")

    def __str__(self) -> str:
        repeated = f" used {self.uses} times" if self.uses > 1 else ""
        return (
            f"{self.layers} layers{repeated} of {self.heads} heads of {self.head_width} and {self.neurons} neurons, "
            f"hidden size {self.hidden}"
        )


@dataclass(frozen=True)
class UnitCosts:
    """Milliseconds of the parts of a graph, for one shape.

    Attributes:
        shape: of the encoder.
        compute: arithmetic of the linears.
        batch, length: of the input.
        threads: of an operator.
        outside: ms of everything outside the layers.
        attention, feed_forward: fixed ms of a sub-layer.
        head, neuron: ms of a unit.
        whole: ms of the graph with all units.
        residual: root mean square of the relative errors on the graphs that it was fitted to.
        machine: that it was measured on.
    """

    shape: UnitShape
    compute: str
    batch: int
    length: int
    threads: int
    outside: float
    attention: float
    head: float
    feed_forward: float
    neuron: float
    whole: float
    residual: float
    machine: str

    def __post_init__(self) -> None:
        for name in ("batch", "length", "threads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"`{name}` of unit costs is {value!r}, expected 1 or more")
        for name in (*PARTS, "whole", "residual"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise ConfigError(f"`{name}` of unit costs is {value!r}, expected 0 or more")
        for name in ("compute", "machine"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"`{name}` of unit costs is no text")
        every = self.sum_of_parts
        if not (self.whole > 0 and 0 < every < math.inf):
            raise ConfigError(f"the parts of a graph take {every} ms, expected a number above 0")
        if self.whole > every * (1 + _ROUNDING):
            raise ConfigError(f"a whole graph takes {self.whole} ms, and all of its parts {every}")

    @property
    def sum_of_parts(self) -> float:
        """Milliseconds of a graph that lost a single unit, but for that unit."""
        shape = self.shape
        layer = self.saved("heads", shape.heads, left=0) + self.saved(
            "neurons", shape.neurons, left=0
        )
        return self.outside + shape.layers * layer

    def saved(self, kind: str, gone: int, *, left: int) -> float:
        """Milliseconds that are saved in a layer if some of its units go.

        Args:
            kind: of the units.
            gone: units that go.
            left: units of the kind that the layer keeps; at 0 the whole sub-layer is saved, unless nothing goes.
        """
        unit, fixed = {
            "heads": (self.head, self.attention),
            "neurons": (self.neuron, self.feed_forward),
        }[kind]
        return self.shape.uses * (gone * unit + (fixed if gone and not left else 0.0))

    def of_parts(self, counts: Iterable[UnitCount]) -> float:
        """Milliseconds of the parts that are left; layers of which nothing is said keep all units."""
        return self.sum_of_parts - sum(
            self.saved(one.kind, one.count - one.kept, left=one.kept) for one in counts
        )

    def ms(self, counts: Iterable[UnitCount]) -> float:
        """Milliseconds of a graph, never more than with all units.

        >>> shape = UnitShape(2, 1, 8, 4, 2, 16, 64, 16)
        >>> costs = UnitCosts(shape, "int8", 1, 128, 1, 1.0, 0.5, 0.25, 0.5, 0.125, 8.0, 0.0, "")
        >>> costs.ms([]), costs.ms([UnitCount("heads", 0, 4, 0), UnitCount("neurons", 1, 16, 8)])
        (8.0, 6.5)
        """
        return min(self.whole, self.of_parts(counts))

    def speedup(self, counts: Iterable[UnitCount]) -> float:
        """How many times as fast a graph with these units is as one with all units."""
        return self.whole / max(self.ms(counts), 1e-9 * self.whole)

    def to_json(self) -> str:
        """Text of a file. Inverse of `from_json`."""
        tree = {"kind": _KIND, "version": _VERSION, **asdict(self)}
        return json.dumps(tree, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, name: str) -> UnitCosts:
        """Costs from the text of a file. Inverse of `to_json`.

        Args:
            text: of the file.
            name: of the file, for errors.

        Raises:
            ConfigError: it holds something else.
        """
        tree = _tree(text, name)
        try:
            shape = UnitShape(**tree.pop("shape"))
            return cls(shape=shape, **tree)
        except (TypeError, KeyError, OverflowError) as error:
            raise ConfigError(f"`{name}` is no cost model: {error}", _MEASURE) from error
        except ConfigError as error:
            raise ConfigError(f"`{name}` is damaged: {error}", _MEASURE) from error

    @classmethod
    def read(cls, path: Path) -> UnitCosts:
        """Costs from a file.

        Raises:
            ConfigError: it cannot be read, or holds something else.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"`{path}` cannot be read as a cost model", _MEASURE) from error
        return cls.from_json(text, name=str(path))

    def check_shape(self, shape: UnitShape, *, name: str) -> None:
        """Raise ConfigError unless the costs are of this shape."""
        if self.shape != shape:
            raise ConfigError(
                f"`{name}` is a cost model of another shape: {self.shape}; the model has {shape}",
                "measure one of this model with `unit_costs_of`, or leave `unit_costs` out",
            )


PARTS = ("outside", "attention", "head", "feed_forward", "neuron")
"""The fitted numbers of `UnitCosts`."""


def _tree(text: str, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"`{name}` is no JSON of a cost model", _MEASURE) from error
    if not isinstance(tree, dict) or tree.pop("kind", None) != _KIND:
        raise ConfigError(f"`{name}` is no cost model", _MEASURE)
    version = tree.pop("version", None)
    if version != _VERSION:
        raise ConfigError(
            f"`{name}` is a cost model of version {version!r}, this release reads {_VERSION}",
            _MEASURE,
        )
    return tree


@dataclass(frozen=True)
class UnitRates:
    """Costs of any shape, from what its units compute and move. All rates are of int8 graphs and one thread.

    Attributes:
        product: ms a billion multiply-adds of linears.
        attended: ms a million values of attention's matrices, which are `batch * length^2` for a head.
        activated: ms a million values of neurons.
        attention, feed_forward, outside: ms a million values of the residual, in each sub-layer and outside of them.
        whole: time of a graph with all units over the sum of its parts.
        residual: root mean square of the relative errors on the graphs that they were fitted to.
        machine: that they were measured on.
    """

    product: float
    attended: float
    activated: float
    attention: float
    feed_forward: float
    outside: float
    whole: float
    residual: float
    machine: str

    def costs(self, shape: UnitShape, *, batch: int = 1, length: int = 128) -> UnitCosts:
        """The cost model of a shape."""
        tokens = batch * length
        values = tokens * shape.hidden / 1e6
        parts = {
            "outside": self.outside * values,
            "attention": self.attention * values,
            "head": self.product * tokens * shape.head_weights / 1e9
            + self.attended * tokens * length / 1e6,
            "feed_forward": self.feed_forward * values,
            "neuron": self.product * tokens * shape.neuron_weights / 1e9
            + self.activated * tokens / 1e6,
        }
        longer = max(1.0, self.whole)  # a graph takes no longer than all of its parts
        costs = UnitCosts(
            shape=shape,
            compute="int8",
            batch=batch,
            length=length,
            threads=1,
            whole=_LEAST,
            residual=self.residual,
            machine=self.machine,
            **{name: longer * ms for name, ms in parts.items()},
        )
        return replace(costs, whole=min(1.0, self.whole) * costs.sum_of_parts)


def default_rates() -> UnitRates:
    """The rates that ship with the package."""
    text = resources.files("maskpack.formats").joinpath(_RATES).read_text(encoding="utf-8")
    tree: Mapping[str, Any] = json.loads(text)
    return UnitRates(**tree)
