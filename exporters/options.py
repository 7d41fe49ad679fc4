"""What an export can be told, and what a verdict tolerates. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from maskpack.formats import ConfigError


class Compute(StrEnum):
    """Arithmetic of the graph's linears."""

    INT8 = "int8"
    FP32 = "fp32"
    NBITS = "nbits"


class Layout(StrEnum):
    """Where a graph's weights lie."""

    FOLDED = "folded"
    SHARED = "shared"
    SWAP = "swap"


OPSET = 18
"""Oldest opset with everything the graphs use; read by ONNX Runtime 1.17 and later."""

IR_VERSION = 8
"""What ONNX Runtime 1.17 reads; newer onnx packages would stamp one it refuses."""


@dataclass(frozen=True)
class Tolerance:
    """How far a graph may be from the masked torch model.

    Attributes:
        atol: largest absolute difference of a logit; None judges no single value.
        max_drop: largest loss of the main metric on the evaluation data, in points (0.01).
        rtol: largest error of the logits of an input, root mean square over root mean square; None
            judges none.
        rows: so many evaluation rows may always be lost: on a hundred of them one row is a point.
    """

    atol: float | None
    max_drop: float
    rtol: float | None = None
    rows: int = 0

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if value is not None and not value > 0:
                raise ConfigError(f"`{name}` is {value}, expected a number above 0")
        if not self.max_drop >= 0:
            raise ConfigError(f"`max_drop` is {self.max_drop}, expected 0 or more points")

    @classmethod
    def of(
        cls,
        compute: Compute,
        *,
        atol: float | None = None,
        max_drop: float | None = None,
        rtol: float | None = None,
    ) -> Tolerance:
        """The user's tolerances, or the defaults of an arithmetic.

        fp32 must be exact up to rounding. int8 rounds activations, so that single logits move by
        a few tenths; there the metric judges, and `rtol` stops a broken graph where there is no
        evaluation data.
        """
        usual = DEFAULTS[compute]
        return cls(
            usual.atol if atol is None else atol,
            usual.max_drop if max_drop is None else max_drop,
            usual.rtol if rtol is None else rtol,
            usual.rows if max_drop is None else 0,
        )

    def allowed_drop(self, rows: int) -> float:
        """Points that the metric may lose on an evaluation split of `rows`.

        >>> Tolerance(None, 0.5, rows=2).allowed_drop(100)
        2.0
        """
        return max(self.max_drop, 100.0 * self.rows / rows)


DEFAULTS = {
    Compute.INT8: Tolerance(atol=None, max_drop=0.5, rtol=0.25, rows=2),
    Compute.FP32: Tolerance(atol=1e-4, max_drop=0.5),
    Compute.NBITS: Tolerance(atol=None, max_drop=0.5, rtol=0.25, rows=2),
}


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
    compute: Compute
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
    compute: Compute
    tolerance: Tolerance
    data: Mapping[str, Path] = field(default_factory=dict)
    verify: bool = True
    packed: bool = False
    layout: Layout = Layout.SHARED

    def __post_init__(self) -> None:
        if self.layout is Layout.FOLDED:
            raise ConfigError("a folded graph has its weights to itself", "layouts: shared, swap")
        if self.layout is Layout.SWAP and self.compute is Compute.NBITS:
            raise ConfigError(
                "nbits arithmetic reads constant weights, the swap layout masks them in every run",
                "`--compute int8` or `fp32`, or `--layout shared`",
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"a task is named twice: {', '.join(self.tasks)}")
