"""The graphs of an artifact's tasks: one set of integers, and what each mask removes from it.

What an export derives from the weights, scales and divisors of outlier channels, is measured and made
on the whole backbone. So it is the same for all tasks, and a task's graph is the same function in
every layout.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from maskpack.compressor.models.families import family_of
from maskpack.compressor.restore import (
    build_classifier,
    head_parameters,
    restore_task,
    task_config,
)
from maskpack.exporters.graph.calibrate import Divisors, input_divisors
from maskpack.exporters.graph.flips import Removed
from maskpack.exporters.graph.masks import BESIDE, FoldedMasks, Form, Masks
from maskpack.exporters.graph.passes import Shared
from maskpack.exporters.graph.surgery import module_of, rewrite, under
from maskpack.exporters.graph.trace import PREFIX
from maskpack.exporters.options import Compute
from maskpack.formats import Artifact, Backbone, Patch, TaskEntry

_LENGTH = 64  # tokens that the sentences behind the divisors are cut to


class Grapher:
    """Makes graphs of the tasks of one artifact.

    Args:
        artifact: the artifact.
        compute: arithmetic of the linears.
        packed: whether codes narrower than a byte stay so in graphs that hold their masks beside them.

    Attributes:
        base: attribute of the classifier that holds the encoder.
    """

    def __init__(self, artifact: Artifact, compute: Compute, *, packed: bool = False) -> None:
        self.artifact, self._compute, self._packed = artifact, compute, packed
        self.base = family_of(artifact.manifest.source.model_type).base
        self._some = artifact.entry(min(artifact.manifest.tasks))

    @cached_property
    def _bare(self) -> Any:
        """A classifier with the backbone's weights and a head of no task."""
        config = task_config(self.artifact, self._some)
        return build_classifier(self.artifact.backbone, config, seed=0, attention="eager").eval()

    @cached_property
    def heads(self) -> frozenset[str]:
        """Constants of a graph that are parameters of the head.

        Their names tell nothing: a base may be called `model`, as what the tracer puts before all.
        """
        return frozenset(f"{PREFIX}{name}" for name in head_parameters(self._bare))

    @cached_property
    def divisors(self) -> Divisors:
        """Of outlier channels, measured on the backbone; none for floats."""
        if self._compute is not Compute.INT8:
            return {}
        neutral = replace(self._some, max_length=_LENGTH, data={"texts": ["text"]})
        names = under(self.base, self.artifact.backbone.linears)
        return input_divisors(self._bare, names, self.artifact, neutral)

    def folded(self, entry: TaskEntry) -> ir.Model:
        """The graph of a task with its masked weights."""
        return self._of_task(entry, FoldedMasks(self.removed(entry)))

    def beside(self, entry: TaskEntry, removed: Removed, form: Form) -> ir.Model:
        """The graph of a task with the backbone's weights and its masks, `removed`, beside them."""
        return self._of_task(entry, BESIDE[form](removed))

    def bare(self) -> ir.Model:
        """The same with masks that remove nothing, of no task: its encoder is the backbone's."""
        tensors = self.artifact.backbone.linears
        nothing = {
            module_of(self.base, name): np.zeros(tensor.codes.size, dtype=np.bool_)
            for name, tensor in tensors.items()
        }
        return self._graph(self._bare, self.artifact.backbone, BESIDE[Form.FLIPS](nothing))

    def removed(self, entry: TaskEntry) -> Removed:
        """Name of every linear's module -> what the task removes from it, in a graph's order."""
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
