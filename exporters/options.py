"""What an export can be told, and what a verdict tolerates. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from maskpack.formats import ConfigError


class Compute(StrEnum):
    """Arithmetic of the graph's linears."""

    INT8 = "int8"
    FP32 = "fp32"


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
    """

    atol: float | None
    max_drop: float

    def __post_init__(self) -> None:
        if self.atol is not None and not self.atol > 0:
            raise ConfigError(f"`atol` is {self.atol}, expected a number above 0")
        if not self.max_drop >= 0:
            raise ConfigError(f"`max_drop` is {self.max_drop}, expected 0 or more points")

    @classmethod
    def of(cls, compute: Compute, *, atol: float | None, max_drop: float | None) -> Tolerance:
        """The user's tolerances, or the defaults of an arithmetic.

        fp32 must be exact up to rounding. int8 rounds activations, so that single logits move by
        some hundredths of their range; there the metric judges, and `atol` only stops nonsense.
        """
        usual = DEFAULT_ATOL[compute]
        return cls(usual if atol is None else atol, 0.5 if max_drop is None else max_drop)


DEFAULT_ATOL = {Compute.INT8: 1.0, Compute.FP32: 1e-4}


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
