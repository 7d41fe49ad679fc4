"""Several tasks over one file of weights: `backbone.bin` and a small graph a task.

    OUT/backbone.bin          everything of the encoder that tasks share, page-aligned
    OUT/<task>.onnx           masks as flips or bits, the head, and what else is the task's own
    OUT/<task>.json           card for `maskpack.runtime`, with the digest of backbone.bin
    OUT/tokenizer.json, ...   of all tasks

What is shared is found by comparison: the graph of a task that changes nothing is built once, and
whatever another graph holds with the same name and bytes is its own no longer. Divisors of outlier
channels and scales are measured and made on the whole backbone, so that they are the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.compressor.families import family_of
from maskpack.compressor.restore import (
    build_classifier,
    classifier_config,
    head_parameters,
    restore_task,
)
from maskpack.exporters.calibrate import Divisors, input_divisors
from maskpack.exporters.options import Compute
from maskpack.exporters.surgery import rewrite, under
from maskpack.exporters.trace import PREFIX
from maskpack.formats import Artifact, Backbone, TaskEntry
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import write_bytes

BACKBONE_FILE = "backbone.bin"
_PAGE = 4096
_WORTH_IT = 1024  # bytes from which a tensor is worth a place in the shared file
_LENGTH = 64  # tokens that the sentences behind the divisors are cut to

Arrays = dict[str, NDArray[Any]]


class SharedBackbone:
    """The encoder as all graphs of an export see it.

    Args:
        artifact: the artifact.
        compute: arithmetic of the linears.
    """

    def __init__(self, artifact: Artifact, compute: Compute) -> None:
        self._artifact, self._compute = artifact, compute
        self._divisors: Divisors | None = None
        some = artifact.entry(min(artifact.manifest.tasks))
        config = classifier_config(artifact.file(CONFIG), some.labels, outputs=some.outputs)
        bare = build_classifier(artifact.backbone, config, seed=0, attention="eager").eval()
        if compute is Compute.INT8:
            neutral = replace(some, max_length=_LENGTH, data={"texts": ["text"]})
            names = under(self._base, artifact.backbone.linears)
            self._divisors = input_divisors(bare, names, artifact, neutral)
        found = _initializers(self._graph(bare, artifact.backbone, {}))
        prefixes = (f"{self._base}.", f"{PREFIX}{self._base}.")
        # where the base is called `model`, a head's names begin like its own
        heads = {f"{PREFIX}{name}" for name in head_parameters(bare)}
        self._arrays = {
            name: array
            for name, array in sorted(found.items())
            if name.startswith(prefixes) and name not in heads and array.nbytes >= _WORTH_IT
        }
        self._places: dict[str, int] = {}
        self.data = self._lay()
        self.sha256 = hashlib.sha256(self.data).hexdigest()

    def graph(self, entry: TaskEntry) -> ir.Model:
        """The graph of a task; what it shares points into `backbone.bin`."""
        artifact, task = self._artifact, entry.name
        patch = artifact.patch(task)
        own = replace(patch, masks={}).over(artifact.backbone)
        removed = {name: mask.removed(own.linears[name]) for name, mask in patch.masks.items()}
        model = self._graph(restore_task(artifact, task, attention="eager"), own, removed)
        for name, value in model.graph.initializers.items():
            assert value.const_value is not None
            array = value.const_value.numpy()
            shared = self._arrays.get(name)
            if shared is not None and _same(shared, array):
                value.const_value = ir.ExternalTensor(
                    BACKBONE_FILE,
                    self._places[name],
                    array.nbytes,
                    value.const_value.dtype,
                    shape=ir.Shape(array.shape),
                    name=name,
                )
        _shorten(model.graph)
        return model

    def write(self, folder: Path) -> None:
        """Write `backbone.bin`."""
        write_bytes(folder / BACKBONE_FILE, self.data)

    def _graph(
        self, model: Any, backbone: Backbone, removed: Mapping[str, NDArray[np.bool_]]
    ) -> ir.Model:
        return rewrite(
            model,
            linears=under(self._base, backbone.linears),
            embeddings=under(self._base, backbone.embeddings),
            compute=self._compute,
            divisors=self._divisors,
            removed=under(self._base, removed),
        )

    def _lay(self) -> bytes:
        """All shared tensors, each on a page of its own."""
        data = bytearray()
        for name, array in self._arrays.items():
            data.extend(bytes(-len(data) % _PAGE))
            self._places[name] = len(data)
            data.extend(np.ascontiguousarray(array).tobytes())
        return bytes(data)

    @property
    def _base(self) -> str:
        return family_of(self._artifact.manifest.source.model_type).base


def _shorten(graph: ir.Graph) -> None:
    """Give what runs through the graph short names: long ones are most of a small graph."""
    outputs = set(graph.outputs)
    for place, node in enumerate(graph):
        node.name = None
        for number, value in enumerate(node.outputs):
            if value not in outputs and value.name:
                value.name = f"{place:x}.{number}" if number else f"{place:x}"


def _initializers(model: ir.Model) -> Arrays:
    found = {}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        found[name] = value.const_value.numpy()
    return found


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    kinds = (first.dtype, first.shape) == (second.dtype, second.shape)
    return kinds and first.tobytes() == second.tobytes()
