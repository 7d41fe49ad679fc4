"""The graphs of an artifact's tasks: trace a classifier, put masked integers in place of its floats, write it.

Scales and divisors of outlier channels are derived from the
whole backbone. So they are the same for all tasks, and a task's graph is the same function in every layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.arithmetic.base import Arithmetic
from maskpack.exporters.graph import store
from maskpack.exporters.graph.attention import FuseAttention
from maskpack.exporters.graph.external_masks import (
    EXTERNAL_MASKS,
    FoldedMasks,
    Form,
    Masks,
    NoMasks,
    Removed,
)
from maskpack.exporters.graph.masked import masked_graph, under
from maskpack.exporters.graph.opset import in_opset
from maskpack.exporters.graph.passes import RewriteContext
from maskpack.exporters.graph.positions import CutPositions
from maskpack.exporters.graph.shrink import GatherBiases, shrink, whole_biases
from maskpack.exporters.graph.store import (
    Scratch,
    constant_bytes,
    in_memory,
    move_beside,
    scratch_in,
)
from maskpack.exporters.graph.trace import PREFIX, trace
from maskpack.exporters.graph.trunk import Part, Split
from maskpack.exporters.graph.units import Kept, Shrunk
from maskpack.exporters.options import OPSET
from maskpack.formats import Artifact, Backbone, ExportError, TaskEntry
from maskpack.formats.channels import Divisors
from maskpack.formats.errors import Hint
from maskpack.formats.units import Units
from maskpack.formats.writer import write_bytes
from maskpack.models.build import base_of, head_parameters
from maskpack.models.outline import build_outline
from maskpack.models.units import own_units
from maskpack.runtime.task import GRAPH_DATA
from maskpack.tasks.context import (
    ModelContext,
    backbone_for,
    outline_task,
    task_config,
)
from maskpack.tasks.peaks import measure_divisors
from maskpack.tasks.types import may_use_pooler

MOST_BYTES = 2**31
"""Bytes that a protobuf message must stay below."""


class GraphBuilder:
    """Makes graphs of the tasks of one artifact.

    Args:
        artifact: the artifact.
        context: of its encoder.
        compute: name of the arithmetic of the linears.
        narrow: whether codes narrower than a byte keep their width in graphs with their masks beside the codes.
        opset: of the graphs.
        fused: whether batches without padding take ONNX Runtime's attention operator, where the arithmetic is for CPUs.
        trunk_layers: layers of a trunk that tasks share, where a layout has one; None: as many as the tasks allow.
        cut: whether folded graphs leave out rows of tables that no text of the task reaches.

    Attributes:
        base: attribute of the classifier that holds the encoder.
    """

    def __init__(
        self,
        artifact: Artifact,
        context: ModelContext,
        compute: str,
        *,
        narrow: bool = False,
        opset: int = OPSET,
        fused: bool = True,
        trunk_layers: int | None = None,
        cut: bool = False,
    ) -> None:
        self.artifact, self.context, self._narrow = artifact, context, narrow
        self.opset, self._fused, self.trunk_layers = opset, fused, trunk_layers
        self._cut = cut
        self._arithmetic = find_arithmetic(compute)
        self.base = context.family.base
        self._some = usual_entry(artifact)
        self._scratch: Scratch | None = None

    @contextmanager
    def constants_in(self, folder: Path) -> Iterator[None]:
        """Constants of graphs of a large backbone lie in a scratch file in `folder` until the block ends."""
        needed = self.artifact.backbone.is_large
        with scratch_in(folder, needed=needed) as self._scratch:
            yield
        self._scratch = None

    @cached_property
    def _bare(self) -> Any:
        """A classifier without integer weights and with a head of no task."""
        config = task_config(self.artifact, self._some)
        return build_outline(self.artifact.backbone, config, attention="eager")

    @cached_property
    def heads(self) -> frozenset[str]:
        """Constants of a graph that are parameters of the head.

        Their names do not suffice: a base may be called `model`, which is also the tracer's prefix.
        """
        return frozenset(f"{PREFIX}{name}" for name in head_parameters(self._bare))

    def heads_of(self, entries: Iterable[TaskEntry]) -> frozenset[str]:
        """The same of some tasks, whose heads may be of several types."""
        patches = (self.artifact.patch(entry.name) for entry in entries)
        return frozenset(f"{PREFIX}{name}" for patch in patches for name in patch.head)

    @cached_property
    def divisors(self) -> Divisors:
        """Divisors of outlier channels: the artifact's own, else measured on the backbone; none for float arithmetic."""
        if not self._arithmetic.divides:
            return {}
        stored = self.artifact.divisors
        if stored is None:
            config = task_config(self.artifact, self._some)
            preprocessor = self.context.preprocessor()
            stored = measure_divisors(self.artifact.backbone, config, preprocessor)
        return under(self.base, stored)

    def folded(self, entry: TaskEntry) -> ir.Model:
        """The graph of a task with its masked weights, without those of removed units."""
        shrunk = self.shrunk(entry)
        masks = FoldedMasks(self._removed(entry), self._kept(shrunk))
        graph = self._of_task(entry, masks, shrunk)
        if self._cut:
            CutPositions(entry.max_length)(graph)
        return graph

    def with_external_masks(
        self,
        entry: TaskEntry,
        removed: Removed,
        form: Form,
        shrunk: Shrunk | None = None,
        part: Part | None = None,
    ) -> ir.Model:
        """The graph of a task with the backbone's weights and its masks, `removed`, beside them.

        Args:
            entry: the task.
            removed: weights that the masks remove, by module.
            form: encoding of the masks.
            shrunk: what the graph takes of the weights; None: everything.
            part: of the graph; None: the whole one.
        """
        masks = EXTERNAL_MASKS[form](removed, self._kept(shrunk))
        return self._of_task(entry, masks, shrunk, part)

    def shrunk(self, entry: TaskEntry) -> Shrunk | None:
        """What a graph needs of the linears if units of the task are gone; None: everything."""
        units = self.artifact.patch(entry.name).units
        return shrunk_of(self.artifact, units, self._arithmetic)

    def _kept(self, shrunk: Shrunk | None) -> dict[str, Kept]:
        return {} if shrunk is None else modules_of(self.base, shrunk)

    def bare(self, part: Part | None = None) -> ir.Model:
        """The same for no task, with masks that remove nothing: its encoder is the backbone's."""
        masks = EXTERNAL_MASKS[Form.FLIPS](self._nothing(self._some, part))
        return self._graph(self._bare, self._used(self._some), masks, part)

    def trunk(self, part: Part) -> ir.Model:
        """The graph of a trunk, for tasks that leave its weights alone."""
        masks = NoMasks(self._nothing(self._some, part))
        return self._graph(self._bare, self._used(self._some), masks, part)

    def split(self) -> Split:
        """What a graph's trunk and top hold, wherever it is cut."""
        family = self.context.family
        return Split(trace(self._bare, family, states=True), f"{PREFIX}{family.base}.", family)

    def _used(self, entry: TaskEntry) -> Backbone:
        return backbone_for(self.artifact, entry)

    def _nothing(self, entry: TaskEntry, part: Part | None) -> Removed:
        """Masks that remove no weight, of the linears in a part of a task's graph."""
        return {
            module_of(self.base, name): np.zeros(tensor.size, dtype=np.bool_)
            for name, tensor in self._used(entry).linears.items()
            if part is None or name in part.held
        }

    def removed(
        self, entry: TaskEntry, shrunk: Shrunk | None = None, part: Part | None = None
    ) -> Removed:
        """Name of every linear's module -> weights that the task removes, in a graph's order.

        Args:
            entry: the task.
            shrunk: what the graph takes of the weights; what it leaves out anyway does not count.
            part: of the graph; None: the whole one.
        """
        made, kept = self._removed(entry), self._kept(shrunk)
        found = {module: made[module] for module in self._nothing(entry, part)}
        for name, tensor in self._used(entry).linears.items():
            module = module_of(self.base, name)
            if module not in found:
                continue
            if shrunk is not None and name in shrunk.gone:
                found[module] = np.zeros(tensor.size, dtype=np.bool_)
            elif module in kept:
                found[module] = kept[module].inside(found[module], tensor.shape)
        return found

    def _removed(self, entry: TaskEntry) -> Removed:
        """`removed`, each of them made when it is asked for."""
        patch = self.artifact.patch(entry.name)
        linears = {module_of(self.base, name): name for name in self.artifact.backbone.linears}

        def make(module: str) -> NDArray[np.bool_]:
            name = linears[module]
            tensor = self.artifact.backbone.linears[name]
            if name not in patch.masks:
                return np.zeros(tensor.size, dtype=np.bool_)
            return np.ascontiguousarray(patch.masks[name].removed(tensor).T).reshape(-1)

        return Made(linears, make)

    def _of_task(
        self, entry: TaskEntry, masks: Masks, shrunk: Shrunk | None, part: Part | None = None
    ) -> ir.Model:
        own = replace(self.artifact.patch(entry.name), masks={}).over(self._used(entry))
        model = outline_task(self.artifact, entry.name, attention="eager")
        if shrunk is None:
            return self._graph(model, own, masks, part)
        shrink(base_of(model), shrunk)
        graph = self._graph(model, own, masks, part, shrunk)
        if not masks.folds:
            GatherBiases(whole_biases(own.dense, shrunk, self.base), masks)(graph)
        return graph

    def _graph(
        self,
        model: Any,
        backbone: Backbone,
        masks: Masks,
        part: Part | None = None,
        shrunk: Shrunk | None = None,
    ) -> ir.Model:
        context = RewriteContext(
            masks, self.divisors, self._narrow, scratch=self._scratch, shrunk=shrunk
        )
        graph = masked_graph(model, self.context.family, backbone, self._arithmetic, context, part)
        graph = in_opset(graph, self.opset)
        if self._fused and self._arithmetic.fuses_attention:
            FuseAttention()(graph)
        return graph


