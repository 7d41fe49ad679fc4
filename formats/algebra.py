"""Move tasks between artifacts, and compare the weights that tasks remove. Nothing is learned again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.card import Describe, plain_facts
from maskpack.formats.errors import ArtifactError
from maskpack.formats.packed import decode_packed, encode_packed
from maskpack.formats.reader import Artifact, open_artifact
from maskpack.formats.schema import Manifest, check_new_name, portable_entry
from maskpack.formats.tensors import Backbone, Patch, QuantTensor
from maskpack.formats.writer import (
    add_task,
    change_tasks,
    check_vacant,
    keep_divisors,
    write_patch,
)

_LOG = logging.getLogger(__name__)


def pack_task(artifact: Artifact, task: str) -> bytes:
    """A task as one small file. Inverse of `unpack_task`."""
    entry, patch = artifact.entry(task), artifact.patch(task)
    return encode_packed(patch, entry, backbone=artifact.backbone, manifest=artifact.manifest)


def unpack_task(
    path: Path,
    data: bytes,
    *,
    name: str | None = None,
    replacing: bool = False,
    describe: Describe = plain_facts,
) -> Artifact:
    """Add a packed task to the artifact at `path`; inverse of `pack_task`.

    Args:
        path: the artifact; its backbone must be the one the task was learned on.
        data: from `pack_task`.
        name: of the task there; None: the name that it had.
        replacing: whether a task of that name is replaced.
        describe: what the card says beside the manifest.

    Raises:
        ArtifactError: damaged, another backbone, or the name is taken.
    """
    artifact = open_artifact(path)
    entry, patch = decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)
    if name is not None:
        entry = entry.renamed(name)
    if entry.training.get("simulate") and artifact.manifest.divisors_sha256 is None:
        _LOG.warning(
            "`%s` learned with divisors that `%s` does not hold: its int8 graph measures its own, and may round a little otherwise",
            entry.name,
            path,
        )
    digest = artifact.manifest.backbone_sha256  # another process may replace the artifact meanwhile
    return add_task(
        path, entry, patch, replacing=replacing, backbone_sha256=digest, describe=describe
    )


def remove_task(path: Path, task: str, *, describe: Describe = plain_facts) -> Artifact:
    """Take a task out of the artifact at `path`; the backbone is not touched."""

    def change(artifact: Artifact) -> Manifest:
        artifact.entry(task)
        tasks = {n: entry for n, entry in artifact.manifest.tasks.items() if n != task}
        return replace(artifact.manifest, tasks=tasks)

    return change_tasks(path, change, describe)


def rename_task(path: Path, task: str, name: str, *, describe: Describe = plain_facts) -> Artifact:
    """Rename a task of the artifact at `path`.

    Raises:
        ArtifactError: no such task, or the name is taken or not allowed.
    """
    check_new_name(name)

    def change(artifact: Artifact) -> Manifest:
        check_vacant(artifact, name, replacing=False)
        entry, patch = artifact.entry(task), artifact.patch(task)
        manifest = write_patch(path, artifact.manifest, entry.renamed(name), patch)
        return replace(manifest, tasks={n: e for n, e in manifest.tasks.items() if n != task})

    return change_tasks(path, change, describe)


def merge_tasks(path: Path, other: Artifact, *, describe: Describe = plain_facts) -> Artifact:
    """Add all tasks of `other` to the artifact at `path`: all of them, or none; and its divisors, where there are none.

    Raises:
        ArtifactError: another backbone, tokenizer or configuration, or a name that both have.
    """

    def change(artifact: Artifact) -> Manifest:
        own, digest = artifact.manifest, other.manifest.backbone_sha256
        if own.backbone_sha256 != digest:
            raise ArtifactError(
                f"`{other.path}` has backbone {digest[:12]}, `{path}` {own.backbone_sha256[:12]}",
                "patches fit one backbone only; learn the tasks again over this one",
            )
        if own.files != other.manifest.files:
            raise ArtifactError(
                f"`{other.path}` has the same backbone as `{path}`, but another tokenizer or "
                "configuration",
                "a diff of the two names the files",
            )
        if both := sorted(own.tasks.keys() & other.manifest.tasks.keys()):
            raise ArtifactError(f"both artifacts have a task `{both[0]}`", "rename one")
        manifest = keep_divisors(path, own, other.divisors)
        for task in sorted(other.manifest.tasks):
            manifest = write_patch(path, manifest, other.entry(task), other.patch(task))
        return manifest

    return change_tasks(path, change, describe)


@dataclass(frozen=True)
class Overlap:
    """How far two tasks remove the same weights, or the same units.

    Attributes:
        first, second: names of the tasks.
        first_zeros, second_zeros: weights that each removes, or units.
        both: weights that both remove.
        by_chance: weights that both would remove if their masks were independent, matrix by matrix; units,
            group by group.
        units: the same of whole units; None where neither task knows of units.
    """

    first: str
    second: str
    first_zeros: int
    second_zeros: int
    both: int
    by_chance: float
    units: Overlap | None = None

    @property
    def either(self) -> int:
        """Weights that at least one removes: the zeros of the union."""
        return self.first_zeros + self.second_zeros - self.both

    @property
    def jaccard(self) -> float:
        """Share of the union that both remove; 0 where neither removes any."""
        return self.both / self.either if self.either else 0.0


def overlaps(artifact: Artifact) -> list[Overlap]:
    """Every pair of tasks of an artifact, in the order of their names."""
    patches = {task: artifact.patch(task) for task in sorted(artifact.manifest.tasks)}
    return [
        overlap(artifact.backbone, (a, patches[a]), (b, patches[b]))
        for a, b in combinations(patches, 2)
    ]


def overlap(backbone: Backbone, first: tuple[str, Patch], second: tuple[str, Patch]) -> Overlap:
    """Compare what two patches over one backbone remove; codes that are 0 do not count."""
    zeros, both, chance = [0, 0], 0, 0.0
    for name, tensor in backbone.linears.items():
        gone = [_removed(patch, name, tensor) for _, patch in (first, second)]
        counts = [int(each.sum()) for each in gone]
        zeros = [total + count for total, count in zip(zeros, counts, strict=True)]
        both += int((gone[0] & gone[1]).sum())
        chance += counts[0] * counts[1] / max(1, int(np.count_nonzero(tensor.codes)))
    own = _unit_overlap(first, second)
    return Overlap(first[0], second[0], zeros[0], zeros[1], both, chance, own)


def _unit_overlap(first: tuple[str, Patch], second: tuple[str, Patch]) -> Overlap | None:
    """Compare which units two patches remove."""
    known = [patch.units for _, patch in (first, second) if patch.units is not None]
    if not known:
        return None
    gone = [_units_gone(patch) for _, patch in (first, second)]
    chance = 0.0
    for group in known[0].groups:  # where only one task has units, both remove none
        place = (group.kind, group.layer)
        counts = [sum(unit[:2] == place for unit in units) for units in gone]
        chance += counts[0] * counts[1] / group.count
    both = len(gone[0] & gone[1])
    return Overlap(first[0], second[0], len(gone[0]), len(gone[1]), both, chance)


def _units_gone(patch: Patch) -> frozenset[tuple[str, int, int]]:
    return frozenset() if patch.units is None else patch.units.removed_units()


def _removed(patch: Patch, name: str, tensor: QuantTensor) -> NDArray[np.bool_]:
    mask = patch.masks.get(name)
    return np.zeros(tensor.shape, dtype=np.bool_) if mask is None else mask.removed(tensor)


@dataclass(frozen=True)
class TaskChange:
    """A task that two artifacts both have.

    Attributes:
        name: of the task.
        same_bytes: whether the patches are equal byte for byte.
        bits: mask bits that differ; None over different backbones.
        units: units that one of them removes and the other does not; None over different backbones.
        scores: metric -> (value in A, value in B), for the metrics of both.
        fields: fields of the manifest's entries that differ, `file` and `sha256` apart.
    """

    name: str
    same_bytes: bool
    bits: int | None
    scores: Mapping[str, tuple[float, float]]
    fields: tuple[str, ...] = ()
    units: int | None = 0


@dataclass(frozen=True)
class Difference:
    """Differences between artifacts A and B.

    Attributes:
        same_backbone: whether patches of one fit the other.
        only_a, only_b: tasks that one of them has.
        tasks: tasks of both.
        fields: manifest field -> (in A, in B), for those that differ.
    """

    same_backbone: bool
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    tasks: tuple[TaskChange, ...]
    fields: Mapping[str, tuple[str, str]]

    @property
    def empty(self) -> bool:
        """Whether both have the same content."""
        alike = all(task.same_bytes and not task.fields for task in self.tasks)
        same = self.same_backbone and alike
        return same and not (self.only_a or self.only_b or self.fields)


def difference(a: Artifact, b: Artifact) -> Difference:
    """Compare two artifacts; weights of different backbones are not compared one by one."""
    tasks_a, tasks_b = a.manifest.tasks, b.manifest.tasks
    return Difference(
        same_backbone=a.manifest.backbone_sha256 == b.manifest.backbone_sha256,
        only_a=tuple(sorted(tasks_a.keys() - tasks_b.keys())),
        only_b=tuple(sorted(tasks_b.keys() - tasks_a.keys())),
        tasks=tuple(_change_of(a, b, name) for name in sorted(tasks_a.keys() & tasks_b.keys())),
        fields=_fields(a.manifest, b.manifest),
    )


def _change_of(a: Artifact, b: Artifact, task: str) -> TaskChange:
    first, second = a.entry(task), b.entry(task)
    same = first.sha256 == second.sha256
    bits: int | None = None
    units: int | None = None
    if a.manifest.backbone_sha256 == b.manifest.backbone_sha256:
        bits = units = 0
        if not same:
            one, two = a.patch(task), b.patch(task)
            bits = _bits_apart(a.backbone, one, two)
            units = len(_units_gone(one) ^ _units_gone(two))
    common = sorted(first.scores.keys() & second.scores.keys())
    scores = {name: (float(first.scores[name]), float(second.scores[name])) for name in common}
    own, other = portable_entry(first), portable_entry(second)
    fields = tuple(key for key in sorted(own) if own[key] != other[key])
    return TaskChange(task, same, bits, scores, fields, units)


def _bits_apart(backbone: Backbone, first: Patch, second: Patch) -> int:
    total = 0
    for name, tensor in backbone.linears.items():
        gone = [_removed(patch, name, tensor) for patch in (first, second)]
        total += int((gone[0] != gone[1]).sum())
    return total


def _fields(a: Manifest, b: Manifest) -> dict[str, tuple[str, str]]:
    """Fields outside the tasks that differ, as text; of files, their digests."""
    fields: dict[str, tuple[str, str]] = {}
    for part in ("source", "scheme"):
        own, other = vars(getattr(a, part)), vars(getattr(b, part))
        for key in own:
            if own[key] != other[key]:
                fields[f"{part}.{key}"] = (str(own[key]), str(other[key]))
    digests = {
        f"files.{name}": (a.files.get(name), b.files.get(name)) for name in {*a.files, *b.files}
    }
    digests["divisors"] = (a.divisors_sha256, b.divisors_sha256)
    for name, (first, second) in sorted(digests.items()):
        if first != second:
            fields[name] = ((first or "absent")[:12], (second or "absent")[:12])
    return fields
