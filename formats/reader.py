"""Open an artifact: the manifest first, the backbone and each patch on first use."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from maskpack.formats import schema
from maskpack.formats.bits import MIXED_ROWS, THREE_BITS
from maskpack.formats.channels import Divisors, decode_divisors
from maskpack.formats.codec import decode_backbone, decode_patch
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.errors import ArtifactError, Hint
from maskpack.formats.schema import Manifest, TaskEntry
from maskpack.formats.tensorfile import Buffer
from maskpack.formats.tensors import Backbone, Patch
from maskpack.formats.unit_bits import check_required

_LOG = logging.getLogger(__name__)
_MISSING = {
    THREE_BITS: "no table of the backbone has 3 bits",
    MIXED_ROWS: "no table of the backbone has rows of two widths",
    DRAWN: "the backbone names no seed",
}
_KEPT = 8  # patches: each may hold a file open


@dataclass(frozen=True, eq=False)
class Artifact:
    """A readable artifact on disk. Digests are checked when a part is read.

    Attributes:
        path: its folder.
        manifest: content of `maskpack.json`, already checked.
    """

    path: Path
    manifest: Manifest

    @cached_property
    def backbone(self) -> Backbone:
        """The shared weights; read once.

        Raises:
            ArtifactError: damaged, or of a feature that the manifest does not name, or names without reason.
        """
        backbone = decode_backbone(self._map(schema.BACKBONE, self.manifest.backbone_sha256))
        for feature in backbone.features:
            if feature not in self.manifest.requires:
                raise ArtifactError(
                    f"the backbone has the feature `{feature}`, which `requires` does not name"
                )
        for feature, missing in _MISSING.items():
            if feature in self.manifest.requires and feature not in backbone.features:
                raise ArtifactError(f"`requires` names the feature `{feature}`, and {missing}")
        return backbone

    @cached_property
    def divisors(self) -> Divisors | None:
        """Divisors of outlier channels that int8 graphs use, by parameter name; None: each export measures its own."""
        if self.manifest.divisors_sha256 is None:
            return None
        backbone = self.backbone
        return decode_divisors(
            self._map(schema.DIVISORS, self.manifest.divisors_sha256),
            backbone_sha256=self.manifest.backbone_sha256,
            shapes={name: tensor.shape for name, tensor in backbone.linears.items()},
        )

    def entry(self, task: str) -> TaskEntry:
        """The manifest's entry of `task`.

        Raises:
            ArtifactError: the artifact has no such task.
        """
        try:
            return self.manifest.tasks[task]
        except KeyError:
            have = ", ".join(sorted(self.manifest.tasks)) or "none yet"
            raise ArtifactError(
                f"`{self.path}` has no task `{task}`", f"tasks in it: {have}"
            ) from None

    @cached_property
    def _kept(self) -> dict[str, Patch]:
        """Patches read last, oldest first."""
        return {}

    def patch(self, task: str) -> Patch:
        """Mask and head of one task, checked against the backbone's digest and shapes.

        The last few are kept, because one command needs a patch several times.
        """
        entry = self.entry(task)
        if task not in self._kept:
            if len(self._kept) == _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[task] = self._read_patch(entry)
        return self._kept[task]

    def _read_patch(self, entry: TaskEntry) -> Patch:
        schema.check_features(entry.requires, f"task `{entry.name}`")
        backbone = (
            self.backbone
        )  # read first, so that an error of the backbone is not reported as one of the patch
        data = self._map(entry.file, entry.sha256)
        patch = decode_patch(
            data,
            task=entry.name,
            backbone_sha256=self.manifest.backbone_sha256,
            shapes={name: tensor.shape for name, tensor in backbone.linears.items()},
        )
        patch.check_fits(backbone)
        check_required(entry.name, entry.requires, patch.units)
        return patch

    def file(self, name: str) -> bytes:
        """A copied configuration or tokenizer file, checked against its digest.

        Raises:
            ArtifactError: the manifest does not name it, or it is damaged.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"`{self.path}` has no file `{name}`", _RESTORE)
        return bytes(self._map(name, self.manifest.files[name]))

    def size(self, name: str) -> int:
        """Bytes of one file of the artifact."""
        path = self.path / name
        try:
            return path.stat().st_size
        except OSError as error:
            raise ArtifactError(f"cannot read `{path}`: {error.strerror}", _RESTORE) from error

    def _map(self, name: str, sha256: str) -> Buffer:
        """A file of the artifact, mapped into memory: the system can drop its pages again.

        Windows removes no file that is mapped. There only the backbone is mapped, which is never replaced.
        """
        path = self.path / name
        try:
            with path.open("rb") as file:
                data: Buffer = b""  # an empty file cannot be mapped
                if sys.platform == "win32" and name != schema.BACKBONE:
                    data = file.read()
                elif os.fstat(file.fileno()).st_size:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ArtifactError(f"cannot read `{path}`: {error.strerror}", _RESTORE) from error
        _LOG.debug("read `%s`, %s bytes", path, f"{len(data):,}")
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise ArtifactError(
                f"`{path}` is damaged: its SHA-256 is {digest[:12]}, "
                f"the manifest says {sha256[:12]}",
                _TRY_AGAIN,
            )
        return data


_RESTORE = "restore the file from a copy, or make the artifact again"
_TRY_AGAIN = (
    "if somebody changed the artifact just now, try again; else restore the file from a copy, or make the "
    "artifact again"
)


def is_artifact(path: Path) -> bool:
    """Whether there is a manifest at `path`; it may be damaged."""
    try:
        return (path / schema.MANIFEST).is_file()
    except OSError:  # such as a name longer than the file system takes
        return False


def open_artifact(path: Path) -> Artifact:
    """Read and check the manifest at `path`.

    Raises:
        ArtifactError: no artifact there, a damaged manifest, or an unknown version.
    """
    try:
        text = (path / schema.MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = Hint("give the folder of an artifact", path=path)
        fact = f"`{path}` is not an artifact: cannot read its `{schema.MANIFEST}`"
        raise ArtifactError(fact, hint) from error
    _LOG.debug("read `%s`", path / schema.MANIFEST)
    return Artifact(path, Manifest.from_json(text))


def check_artifact(path: Path) -> list[str]:
    """Everything that is wrong with the artifact at `path`, one line each; empty if it is sound."""
    try:
        artifact = open_artifact(path)
    except ArtifactError as error:
        return [str(error)]
    manifest = artifact.manifest
    findings = [
        *_try(lambda: artifact.backbone),
        *(line for name in manifest.files for line in _try(partial(artifact.file, name))),
    ]
    if not findings:  # divisors and patches are checked against a backbone that can be read
        findings += _try(lambda: artifact.divisors)
        for task in manifest.tasks:
            findings += _try(partial(_check_task, artifact, task))
    return findings


def _check_task(artifact: Artifact, task: str) -> None:
    entry = artifact.entry(task)
    artifact.patch(task).check_counts(task, zeros=entry.zeros, weights=entry.weights)


def _try(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except ArtifactError as error:
        return [str(error)]
    return []
