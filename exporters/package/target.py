"""What a package is for, and what one can be told. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from maskpack.formats import ConfigError

ARCHIVES = (".zip", ".tar.gz")
"""Endings of archives that can be written."""

_OTHER_ARCHIVES = {".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}


class Target(StrEnum):
    """Who runs the graphs of a package."""

    ORT = "ort"
    WEB = "web"
    MOBILE = "mobile"


@dataclass(frozen=True)
class PackageRequest:
    """What to package and where to.

    Attributes:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        out: folder to make, or an archive if it ends in `.zip` or `.tar.gz`.
        target: who runs it.
        tasks: some of the folder's tasks; none: all of them.
    """

    folder: Path
    out: Path
    target: Target
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"a task is named twice: {', '.join(self.tasks)}")
        if self.out.suffix in _OTHER_ARCHIVES and not self.out.name.endswith(ARCHIVES):
            raise ConfigError(
                f"`{self.out.name}` is of no known kind", f"kinds: {', '.join(ARCHIVES)}"
            )
