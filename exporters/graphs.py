"""The graphs of an artifact's tasks: one set of integers, and what each mask removes from it.

What an export derives from the weights, scales and divisors of outlier channels, is measured and made
on the whole backbone. So it is the same for all tasks, and a task's graph is the same function in
every layout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from maskpack.compressor.families import family_of
from maskpack.compressor.restore import (
    build_classifier,
    classifier_config,
    head_parameters,
    restore_task,
)
from maskpack.exporters.calibrate import Divisors, input_divisors
from maskpack.exporters.flips import Removed
from maskpack.exporters.masks import BESIDE, FoldedMasks, Form, Masks
from maskpack.exporters.options import Compute
from maskpack.exporters.passes import Shared
from maskpack.exporters.surgery import rewrite, under
from maskpack.exporters.trace import PREFIX
from maskpack.formats import Artifact, Backbone, Patch, TaskEntry
from maskpack.formats.schema import CONFIG

_LENGTH = 64  # tokens that the sentences behind the divisors are cut to


class Grapher:
    """Makes graphs of the tasks of one artifact.

    Args:
        artifact: the artifact.
        compute: arithmetic of the linears.
        packed: whether codes narrower than a byte stay so in graphs that hold their masks beside them.

    Attributes:
        base: attribute of the classifier that holds the encoder.
        divisors: of outlier channels, measured on the backbone; none for floats.
        heads: constants of a graph that are parameters of the head. Their names tell nothing: a base
            may be called `model`, as what the tracer puts before every name.
    """

    def __init__(self, artifact: Artifact, compute: Compute, *, packed: bool = False) -> None:
        self.artifact, self._compute, self._packed = artifact, compute, packed
        self.base = family_of(artifact.manifest.source.model_type).base
        some = artifact.entry(min(artifact.manifest.tasks))
        config = classifier_config(artifact.file(CONFIG), some.labels, outputs=some.outputs)
        self._bare = build_classifier(artifact.backbone, config, seed=0, attention="eager").eval()
        self.heads = frozenset(f"{PREFIX}{name}" for name in head_parameters(self._bare))
        self.divisors: Divisors = {}
        if compute is Compute.INT8:
            neutral = replace(some, max_length=_LENGTH, data={"texts": ["text"]})
            names = under(self.base, artifact.backbone.linears)
            self.divisors = input_divisors(self._bare, names, artifact, neutral)

    def folded(self, entry: TaskEntry) -> ir.Model:
        """The graph of a task with its masked weights."""
        removed = self.removed(entry)
        return self._of_task(entry, FoldedMasks(removed))

    def beside(self, entry: TaskEntry, form: Form) -> ir.Model:
        """The graph of a task with the backbone's weights and its masks beside them."""
        return self._of_task(entry, BESIDE[form](self.removed(entry)))

    def bare(self) -> ir.Model:
        """The same with masks that remove nothing, of no task: its encoder is the backbone's."""
        tensors = self.artifact.backbone.linears
        nothing = {
            self._module(name): np.zeros(tensor.codes.size, dtype=np.bool_)
            for name, tensor in tensors.items()
        }
        return self._graph(self._bare, self.artifact.backbone, BESIDE[Form.FLIPS](nothing))

    def removed(self, entry: TaskEntry) -> Removed:
        """Name of every linear's module -> what the task removes from it, in a graph's order."""
        patch = self.artifact.patch(entry.name)
        return {
            self._module(name): (
                np.ascontiguousarray(patch.masks[name].removed(tensor).T).reshape(-1)
                if name in patch.masks
                else np.zeros(tensor.codes.size, dtype=np.bool_)
            )
            for name, tensor in self.artifact.backbone.linears.items()
        }

    def _of_task(self, entry: TaskEntry, masks: Masks) -> ir.Model:
        patch: Patch = self.artifact.patch(entry.name)
        own = replace(patch, masks={}).over(self.artifact.backbone)
        return self._graph(restore_task(self.artifact, entry.name, attention="eager"), own, masks)

    def _graph(self, model: Any, backbone: Backbone, masks: Masks) -> ir.Model:
        return rewrite(
            model,
            linears=under(self.base, backbone.linears),
            embeddings=under(self.base, backbone.embeddings),
            compute=self._compute,
            shared=Shared(masks, self.divisors, self._packed),
        )

    def _module(self, name: str) -> str:
        return f"{self.base}.{name.removesuffix('.weight')}"
