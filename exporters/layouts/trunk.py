"""Tasks that share their lower layers in time: one pass of a trunk over a text serves all of them.

    OUT/trunk.onnx            tokens to hidden states: embeddings and lower layers of the backbone
    OUT/backbone.bin          as in the shared layout
    OUT/<task>.onnx           hidden states, and what else it reads of the inputs, to logits
    OUT/<task>.json           configuration for `maskpack.runtime`, with the digests of trunk.onnx and backbone.bin

The trunk is the backbone's alone. So it is as deep as the tasks leave the lower layers as they are: masks, biases, LayerNorms,
scales and removed units of a task must lie above it. A trunk and a top together are the function of the task's graph in the
shared layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from maskpack.exporters.graph.builder import GraphBuilder, write_graph
from maskpack.exporters.graph.external_masks import Form, smaller_form
from maskpack.exporters.graph.trunk import Split
from maskpack.exporters.layouts.base import GraphLayout, TaskGraph
from maskpack.exporters.layouts.shared import SharedBackbone, arrays_of, same_array
from maskpack.formats import ConfigError, ExportError, TaskEntry
from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import Hint
from maskpack.models.linears import layer_of
from maskpack.runtime.task import TRUNK
from maskpack.tasks.types import type_of

_NAME = TRUNK.removesuffix(".onnx")
_ELSEWHERE = Hint(
    "learn such tasks with masks on the upper `layers` alone, or export them in the `shared` layout"
)


def write_trunk(
    builder: GraphBuilder, entries: Sequence[TaskEntry], folder: Path
) -> Iterator[TaskGraph]:
    """Write backbone.bin, the trunk, and a graph for each task on top of it.

    Raises:
        ConfigError: the encoder has fewer layers than were asked for.
        ExportError: a task changes what the trunk would hold, or is called as the trunk's file.
    """
    if any(entry.name == _NAME for entry in entries):
        raise ExportError(
            f"the graph of a task `{_NAME}` would replace the trunk's `{TRUNK}`",
            "give the task another name",
        )
    if tied := [entry.name for entry in entries if type_of(entry).decoder.fills]:
        raise ExportError(
            f"the decoder of `{tied[0]}` is the table of tokens, which lies in the trunk",
            Hint("export in the `folded` or the `shared` layout"),
        )
    split = builder.split()
    layers = trunk_layers(builder, entries, split)
    below, above = split.trunk(layers), split.top(layers)
    trunk = builder.trunk(below)
    backbone = SharedBackbone(builder, {**arrays_of(builder.bare(above)), **arrays_of(trunk)})
    backbone.write(folder)
    write_graph(backbone.point(trunk), folder / TRUNK)
    digest = file_sha256(folder / TRUNK)
    for entry in entries:
        shrunk = builder.shrunk(entry)
        removed = builder.removed(entry, shrunk, above)
        form = smaller_form(removed, opset=builder.opset) if removed else Form.FLIPS
        model = builder.with_external_masks(entry, removed, form, shrunk, above)
        path = folder / f"{entry.name}.onnx"
        write_graph(backbone.point(model), path)
        yield TaskGraph(
            entry, path, path.with_suffix(".json"), backbone.weights, trunk=(folder / TRUNK, digest)
        )


TRUNK_LAYOUT = GraphLayout("trunk", write_trunk, trunk=True)


def trunk_layers(builder: GraphBuilder, entries: Sequence[TaskEntry], split: Split) -> int:
    """Layers of the trunk: as many as were asked for, or as all tasks leave alone.

    Raises:
        ConfigError: the encoder has fewer layers than were asked for.
        ExportError: a task changes something in them, or in the first layer.
    """
    wanted = builder.trunk_layers
    if wanted is not None and wanted > split.layers:
        raise ConfigError(
            f"`trunk_layers` is {wanted}, the encoder has {split.layers} layers",
            f"give 1 to {split.layers}",
        )
    own = {entry.name: changed_parameters(builder, entry) for entry in entries}
    depths = {n: split.trunk(n).held for n in range(split.layers, 0, -1)}
    free = {name: _free(depths, changed) for name, changed in own.items()}
    if min(free.values()) < (wanted or 1):
        raise _refusal(own, free, wanted or 1)
    return wanted or min(free.values())


def changed_parameters(builder: GraphBuilder, entry: TaskEntry) -> frozenset[str]:
    """Parameters inside the encoder that a task has otherwise than the backbone."""
    backbone, patch = builder.artifact.backbone, builder.artifact.patch(entry.name)
    shrunk = builder.shrunk(entry)
    masks, dense = patch.masks.items(), patch.dense.items()
    return frozenset(
        [
            *(name for name, mask in masks if mask.removed(backbone.linears[name]).any()),
            *patch.gains,
            *(name for name, own in dense if not same_array(own, backbone.dense[name])),
            *(() if shrunk is None else shrunk.linears),
        ]
    )


def _free(depths: Mapping[int, frozenset[str]], changed: frozenset[str]) -> int:
    """Layers of the deepest trunk that holds none of some parameters; 0: there is none.

    Args:
        depths: layers of a trunk -> the parameters that it holds, the deepest first.
        changed: parameters.
    """
    return next((n for n, held in depths.items() if not held & changed), 0)


def _refusal(
    own: Mapping[str, frozenset[str]], free: Mapping[str, int], layers: int
) -> ExportError:
    """The error for tasks that change what a trunk of so many layers would hold, by name."""
    wrong = [f"`{name}` changes {_where(own[name])}" for name in own if free[name] < layers]
    most = min(free.values())
    last = f"at most {most} fit" if most else "no layer is left"
    return ExportError(
        f"a trunk of {layers} layer{'s' if layers > 1 else ''} would hold what tasks have otherwise: {'; '.join(wrong)}; {last}",
        _ELSEWHERE,
    )


def _where(changed: frozenset[str]) -> str:
    """Layers of parameters, and what lies in none.

    >>> _where(frozenset(["encoder.layer.1.output.dense.weight", "embeddings.LayerNorm.bias"]))
    'layer 1 and `embeddings.LayerNorm.bias`'
    """
    numbers = {layer_of(name) for name in changed}
    layers = sorted(number for number in numbers if number is not None)
    words = [f"layer{'s' if layers[1:] else ''} {', '.join(map(str, layers))}"] if layers else []
    outside = sorted(name for name in changed if layer_of(name) is None)
    return " and ".join([*words, *(f"`{name}`" for name in outside[:1])])
