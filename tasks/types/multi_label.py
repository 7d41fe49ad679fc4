"""Several labels a row, or none: labels are 0 and 1 as int8 `(rows, c)`, each predicted separately."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.formats.files import half_letter
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.evaluation.calibration import SIGMOID, Decision
from maskpack.tasks.types.base import TaskType, label_positions

if TYPE_CHECKING:
    from torch import Tensor

_MOST_WEIGHT = (
    100.0  # of one yes against a no: one row of a label rarer than 1 % would make up a whole step
)


class MultiLabel(TaskType):
    """Classification where a row may have several labels, or none."""

    name = "multi-label"
    summary = "any number of labels"
    problem_type = "multi_label_classification"
    usual_metrics = ("micro_f1", "macro_f1", "accuracy")
    several = True
    probabilities = SIGMOID

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """A list as JSON or Python writes one, or labels with a separator, or one label, or nothing."""
        listed = _as_list(cell)
        if listed is None:
            listed = [cell] if separator is None else cell.split(separator)
        return tuple(dict.fromkeys(label.strip() for label in listed if label.strip()))

    def expected(self, cell: str, separator: str | None) -> list[str]:
        """The labels as a list."""
        return list(self.cell_labels(cell, separator))

    def lacks_label(self, cell: str) -> bool:
        """Whether a table has no value there; an empty cell or list is a row of no label."""
        return cell == NO_LABEL

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The cell as it is: an empty one is a row without labels."""
        odd = [label for label in _as_list(cell) or () if half_letter(label)]
        if odd:
            raise DataError(
                f"{row} has {odd[0]!r} in `{column}`, which holds half of a surrogate pair"
            )
        return cell

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """0 and 1 as int8 `(rows, c)`."""
        rows = (self.cell_labels(cell, separator) for cell in cells)
        table = np.zeros((len(cells), len(names)), dtype=np.int8)
        for number, places in enumerate(label_positions(rows, names, split)):
            table[number, places] = 1
        return table

    def in_order(self, labels: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """The columns in another order."""
        return labels[:, places]

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Rows `(c)` that have each label."""
        del classes
        return np.asarray(labels.sum(axis=0, dtype=np.int64))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of the labels."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        return functional.binary_cross_entropy_with_logits(logits, labels.float())

    def balanced_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32] | None:
        """Rows without a label for each row with it: the weight of a yes. From 1/100 to 100; 1 where one of both is missing.

        >>> MultiLabel().balanced_weights(np.array([[1, 0], [0, 0], [0, 0], [0, 0]]), 2)  # 3 / 1
        array([3., 1.], dtype=float32)
        """
        yes = self.counts(labels, classes)
        no = len(labels) - yes
        ratio = np.clip(no / np.maximum(yes, 1), 1.0 / _MOST_WEIGHT, _MOST_WEIGHT)
        return np.where((yes > 0) & (no > 0), ratio, 1.0).astype(np.float32)

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Mean binary cross-entropy, in which a yes counts with the weight of its label."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        return functional.binary_cross_entropy_with_logits(
            logits, labels.float(), pos_weight=weights
        )

    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Mean divergence of yes-or-no answers, one a label, from the teacher's, times `T^2`."""
        from torch.nn import functional  # noqa: PLC0415 - reading a task imports no torch

        own, other = logits / temperature, wanted / temperature
        yes = other.sigmoid() * (functional.logsigmoid(other) - functional.logsigmoid(own))
        no = (-other).sigmoid() * (functional.logsigmoid(-other) - functional.logsigmoid(-own))
        return temperature**2 * (yes + no).mean()

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """1 where the sigmoid is above a half, int8 `(rows, c)`."""
        return (logits > 0).astype(np.int8)

    def decisions(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> tuple[Decision, ...]:
        """One for each label."""
        wide = logits.astype(np.float64)
        return tuple(
            Decision(label, wide[:, label], labels[:, label] == 1) for label in range(wide.shape[1])
        )

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The commonest label for every row, the two commonest, and so on."""
        order = np.argsort(-labels.astype(np.int64).sum(axis=0), kind="stable")
        chosen = (np.isin(np.arange(len(order)), order[: n + 1]) for n in range(len(order)))
        return [np.broadcast_to(row.astype(np.int8), labels.shape) for row in chosen]


def _as_list(cell: str) -> list[str] | None:
    """The list of texts or numbers that a cell holds as text, or None."""
    if not cell.lstrip().startswith("["):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
            with suppress(ValueError):  # a number of more digits than Python turns into text
                return [str(one) for one in value]
    return None