def write_model(model: ir.Model, path: Path) -> tuple[str, str] | None:
    """Write a graph with all its constants; name and SHA-256 of the file beside it that holds those of a large one.

    Raises:
        ExportError: the checker refuses it.
    """
    if constant_bytes(model) < min(store.MOST_INLINE, MOST_BYTES):
        write_bytes(path, serialize(model))
        return None
    beside = path.with_name(GRAPH_DATA)
    digest = move_beside(model, beside)
    write_graph(model, path)
    return beside.name, digest


def serialize(model: ir.Model) -> bytes:
    """The graph as checked ONNX bytes.

    Raises:
        ExportError: the checker refuses it, or it passes protobuf's 2 GB.
    """
    data = _bytes_of(in_memory(model))
    _check(data)
    return data


def write_graph(model: ir.Model, path: Path) -> None:
    """Write a graph beside the file that its shared tensors lie in, and check both.

    Raises:
        ExportError: as `serialize`; or the shared file lacks data to which the graph refers.
    """
    write_bytes(path, _bytes_of(in_memory(model)))
    _check(str(path))


def _bytes_of(model: ir.Model) -> bytes:
    size = constant_bytes(model)
    if size >= MOST_BYTES:
        raise ExportError(
            f"the graph has {size:,} bytes of weights, a file of ONNX holds less than {MOST_BYTES:,}",
            Hint("export it in the `shared` layout, whose weights lie in a file of their own"),
        )
    proto = ir.serde.serialize_model(model)
    initialisers = {tensor.name for tensor in proto.graph.initializer}
    values = [value for value in proto.graph.value_info if value.name not in initialisers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)  # constants have their own type and shape
    return bytes(proto.SerializeToString(deterministic=True))


