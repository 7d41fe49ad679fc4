"""One label a row: labels are class numbers, int64 `(rows)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.evaluation.calibration import SOFTMAX, Decision
from maskpack.tasks.evaluation.metrics import Confusion, count_confusion
from maskpack.tasks.types.base import GIVE_A_LABEL, TaskType, label_positions

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(TaskType):
    """A type whose outputs `(n, c)` are logits of classes, of which each has one."""

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The label without blanks around it."""
        if self.lacks_label(cell):
            raise DataError(f"{row} has no label in `{column}` (`{cell}`)", GIVE_A_LABEL)
        return cell.strip()

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


class SingleLabel(CrossEntropy):
    """Classification: each row has one of several labels."""

    name = "classification"
    summary = "one of several labels"
    problem_type = "single_label_classification"
    usual_metrics = ("accuracy", "macro_f1", "matthews")
    other_metrics = ("f1",)
    probabilities = SOFTMAX

    def expected(self, cell: str, separator: str | None) -> str:
        """The label without blanks around it, as training reads it."""
        del separator
        return cell.strip()

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Class numbers int64 `(rows)`."""
        del separator
        positions = label_positions(((cell,) for cell in cells), names, split)
        return np.fromiter((row[0] for row in positions), dtype=np.int64, count=len(cells))

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Rows `(c)` of each class."""
        return np.bincount(labels, minlength=classes)

    def balanced_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32] | None:
        """`n / (k n_class)` over the `k` classes that have rows, as scikit-learn's `balanced`; 0 for others.

        >>> SingleLabel().balanced_weights(np.array([0, 0, 0, 1]), 3)  # 4 / (2 * 3) and 4 / (2 * 1)
        array([0.6666667, 2.       , 0.       ], dtype=float32)
        """
        counts = self.counts(labels, classes)
        there = counts > 0
        weights = np.zeros(classes, dtype=np.float32)
        weights[there] = len(labels) / (there.sum() * counts[there])
        return weights

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Mean over rows of the cross-entropy times the weight of the row's class.

        torch's own mean divides by the weights of the batch, so that a rare class would count less in a batch that
        has it than in one of rare rows only. Over all rows the weights have the mean 1.
        """
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        return functional.cross_entropy(logits, labels, weight=weights, reduction="none").mean()

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Class numbers `(rows)`."""
        return np.asarray(logits.argmax(axis=1))

    def decisions(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> tuple[Decision, ...]:
        """Of two classes the rarer one, the second if both are equally common; more than two have no threshold."""
        if logits.shape[1] != 2:
            return ()
        first, second = self.counts(labels, 2)
        rare = 0 if first < second else 1
        wide = logits.astype(np.float64)
        return (Decision(rare, wide[:, rare] - wide[:, 1 - rare], labels == rare),)

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The commonest class for every row."""
        values, counts = np.unique(labels, return_counts=True)
        return [np.full(labels.shape, values[counts.argmax()])]

    def confusion(
        self, labels: NDArray[Any], logits: NDArray[np.float32], names: tuple[str, ...]
    ) -> Confusion | None:
        """Counts of every true and given class."""
        return count_confusion(labels, self.answers(logits), names)
