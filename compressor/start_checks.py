"""What a run takes of the learned task that it starts from, and what it cannot do with units that are gone in it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from maskpack.compressor.config import FitConfig
from maskpack.formats import ConfigError, Patch, TaskEntry, open_artifact
from maskpack.formats.units import Units
from maskpack.models.units import own_units
from maskpack.tasks.types import TaskType, type_of


def entry_of_start(start: tuple[Path, str]) -> TaskEntry:
    """The entry of the task that a run starts from, by its artifact and name."""
    return open_artifact(start[0]).entry(start[1])


def starts_head(entry: TaskEntry, kind: TaskType) -> bool:
    """Whether a run takes the head of the task that it starts from too: of texts without labels it takes the mask alone."""
    return entry.kind == kind.name or not type_of(entry).own_label


def entry_of_head(start: tuple[Path, str] | None, kind: TaskType) -> TaskEntry | None:
    """The entry of the task whose head a run of a type starts from; None: it has its own."""
    if start is None:
        return None
    entry = entry_of_start(start)
    return entry if starts_head(entry, kind) else None


def check_start(patch: Patch, task: str, config: FitConfig) -> None:
    """Raise ConfigError if a run would count weights of units that the task it starts from has removed."""
    if patch.units is not None and patch.units.removed and config.has_size_target:
        raise ConfigError(
            f"`{task}` has removed {patch.units.removed} units, and a size of the mask counts single weights",
            "start without that task, or leave the size to the margin",
        )


def check_start_units(units: Units | None, task: str, config: Any, masked: Collection[str]) -> None:
    """Raise ConfigError if units that are gone in the task a run starts from would come back.

    Args:
        units: of that task.
        task: its name.
        config: of the model.
        masked: names of the linears that get a mask.
    """
    if units is None:
        return
    own, names = own_units(units, config), set(masked)
    for group, kept in zip(units.groups, units.kept, strict=True):
        lost = f"`{task}` has removed {int((~kept).sum())} {group.kind} of layer {group.layer}"
        if kept.all():
            continue
        if own is None or group not in own.groups:
            raise ConfigError(
                f"{lost}, whose weights are no {group.kind} of this model",
                "start without that task",
            )
        if not {part.name for part in group.parts} <= names:
            raise ConfigError(
                f"{lost}, and the run does not mask all of their linears: they would come back",
                "leave `layers`, `trunk` and `modules` out, or start without that task",
            )
