"""A number a row: labels are values, float32 `(rows)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.types.base import TaskType

if TYPE_CHECKING:
    from torch import Tensor

_MOST_PAIRS = 500  # rows, evenly taken: a picture shows no more


class Regression(TaskType):
    """One number a row."""

    name = "regression"
    problem_type = "regression"
    usual_metrics = ("spearman", "pearson")

    def expected(self, cell: str, separator: str | None) -> float:
        """The number as text.

        Raises:
            DataError: it is none.
        """
        del separator
        try:
            return float(cell)
        except ValueError as error:
            raise DataError(f"`{cell[:60]}` is no number, and the task predicts one") from error

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The cell as it is, if it is a finite number."""
        del column
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise DataError(f"{row} has `{cell}`, not a number")
        return cell

    def label_names(
        self, column: str, cells: Sequence[str], separator: str | None
    ) -> tuple[str, ...]:
        """None: numbers have no names."""
        del column, cells, separator
        return ()

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Values float32 `(rows)`."""
        del names, separator, split
        return np.array([float(cell) for cell in cells], dtype=np.float32)

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Empty: numbers are not counted."""
        del labels, classes
        return np.zeros(0, dtype=np.int64)

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

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The mean for every row."""
        return [np.full(labels.shape, labels.astype(np.float64).mean())]

    def pairs(
        self, labels: NDArray[Any], logits: NDArray[np.float32]
    ) -> tuple[tuple[float, float], ...]:
        """True and given value of some rows, evenly taken."""
        some = np.linspace(0, len(labels) - 1, min(len(labels), _MOST_PAIRS)).astype(int)
        return tuple((float(labels[row]), float(logits[row, 0])) for row in some)
