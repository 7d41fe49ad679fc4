"""The graphs of an artifact's tasks: trace a classifier, put masked integers in place of its floats, write it.

Scales and divisors of outlier channels are derived from the
whole backbone. So they are the same for all tasks, and a task's graph is the same function in every layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import PassError, Sequential, common

from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.graph.external_masks import (
    EXTERNAL_MASKS,
    FoldedMasks,
    Form,
    Masks,
    Removed,
)
from maskpack.exporters.graph.passes import (
    GeluInFusedOrder,
    MaskLinears,
    QuantizeEmbeddings,
    ResidualAsSum,
    RewriteContext,
)
from maskpack.exporters.graph.trace import PREFIX, trace
from maskpack.exporters.graph.weights import Divisors, input_divisors
from maskpack.formats import Artifact, Backbone, ExportError, TaskEntry
from maskpack.formats.writer import write_bytes
from maskpack.models.build import build_classifier, head_parameters
from maskpack.tasks.context import ModelContext, restore_task, task_config


class GraphBuilder:
    """Makes graphs of the tasks of one artifact.

    Args:
        artifact: the artifact.
        context: of its encoder.
        compute: name of the arithmetic of the linears.
        narrow: whether codes narrower than a byte keep their width in graphs with their masks beside the codes.

    Attributes:
        base: attribute of the classifier that holds the encoder.
    """

    def __init__(
        self, artifact: Artifact, context: ModelContext, compute: str, *, narrow: bool = False
    ) -> None:
        self.artifact, self.context, self._narrow = artifact, context, narrow
        self._arithmetic = find_arithmetic(compute)
        self.base = context.family.base
        self._some = artifact.entry(min(artifact.manifest.tasks))

    @cached_property
    def _bare(self) -> Any:
        """A classifier with the backbone's weights and a head of no task."""
        config = task_config(self.artifact, self._some)
        return build_classifier(self.artifact.backbone, config, seed=0, attention="eager").eval()

    @cached_property
    def heads(self) -> frozenset[str]:
        """Constants of a graph that are parameters of the head.

        Their names do not suffice: a base may be called `model`, which is also the tracer's prefix.
        """
        return frozenset(f"{PREFIX}{name}" for name in head_parameters(self._bare))

    @cached_property
    def divisors(self) -> Divisors:
        """Divisors of outlier channels, measured on the backbone; none for float arithmetic."""
        if not self._arithmetic.divides:
            return {}
        names = under(self.base, self.artifact.backbone.linears)
        return input_divisors(self._bare, names, self.context.preprocessor())

    def folded(self, entry: TaskEntry) -> ir.Model:
        """The graph of a task with its masked weights."""
        return self._of_task(entry, FoldedMasks(self.removed(entry)))

    def with_external_masks(self, entry: TaskEntry, removed: Removed, form: Form) -> ir.Model:
        """The graph of a task with the backbone's weights and its masks, `removed`, beside them."""
        return self._of_task(entry, EXTERNAL_MASKS[form](removed))

    def bare(self) -> ir.Model:
        """The same for no task, with masks that remove nothing: its encoder is the backbone's."""
        nothing = {
            module_of(self.base, name): np.zeros(tensor.codes.size, dtype=np.bool_)
            for name, tensor in self.artifact.backbone.linears.items()
        }
        return self._graph(self._bare, self.artifact.backbone, EXTERNAL_MASKS[Form.FLIPS](nothing))

    def removed(self, entry: TaskEntry) -> Removed:
        """Name of every linear's module -> weights that the task removes, in a graph's order."""
        patch = self.artifact.patch(entry.name)
        return {
            module_of(self.base, name): (
                np.ascontiguousarray(patch.masks[name].removed(tensor).T).reshape(-1)
                if name in patch.masks
                else np.zeros(tensor.codes.size, dtype=np.bool_)
            )
            for name, tensor in self.artifact.backbone.linears.items()
        }

    def _of_task(self, entry: TaskEntry, masks: Masks) -> ir.Model:
        own = replace(self.artifact.patch(entry.name), masks={}).over(self.artifact.backbone)
        return self._graph(restore_task(self.artifact, entry.name, attention="eager"), own, masks)

    def _graph(self, model: Any, backbone: Backbone, masks: Masks) -> ir.Model:
        """Trace a classifier in evaluation mode, and put integer weights in place of its floats."""
        context = RewriteContext(masks, self.divisors, self._narrow)
        linears = under(self.base, backbone.linears)
        passes = Sequential(
            MaskLinears(linears, self._arithmetic.emit, context),
            QuantizeEmbeddings(under(self.base, backbone.embeddings)),
            ResidualAsSum(),
            GeluInFusedOrder(),
            common.RemoveUnusedNodesPass(),
            common.TopologicalSortPass(),  # constants that linears share may stand after their first reader
        )
        traced = trace(model, self.context.family)
        try:
            return passes(traced).model
        except PassError as error:
            if isinstance(error.__cause__, ExportError):
                raise error.__cause__ from None
            raise


def serialize(model: ir.Model) -> bytes:
    """The graph as checked ONNX bytes.

    Raises:
        ExportError: the checker refuses it, or it passes protobuf's 2 GB.
    """
    data = _bytes_of(model)
    _check(data)
    return data


def write_graph(model: ir.Model, path: Path) -> None:
    """Write a graph beside the file that its shared tensors lie in, and check both.

    Raises:
        ExportError: as `serialize`; or the shared file lacks data to which the graph refers.
    """
    write_bytes(path, _bytes_of(model))
    _check(str(path))


def _bytes_of(model: ir.Model) -> bytes:
    proto = ir.serde.serialize_model(model)
    if proto.ByteSize() >= 2**31:
        raise ExportError(f"the graph has {proto.ByteSize()} bytes, more than a file may hold")
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


Value = TypeVar("Value")


def under(base: str, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Names inside the encoder to names inside the classifier."""
    return {f"{base}.{name}": tensor for name, tensor in tensors.items()}
