"""A number a row: labels are values, float32 `(rows)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.formats.target import TargetScale
from maskpack.tasks.types.base import GIVE_A_LABEL, WithoutLabels

if TYPE_CHECKING:
    from torch import Tensor

_MOST_PAIRS = 500  # rows, evenly taken: a picture shows no more
_LARGEST = float(np.finfo(np.float32).max)
_NEAR = 5.0  # largest mean, in size, of targets that are learned as they are
_NARROW, _WIDE = 0.1, 10.0  # and their standard deviations
_LEAST = 1e-30  # standard deviation of rows that all have one number
_CONSTANT = 0.05  # of the targets' standard deviation


class Numbers(WithoutLabels):
    """A type whose label is a number: float32 `(rows)`."""

    def expected(self, cell: str, separator: str | None) -> float:
        """The number as text.

        Raises:
            DataError: it is none.
        """
        del separator
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise DataError(f"`{cell[:60]}` is no number, and the task predicts one")
        return value

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The cell as it is, if it is a finite number."""
        del column
        if self.lacks_label(cell):
            raise DataError(f"{row} has `{cell}`, not a number", GIVE_A_LABEL)
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise DataError(f"{row} has `{cell}`, not a number")
        if abs(value) > _LARGEST:
            raise DataError(f"{row} has `{cell}`, a number too large for float32")
        return cell

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Values float32 `(rows)`."""
        del names, separator, split
        return np.fromiter(map(float, cells), dtype=np.float32, count=len(cells))

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The mean for every row."""
        return [np.full(labels.shape, labels.astype(np.float64).mean())]

    def pairs(
        self, labels: NDArray[Any], logits: NDArray[np.float32]
    ) -> tuple[tuple[float, float], ...]:
        """True and given value of some rows, evenly taken."""
        given = self.answers(logits)
        some = np.linspace(0, len(labels) - 1, min(len(labels), _MOST_PAIRS)).astype(int)
        return tuple((float(labels[row]), float(given[row])) for row in some)


class Regression(Numbers):
    """One number a row."""

    name = "regression"
    summary = "a number"
    problem_type = "regression"
    usual_metrics = ("spearman", "pearson")
    error_metrics = ("mae", "rmse")

    def target_scale(self, labels: NDArray[Any]) -> TargetScale | None:
        """Mean and standard deviation of targets that are far from 0 or of another size than 1.

        A head starts near 0 and moves in steps of its learning rate: it would take thousands of steps to a price,
        and its float16 has no number above 65504.
        """
        values = labels.astype(np.float64)
        mean, spread = float(values.mean()), float(values.std())
        if abs(mean) <= _NEAR and (_NARROW <= spread <= _WIDE):
            return None
        scale = float(np.float32(spread))
        return TargetScale(float(np.float32(mean)), scale if scale > _LEAST else 1.0)

    def nearly_constant(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> str | None:
        """The standard deviations of answers and targets, if the first is a small part of the second."""
        given, true = (float(each.astype(np.float64).std()) for each in (logits[:, 0], labels))
        if not given < _CONSTANT * true:
            return None
        return f"answers are nearly constant: they vary by {given:.3g}, the targets by {true:.3g}"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        return functional.mse_loss(logits[:, 0], labels.float())

    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Mean squared distance from the teacher's numbers."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        del temperature
        return functional.mse_loss(logits, wanted)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The numbers themselves, float32 `(rows)`."""
        return logits[:, 0]
