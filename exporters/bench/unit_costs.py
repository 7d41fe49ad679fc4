"""What heads and neurons cost: graphs of one shape with several numbers of them, timed in turns, and a linear model of their times.

Only the shape of a model counts, so that its weights are random; of an artifact with a task its own weights and its
divisors of outlier channels are taken. The graphs are the folded ones of a task that lost units, see `graph/shrink.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.graph.attention import FuseAttention
from maskpack.exporters.graph.builder import GraphBuilder, modules_of, serialize
from maskpack.exporters.graph.external_masks import FoldedMasks
from maskpack.exporters.graph.masked import masked_graph
from maskpack.exporters.graph.miniature import random_backbone
from maskpack.exporters.graph.passes import RewriteContext
from maskpack.exporters.graph.shrink import shrink
from maskpack.exporters.graph.units import Shrunk
from maskpack.exporters.options import CostRequest
from maskpack.exporters.session import Spent, make_session, quantile, random_feeds, take_turns
from maskpack.formats import Artifact, Backbone, ConfigError, is_artifact, open_artifact
from maskpack.formats.channels import Divisors
from maskpack.formats.schema import CONFIG
from maskpack.formats.unit_costs import PARTS, UnitCosts, UnitShape
from maskpack.formats.units import UnitCount, UnitGroup, Units
from maskpack.models.build import base_of
from maskpack.models.config import canonical_json, load_config
from maskpack.models.families import IMAGES, family_of
from maskpack.models.image_files import load_processor, settle_size
from maskpack.models.inputs import inputs_of
from maskpack.models.locate import resolve
from maskpack.models.outline import build_outline
from maskpack.models.units import unit_groups, unit_shape
from maskpack.tasks.context import ModelContext, described
from maskpack.tasks.types import TASK_TYPES

SHARES = (
    *((1.0, 1.0), (0.5, 1.0), (0.25, 1.0), (0.0, 1.0), (1.0, 0.5), (1.0, 0.25), (1.0, 0.0)),
    *((0.5, 0.5), (0.25, 0.25), (0.12, 0.12), (0.0, 0.0)),
)
"""Shares of heads and neurons that the graphs keep, in every layer."""

_UNDISTURBED = 0.1  # of the runs: what other programs do makes a run longer, never shorter
_FINE = 1e-5  # seconds; Windows counts processor time in steps of 16 ms
_BLOCKS = 3  # of runs, of which the quietest counts
_LABELS = ("no", "yes")

Say = Callable[[str], None]


@dataclass(frozen=True)
class TimedUnits:
    """Time of a graph.

    Attributes:
        heads, neurons: how many each layer keeps.
        ms: measured.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    ms: float

    def counts(self, shape: UnitShape) -> Iterator[UnitCount]:
        """The numbers by kind and layer."""
        for layer, kept in enumerate(self.heads):
            yield UnitCount("heads", layer, shape.heads, kept)
        for layer, kept in enumerate(self.neurons):
            yield UnitCount("neurons", layer, shape.neurons, kept)

    def amounts(self, uses: int) -> tuple[float, ...]:
        """How often each of `PARTS` is in the graph, whose layers compute `uses` times."""
        return (
            1.0,
            *(
                float(uses * number)
                for kept in (self.heads, self.neurons)
                for number in (sum(count > 0 for count in kept), sum(kept))
            ),
        )


@dataclass(frozen=True)
class MeasuredCosts:
    """A cost model, and the times that it was fitted to."""

    costs: UnitCosts
    timed: tuple[TimedUnits, ...]


