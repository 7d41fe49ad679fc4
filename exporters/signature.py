"""Names and axes of the inputs and outputs of a graph, as a task's type says them."""

from __future__ import annotations

from typing import Any

from maskpack.exporters.session import AdaptedSession
from maskpack.formats import Artifact, TaskEntry
from maskpack.models.inputs import inputs_of
from maskpack.runtime.trunk import OnTrunk
from maskpack.tasks.context import ModelContext, task_config
from maskpack.tasks.types import type_of

_Outputs = list[tuple[str, list[Any]]]


def check_signature(
    session: Any, artifact: Artifact, entry: TaskEntry, encoder: ModelContext
) -> list[str]:
    """Findings on names, dynamic axes and widths of a graph's inputs and outputs, one line each.

    Args:
        session: of the graph.
        artifact: the artifact of its task.
        entry: the task.
        encoder: of the artifact.
    """
    findings = []
    reading = inputs_of(encoder.family)
    axes = reading.axes(encoder.family, encoder.config)
    names = [value.name for value in session.get_inputs()]
    if names != list(axes):
        findings.append(f"inputs are {names}, expected {list(axes)}")
    findings += [
        f"input `{value.name}` is {value.type} {value.shape}"
        for value in session.get_inputs()
        if list(value.shape) != axes.get(value.name) or value.type != reading.element
    ]
    outputs = [(value.name, value.shape) for value in session.get_outputs()]
    wanted, varies = _wanted_outputs(artifact, entry)
    fits = [wanted, varies if isinstance(session, AdaptedSession) else wanted]
    if isinstance(session, OnTrunk):  # without what only other programs read
        fits.append(wanted[: len(type_of(entry).decoder.outputs)])
    if outputs not in fits:
        findings.append(f"outputs are {outputs}, expected {_told(wanted, entry)}")
    return findings


def _told(wanted: _Outputs, entry: TaskEntry) -> str:
    """What is expected, in words."""
    return f"logits of {entry.outputs}" if len(wanted) == 1 else " and ".join(n for n, _ in wanted)


def _wanted_outputs(artifact: Artifact, entry: TaskEntry) -> tuple[_Outputs, _Outputs]:
    """Names and axes of a graph's outputs, and those of a graph of tasks that differ in classes."""
    decoder = type_of(entry).decoder
    if decoder.vectors:
        width = int(task_config(artifact, entry).hidden_size)
        axes: list[list[Any]] = [["batch", width], ["batch", "sequence", width]]
        wanted = list(zip((*decoder.outputs, *decoder.further), axes, strict=True))
        return wanted, wanted
    own = ["batch", *(["sequence"] if decoder.per_token else [])]
    if len(decoder.outputs) > 1:
        several: _Outputs = [(name, list(own)) for name in decoder.outputs]
        return several, several
    (name,) = decoder.outputs
    width = int(task_config(artifact, entry).vocab_size) if decoder.fills else entry.outputs
    return [(name, [*own, width])], [(name, [*own, "classes"])]
