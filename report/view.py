"""What a report says of an artifact, as values: sizes, zeros by layer and part, how it was learned.

Numbers only, read with numpy; how they look is for the command line. What needs a forward pass is
`tasks/evaluation/evaluate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from maskpack.compressor.config import FitConfig
from maskpack.compressor.types import HISTORY, Curves, curves_of
from maskpack.formats import Artifact, MaskCount, Patch, TaskEntry, pack_task
from maskpack.formats.schema import BACKBONE
from maskpack.formats.tensors import Backbone
from maskpack.formats.unit_bits import count_beside_units, mask_bytes, unit_bytes
from maskpack.formats.units import UnitCount

_FLOAT32 = 4
_NUMBER = re.compile(r"\.(\d+)(?=\.)")


@dataclass(frozen=True)
class Part:
    """A share of a file."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Cell:
    """One matrix: weights that its mask covers and removes."""

    weights: int
    zeros: int

    @property
    def share(self) -> float:
        """Share of removed weights."""
        return self.zeros / self.weights


@dataclass(frozen=True)
class HeatMap:
    """Zeros of each matrix, by part of a layer and layer.

    Attributes:
        parts: what the matrices of a row are, such as `attention.self.query`.
        layers: numbers of the layers, `0.1` in nested ones; empty text for what lies in none.
        cells: `(parts, layers)`; None where there is no mask.
    """

    parts: tuple[str, ...]
    layers: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]

    @property
    def highest(self) -> float:
        """The largest share of zeros."""
        return max((cell.share for row in self.cells for cell in row if cell), default=0.0)


@dataclass(frozen=True)
class TaskView:
    """One task of an artifact.

    Attributes:
        name, kind, labels, metric, scores: as the manifest says.
        count: weights and zeros of its mask.
        beside_units: the same of weights that no removed unit has.
        parts: what its file is made of.
        patch_bytes: of that file.
        packed_bytes: of what `compress pack` writes.
        dense_bytes: of a fine-tuned copy in float32.
        heat: zeros of each matrix.
        units: heads and neurons of each layer, and how many stay; none where the task knows of none.
        curves: how it was learned, or None if that was not kept.
        options: with which it was learned, where they are no defaults.
        data: name of the data set, and its rows.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    scores: Mapping[str, float]
    count: MaskCount
    beside_units: MaskCount
    parts: tuple[Part, ...]
    patch_bytes: int
    packed_bytes: int
    dense_bytes: int
    heat: HeatMap
    units: tuple[UnitCount, ...]
    curves: Curves | None
    options: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class ArtifactView:
    """A whole artifact.

    Attributes:
        model, model_type: of the source.
        bits: width of a backbone's code, and of those that differ, by their pattern.
        quantizer, embedding_bits, group: how it was quantised.
        digest: of the backbone.
        maskable: weights that a mask may cover.
        parts: what the backbone's file is made of.
        backbone_bytes: of that file.
        tasks: by name.
    """

    model: str
    model_type: str
    bits: int
    overrides: Mapping[str, int]
    quantizer: str
    embedding_bits: str
    group: int | None
    digest: str
    maskable: int
    parts: tuple[Part, ...]
    backbone_bytes: int
    tasks: tuple[TaskView, ...]

    @property
    def stored_bytes(self) -> int:
        """Backbone and all tasks, as they lie in the artifact."""
        return self.backbone_bytes + sum(task.patch_bytes for task in self.tasks)

    @property
    def download_bytes(self) -> int:
        """Backbone and all tasks, packed."""
        return self.backbone_bytes + sum(task.packed_bytes for task in self.tasks)

    @property
    def dense_bytes(self) -> int:
        """A fine-tuned copy for each task, in float32."""
        return sum(task.dense_bytes for task in self.tasks)

    @property
    def widths(self) -> str:
        """Width of the codes in words.

        `4-bit`, or `4- to 8-bit` where some linears have another.
        """
        widths = sorted({self.bits, *self.overrides.values()})
        if len(widths) == 1:
            return f"{widths[0]}-bit"
        return f"{widths[0]}- to {widths[-1]}-bit"


def view_artifact(artifact: Artifact) -> ArtifactView:
    """Everything that files alone can say of an artifact.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    manifest, backbone = artifact.manifest, artifact.backbone
    size = artifact.size(BACKBONE)
    return ArtifactView(
        model=manifest.source.model,
        model_type=manifest.source.model_type,
        bits=manifest.scheme.bits,
        overrides=manifest.scheme.overrides,
        quantizer=manifest.scheme.quantizer,
        embedding_bits=manifest.embedding_bits,
        group=manifest.scheme.group,
        digest=manifest.backbone_sha256,
        maskable=backbone.maskable,
        parts=_with_rest(
            _backbone_parts(backbone),
            size,
            "names and shapes" if backbone.seed is None else "seed, names and shapes",
        ),
        backbone_bytes=size,
        tasks=tuple(_view_task(artifact, entry) for _, entry in sorted(manifest.tasks.items())),
    )