@dataclass(frozen=True, eq=False)
class GraphSource:
    """What graphs are made of.

    Attributes:
        config: of a classifier.
        backbone: its weights.
        divisors: of its outlier channels.
        compute: arithmetic of the linears.
    """

    config: Any
    backbone: Backbone
    divisors: Divisors
    compute: str

    @classmethod
    def of(cls, model: str, compute: str) -> GraphSource:
        """From a folder, hub id or alias of a model, or from an artifact."""
        if is_artifact(Path(model)):
            artifact = open_artifact(Path(model))
            return cls._of_artifact(artifact, compute)
        location = resolve(model)
        config = load_config(location)
        family = family_of(config.model_type)
        if family.reads == IMAGES:
            settle_size(load_processor(location), config, family, name=model)
        return cls.of_config(canonical_json(config), compute)

    @classmethod
    def of_config(cls, config: bytes, compute: str) -> GraphSource:
        """From an encoder's `config.json`, with random weights."""
        described_by = _config_of(config)
        return cls(described_by, random_backbone(described_by), {}, compute)

    @classmethod
    def _of_artifact(cls, artifact: Artifact, compute: str) -> GraphSource:
        context, divisors = ModelContext.of_artifact(artifact), Divisors()
        if artifact.manifest.tasks:
            divisors = GraphBuilder(artifact, context, compute).divisors
        return cls(_config_of(context.files[CONFIG]), artifact.backbone, divisors, compute)

    @property
    def groups(self) -> tuple[UnitGroup, ...]:
        """Heads and neurons."""
        return unit_groups(self.config)

    def shape(self, name: str) -> UnitShape:
        """Of the model.

        Raises:
            ConfigError: it has no units.
        """
        shape = unit_shape(self.config)
        if shape is None:
            raise ConfigError(
                f"it is not known where the units of `{self.config.model_type}` lie, the architecture of `{name}`"
            )
        return shape

    def input_shape(self, request: CostRequest) -> tuple[int, int]:
        """Rows of a run, and tokens of each; an image has those of its size.

        Raises:
            ConfigError: the model reads fewer tokens than are asked for.
        """
        config, family = self.config.to_dict(), family_of(self.config.model_type)
        wanted = (request.batch, request.length, False)
        ((batch, length, _),) = inputs_of(family).shapes(family, config, [wanted])
        if family.reads != IMAGES and length < request.length:
            raise ConfigError(
                f"`length` is {request.length}, `{request.model}` reads {length} tokens",
                "give less",
            )
        return batch, length

    def graph(self, units: Units) -> bytes:
        """The folded graph without the removed units."""
        family, arithmetic = family_of(self.config.model_type), find_arithmetic(self.compute)
        shrunk = Shrunk.of(units, self.backbone.linears, arithmetic.block)
        model = build_outline(self.backbone, self.config, attention="eager")
        kept = {} if shrunk is None else modules_of(family.base, shrunk)
        if shrunk is not None:
            shrink(base_of(model), shrunk)
        context = RewriteContext(FoldedMasks({}, kept), self.divisors, shrunk=shrunk)
        graph = masked_graph(model, family, self.backbone, arithmetic, context)
        if arithmetic.fuses_attention:
            FuseAttention()(graph)
        return serialize(graph)


def _config_of(data: bytes) -> Any:
    """Configuration of a classifier of what the encoder reads."""
    reads = family_of(json.loads(data)["model_type"]).reads
    kind = next(one for one in TASK_TYPES.values() if one.reads == reads)  # a classification
    config = described(data, kind, _LABELS)
    if config.pad_token_id is None:
        config.pad_token_id = 0  # as `settle_padding` sees to it for a whole model
    return config


def unit_costs_of(request: CostRequest, *, say: Say = lambda _: None) -> MeasuredCosts:
    """Measure what the units of a model cost.

    Args:
        request: the model, and how to measure.
        say: called with a line of progress.

    Raises:
        MaskpackError: there is no such model, or it has no units.
    """
    before, source = load_average(), GraphSource.of(request.model, request.compute)
    shape, (batch, length) = source.shape(request.model), source.input_shape(request)
    request = replace(request, length=length)
    timed = time_units(source, uniform(source.groups), request, say=say)
    numbers, residual = fitted(shape, timed)
    machine = this_machine(before)
    said = f"{machine.cpu}, onnxruntime {machine.onnxruntime}, {machine.system}"
    costs = UnitCosts(
        shape=shape,
        compute=request.compute,
        batch=batch,
        length=length,
        threads=request.threads,
        residual=residual,
        machine=said,
        **numbers,
    )
    return MeasuredCosts(costs, timed)


