"""One label a row: labels are class numbers, int64 `(rows)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.evaluation.metrics import Confusion, count_confusion
from maskpack.tasks.types.base import TaskType, label_positions

if TYPE_CHECKING:
    from torch import Tensor

_MISSING = {"", "nan", "none", "null"}  # as tables are written by programs that lack a value


class SingleLabel(TaskType):
    """Classification: each row has one of several labels."""

    name = "classification"
    problem_type = "single_label_classification"
    usual_metrics = ("accuracy", "macro_f1", "matthews")
    other_metrics = ("f1",)

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The label without blanks around it."""
        if cell.strip().casefold() in _MISSING:
            raise DataError(
                f"{row} has no label in `{column}` (`{cell}`)",
                "give it one, or leave the row out",
            )
        return cell.strip()

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Class numbers int64 `(rows)`."""
        del separator
        positions = label_positions([(cell,) for cell in cells], names, split)
        return np.array([row[0] for row in positions], dtype=np.int64)

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Rows `(c)` of each class."""
        return np.bincount(labels, minlength=classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        return functional.cross_entropy(logits, labels)

    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """`T^2 KL(teacher / T || model / T)` (Hinton et al. 2015, arXiv 1503.02531)."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        divergence = functional.kl_div(
            functional.log_softmax(logits / temperature, dim=1),
            functional.log_softmax(wanted / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Class numbers `(rows)`."""
        return np.asarray(logits.argmax(axis=1))

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The commonest class for every row."""
        values, counts = np.unique(labels, return_counts=True)
        return [np.full(labels.shape, values[counts.argmax()])]

    def confusion(
        self, labels: NDArray[Any], logits: NDArray[np.float32], names: tuple[str, ...]
    ) -> Confusion | None:
        """Counts of every true and given class."""
        return count_confusion(labels, self.answers(logits), names)