def _view_task(artifact: Artifact, entry: TaskEntry) -> TaskView:
    patch, size = artifact.patch(entry.name), artifact.size(entry.file)
    head = sum(tensor.size for tensor in patch.head.values())
    return TaskView(
        name=entry.name,
        kind=entry.kind,
        labels=entry.labels,
        metric=entry.metric,
        scores=entry.scores,
        count=MaskCount(entry.weights, entry.zeros),
        beside_units=count_beside_units(patch),
        parts=_with_rest(_patch_parts(patch), size, "names and shapes"),
        patch_bytes=size,
        packed_bytes=len(pack_task(artifact, entry.name)),
        dense_bytes=_FLOAT32 * (_parameters(artifact.backbone) + head),
        heat=heat_map(patch),
        units=() if patch.units is None else patch.units.counts(),
        curves=curves_of(entry.training),
        options=told_options(entry.training),
        data=entry.data,
    )


def _backbone_parts(backbone: Backbone) -> list[Part]:
    """Bytes as stored: codes as narrow as they are, and their scales."""
    if (
        backbone.seed is not None
    ):  # the file holds the seed, shapes, and what the seed does not draw
        return []
    parts = []
    for name, tensors in (("linears", backbone.linears), ("embeddings", backbone.embeddings)):
        stored = [tensor.code_bytes + tensor.scales.nbytes for tensor in tensors.values()]
        parts.append(Part(name, sum(stored)))
    dense = sum(tensor.nbytes for tensor in backbone.dense.values())
    return [*parts, Part("biases, LayerNorm", dense)]


def _patch_parts(patch: Patch) -> list[Part]:
    extra = sum(tensor.nbytes for tensor in (*patch.dense.values(), *patch.gains.values()))
    return [
        Part("mask", mask_bytes(patch)),
        Part("head", sum(tensor.nbytes for tensor in patch.head.values())),
        *([Part("biases, norms, scales", extra)] if extra else []),
        *([Part("units", unit_bytes(patch.units))] if patch.units is not None else []),
    ]


def _with_rest(parts: list[Part], size: int, name: str) -> tuple[Part, ...]:
    """The parts of a file, with what is left of it as the last one."""
    return (*parts, Part(name, size - sum(part.bytes for part in parts)))


def _parameters(backbone: Backbone) -> int:
    """Values of the encoder."""
    matrices = (*backbone.linears.values(), *backbone.embeddings.values())
    return sum(t.codes.size for t in matrices) + sum(t.size for t in backbone.dense.values())


def heat_map(patch: Patch) -> HeatMap:
    """Zeros of each matrix of a patch, by part and layer."""
    cells = {
        place_of(name): Cell(mask.shape[0] * mask.shape[1], mask.zeros)
        for name, mask in patch.masks.items()
    }
    layers = sorted({layer for layer, _ in cells}, key=_in_order)
    parts = sorted({part for _, part in cells})
    table = tuple(tuple(cells.get((layer, part)) for layer in layers) for part in parts)
    return HeatMap(tuple(parts), tuple(layers), table)


def place_of(name: str) -> tuple[str, str]:
    """Layer and part of a parameter's name.

    >>> place_of("encoder.layer.3.attention.self.query.weight")
    ('3', 'attention.self.query')
    >>> place_of("pooler.dense.weight")
    ('', 'pooler.dense')
    """
    name = name.removesuffix(".weight")
    found = list(_NUMBER.finditer(name))
    if not found:
        return "", name
    return ".".join(match.group(1) for match in found), name[found[-1].end() + 1 :]


def _in_order(layer: str) -> tuple[bool, list[int]]:
    """By number; what lies in no layer comes last."""
    return layer == "", [int(number) for number in layer.split(".") if number]


def told_options(training: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training that are no defaults, by name."""
    usual = {each.name: getattr(FitConfig(), each.name) for each in fields(FitConfig)}
    return {
        name: value
        for name, value in sorted(training.items())
        if name != HISTORY and (name not in usual or usual[name] != value)
    }
