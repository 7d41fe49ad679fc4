"""What an export and a package can be told. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.layouts import LAYOUTS, find_layout
from maskpack.formats import ConfigError


class Compute(StrEnum):
    """Names of the arithmetics in `ARITHMETICS` that this release brings."""

    INT8 = "int8"
    FP32 = "fp32"
    NBITS = "nbits"


class Layout(StrEnum):
    """Names of the layouts in `LAYOUTS` that this release brings."""

    FOLDED = "folded"
    SHARED = "shared"
    SWAP = "swap"


class Target(StrEnum):
    """Who runs the graphs of a package."""

    ORT = "ort"
    WEB = "web"
    MOBILE = "mobile"


OPSET = 18
"""Oldest opset with everything the graphs use; read by ONNX Runtime 1.17 and later."""

IR_VERSION = 8
"""What ONNX Runtime 1.17 reads; newer onnx packages would stamp one it refuses."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export and where to.

    Attributes:
        artifact: folder that `compress fit` wrote.
        task: one of its tasks.
        out: folder to make.
        compute: arithmetic of the linears.
        tolerance: for the verdict that follows.
        data: evaluation data, if the task's does not ship with the package.
        reference: a fine-tuned model, folder or hub id, to compare with as well.
        verify: whether to verify; without it the folder is written unchecked.
    """

    artifact: Path
    task: str
    out: Path
    compute: str
    tolerance: Tolerance
    data: Path | None = None
    reference: str | None = None
    verify: bool = True


@dataclass(frozen=True)
class SharedRequest:
    """Which tasks to export over one file of weights, and where to.

    Attributes:
        artifact: folder that `compress fit` wrote.
        tasks: some of its tasks; none: all of them.
        out: folder to make.
        compute: arithmetic of the linears.
        tolerance: for the verdicts that follow.
        data: task -> its evaluation data, where that does not ship with the package.
        verify: whether to verify.
        packed: whether codes of 4, 2 and 1 bits stay so narrow in `backbone.bin`; graphs unpack them,
            which takes some 25 bytes a weight while a session is made.
        layout: `shared`, a graph a task, or `swap`, one graph for all.
    """

    artifact: Path
    tasks: tuple[str, ...]
    out: Path
    compute: str
    tolerance: Tolerance
    data: Mapping[str, Path] = field(default_factory=dict)
    verify: bool = True
    packed: bool = False
    layout: str = Layout.SHARED

    def __post_init__(self) -> None:
        if not find_layout(self.layout).several:
            raise ConfigError(
                f"a {self.layout} graph has its weights to itself",
                f"layouts: {', '.join(name for name, layout in LAYOUTS.items() if layout.several)}",
            )
        arithmetic, layout = find_arithmetic(self.compute), find_layout(self.layout)
        if layout.masks_as_inputs and not arithmetic.masks_as_inputs:
            raise ConfigError(
                f"{self.compute} arithmetic reads constant weights, the {self.layout} layout masks "
                "them in every run",
                "choose `int8` or `fp32` arithmetic, or the `shared` layout",
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"a task is named twice: {', '.join(self.tasks)}")


ARCHIVES = (".zip", ".tar.gz")
"""Endings of archives that can be written."""

_OTHER_ARCHIVES = {".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}


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