def _check(graph: bytes | str) -> None:
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {str(error).splitlines()[0]}") from error


def module_of(base: str, parameter: str) -> str:
    """Name of the module inside the classifier that a weight inside the encoder belongs to."""
    return f"{base}.{parameter.removesuffix('.weight')}"


def usual_entry(artifact: Artifact) -> TaskEntry:
    """The task whose classifier stands for all of them: the first one that uses the whole backbone, if there is one."""
    entries = artifact.manifest.tasks.values()
    return min(entries, key=lambda entry: (not may_use_pooler(entry), entry.name))


def shrunk_of(artifact: Artifact, units: Units | None, arithmetic: Arithmetic) -> Shrunk | None:
    """What a graph holds of the linears of a task with these units; None: everything."""
    config = task_config(artifact, usual_entry(artifact))
    return Shrunk.of(own_units(units, config), artifact.backbone.linears, arithmetic.block)


def modules_of(base: str, shrunk: Shrunk) -> dict[str, Kept]:
    """Name of a module -> what a graph holds of it."""
    return {module_of(base, name): kept for name, kept in shrunk.held.items()}


Key = TypeVar("Key")
Value = TypeVar("Value")


class Made(Mapping[Key, Value]):
    """A mapping whose values are made when they are asked for, and not kept.

    Args:
        keys: its keys, in their order.
        make: key -> value.
    """

    def __init__(self, keys: Iterable[Key], make: Callable[[Key], Value]) -> None:
        self._keys, self._make = dict.fromkeys(keys), make

    def __getitem__(self, key: Key) -> Value:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
