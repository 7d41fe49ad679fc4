"""One graph for all tasks, whose masks and heads come with every run.

    OUT/base.onnx               the encoder over backbone.bin; alone it answers as the first task
    OUT/base-<type>.onnx        the same with a head of another type than one answer a text, such as token-classification
    OUT/backbone.bin            as in the shared layout
    OUT/<task>.onnx_adapter     the task's inputs to the graph: masks, head, all its own constants;
                                for ONNX Runtime from 1.20 on
    OUT/<task>.safetensors      the same as plain inputs, for runtimes without adapters
    OUT/<task>.json             configuration for `maskpack.runtime`, with the digests of all of these

One session serves all tasks and switching costs nothing. But the masking of the codes, which folds to
constants in the other layouts, is done in every run. Units that a task removes are zeros like others and bring no
speed, because all tasks run the same graph.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime
from safetensors.numpy import save

from maskpack.exporters.graph.builder import GraphBuilder, write_graph
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.external_masks import COUNTS, Form, smaller_form
from maskpack.exporters.layouts.base import GraphLayout, TaskGraph
from maskpack.exporters.layouts.shared import Arrays, SharedBackbone, arrays_of, same_array
from maskpack.formats import ExportError, TaskEntry
from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import Hint
from maskpack.formats.writer import write_bytes
from maskpack.runtime.task import ADAPTER_SUFFIX, BASE, FEEDS_SUFFIX, SwapDigests
from maskpack.tasks.types import type_of

_LOG = logging.getLogger(__name__)

_SMALLER = Hint("export in the `folded` or the `shared` layout")
_CLASSES = "classes"
_VERSION = 1  # of adapter and model, in the adapter's header


def write_swap(
    builder: GraphBuilder, entries: Sequence[TaskEntry], folder: Path
) -> Iterator[TaskGraph]:
    """Write backbone.bin, the graph of all tasks beside it, and each task's inputs.

    Raises:
        ExportError: the tasks' graphs differ.
    """
    if smaller := [entry.name for entry in entries if builder.shrunk(entry) is not None]:
        fact = "units removed by %s bring no speed in one graph of all tasks; %s"
        _LOG.warning(fact, ", ".join(f"`{name}`" for name in smaller), _SMALLER)
    backbone = SharedBackbone(builder)
    backbone.write(folder)
    groups: dict[str, list[TaskEntry]] = {}
    for entry in entries:
        groups.setdefault(_base_of(entry), []).append(entry)
    made = {
        name: _write_base(builder, backbone, some, folder / name) for name, some in groups.items()
    }
    for entry in entries:
        graph = folder / _base_of(entry)
        shared, inputs = made[graph.name]
        arrays, config = inputs[entry.name], folder / f"{entry.name}.json"
        feeds, adapter = (folder / f"{entry.name}{end}" for end in (FEEDS_SUFFIX, ADAPTER_SUFFIX))
        write_bytes(feeds, save(arrays))
        _write_adapter(adapter, arrays)
        digests = SwapDigests(shared, file_sha256(adapter), file_sha256(feeds))
        yield TaskGraph(entry, graph, config, backbone.weights, (adapter, arrays), digests)


def _base_of(entry: TaskEntry) -> str:
    """File of the graph that tasks of its type share."""
    kind = type_of(entry)
    other = kind.decoder.per_token or kind.decoder.vectors
    return f"base-{kind.pipeline_tag}.onnx" if other else BASE


def _write_base(
    builder: GraphBuilder, backbone: SharedBackbone, entries: Sequence[TaskEntry], graph: Path
) -> tuple[str, dict[str, Arrays]]:
    """Write the graph of tasks of one type: its SHA-256, and each task's inputs by name."""
    model, inputs = swap_graph(builder, backbone, entries)
    write_graph(model, graph)
    return file_sha256(graph), inputs


SWAP = GraphLayout("swap", write_swap, masks_as_inputs=True)


def swap_graph(
    builder: GraphBuilder, backbone: SharedBackbone, entries: Sequence[TaskEntry]
) -> tuple[ir.Model, dict[str, Arrays]]:
    """The graph of several tasks, and the inputs of each task by name.

    Raises:
        ExportError: the tasks' graphs differ.
    """
    removed = [builder.removed(entry) for entry in entries]
    form = smaller_form(*removed, opset=builder.opset)
    models = [
        builder.with_external_masks(entry, own, form)
        for entry, own in zip(entries, removed, strict=True)
    ]
    arrays = [arrays_of(model) for model in models]
    for entry, model in zip(entries, models, strict=True):
        if _structure(model) != _structure(models[0]):
            raise ExportError(
                f"the graphs of `{entries[0].name}` and `{entry.name}` differ in their operators",
                "export them in the `shared` layout",
            )
    names = _own_names(builder.heads_of(entries), backbone, arrays)
    _make_inputs(models[0].graph, names, arrays)
    inputs = {
        entry.name: {name: each[name] for name in names}
        for entry, each in zip(entries, arrays, strict=True)
    }
    return backbone.point(models[0]), inputs


def _write_adapter(path: Path, arrays: Arrays) -> None:
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(_VERSION)
    adapter.set_model_version(_VERSION)
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for name, array in sorted(arrays.items())
    }
    adapter.set_parameters(values)
    adapter.export_adapter(str(path))


def _structure(model: ir.Model) -> list[object]:
    """A graph without the values of its constants."""
    nodes: list[object] = [
        (node.op_type, [value and value.name for value in node.inputs]) for node in model.graph
    ]
    return [*nodes, *sorted(model.graph.initializers)]


def _own_names(
    heads: Collection[str], backbone: SharedBackbone, arrays: Sequence[Arrays]
) -> list[str]:
    """Constants of the task: its masks, its head, and all values that differ from the backbone's."""
    parts = {f"{MASKS}.{name}" for name in (*Form, COUNTS)}

    def own(name: str) -> bool:
        if name in parts or name in heads:
            return True
        held = [each[name] for each in arrays]
        held += [backbone.bare[name]] if name in backbone.bare else []
        return any(not same_array(held[0], other) for other in held[1:])

    return [name for name in arrays[0] if own(name)]


def _make_inputs(graph: ir.Graph, names: Sequence[str], arrays: Sequence[Arrays]) -> None:
    """Let constants be inputs too; the number of flips is the task's, and so may that of classes be."""
    for name in names:
        value, first = graph.initializers[name], arrays[0][name].shape
        dims: list[int | str] = list(first)
        if name == f"{MASKS}.{Form.FLIPS}":
            dims = [str(Form.FLIPS)]
        for axis in range(len(first)):
            if len({each[name].shape[axis] for each in arrays}) > 1 and dims[axis] == first[axis]:
                dims[axis] = _CLASSES  # a head's, the only shape besides that tasks may differ in
                axes = graph.outputs[0].shape
                assert axes is not None
                graph.outputs[0].shape = ir.Shape([*axes[:-1], _CLASSES])
        value.shape = ir.Shape(dims)
        graph.inputs.append(value)