def uniform(groups: Sequence[UnitGroup]) -> list[Units]:
    """Units that keep a share of `SHARES` in every layer: none, or an odd number as learned ones are."""

    def bits(group: UnitGroup, share: float) -> NDArray[np.bool_]:
        kept = group.count if share == 1 else round(share * group.count)
        odd = kept - 1 if group.count > 64 and 2 < kept < group.count and not kept % 2 else kept
        return np.arange(group.count) < (max(1, odd) if share else 0)

    return [
        Units(tuple(groups), tuple(bits(g, heads if g.kind == "heads" else rest) for g in groups))
        for heads, rest in SHARES
    ]


def time_units(
    source: GraphSource, choices: Sequence[Units], request: CostRequest, *, say: Say
) -> tuple[TimedUnits, ...]:
    """Time a graph for each choice of units, in turns in one process."""
    sessions: dict[str, Any] = {}
    for number, units in enumerate(choices, start=1):
        say(f"graph {number} of {len(choices)}")
        sessions[str(number)] = make_session(source.graph(units), threads=request.threads)
    size = {"batch": request.batch, "length": request.length}
    if (vocabulary := getattr(source.config, "vocab_size", None)) is not None:
        size["vocabulary"] = int(vocabulary)
    feeds = {name: random_feeds(each, **size) for name, each in sessions.items()}
    blocks = []
    for number in range(1, _BLOCKS + 1):
        say(f"{request.runs} runs of each, {number} of {_BLOCKS}")
        blocks.append(take_turns(sessions, feeds, runs=request.runs))
    # what disturbs one graph of a block disturbs all: figures of different blocks are not mixed
    spent = min(blocks, key=lambda block: sum(quantile(one.wall, 0.5) for one in block.values()))
    return tuple(
        TimedUnits(
            heads=tuple(one.kept for one in units.counts() if one.kind == "heads"),
            neurons=tuple(one.kept for one in units.counts() if one.kind == "neurons"),
            ms=quantile(_times(times, request.threads), _UNDISTURBED),
        )
        for units, times in zip(choices, spent.values(), strict=True)
    )


def _times(spent: Spent, threads: int) -> Sequence[float]:
    """Milliseconds of runs: of the processor where one thread works, since other programs interrupt long runs most."""
    fine = time.get_clock_info("process_time").resolution < _FINE
    return spent.cpu if threads == 1 and fine else spent.wall


def fitted(shape: UnitShape, timed: Sequence[TimedUnits]) -> tuple[Mapping[str, float], float]:
    """The numbers of a cost model, and the root mean square of its relative errors.

    Args:
        shape: of the model.
        timed: the graph with all units, whose time is a number by itself, then those that the parts are fitted to.
    """
    whole, *others = timed
    rows = np.array([each.amounts(shape.uses) for each in others])
    found, residual = least_squares(rows, np.array([each.ms for each in others]))
    every = float(np.array(whole.amounts(shape.uses)) @ found)
    # a graph takes no longer than all of its parts
    longer = max(1.0, whole.ms / every) if every > 0 else 1.0
    return {**dict(zip(PARTS, (longer * found).tolist(), strict=True)), "whole": whole.ms}, residual


def least_squares(
    features: NDArray[np.float64], times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Numbers of 0 or more with the least sum of squared relative errors, and the root mean square of these errors.

    What would be below 0 is 0, and the others are fitted again: nothing that is computed saves time.

    >>> found, residual = least_squares(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 5.0, 8.0]))
    >>> found.round(6).tolist(), round(residual, 6)
    ([2.0, 3.0], 0.0)
    """
    scaled = features / times[:, None]
    used = np.ones(features.shape[1], dtype=np.bool_)
    found = np.zeros(features.shape[1])
    while used.any():
        found[:] = 0.0
        found[used] = np.linalg.lstsq(scaled[:, used], np.ones(len(times)), rcond=None)[0]
        if (found >= 0).all():
            break
        used &= found > 0
    return found, float(np.sqrt(np.mean(np.square(scaled @ found - 1.0))))
