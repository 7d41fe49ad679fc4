"""Several labels a row, or none: labels are 0 and 1 as int8 `(rows, c)`, each predicted separately."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.tasks.types.base import TaskType, label_positions

if TYPE_CHECKING:
    from torch import Tensor


class MultiLabel(TaskType):
    """Classification where a row may have several labels, or none."""

    name = "multi-label"
    problem_type = "multi_label_classification"
    usual_metrics = ("micro_f1", "macro_f1", "accuracy")
    several = True

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """A list as JSON or Python writes one, or labels with a separator, or one label, or nothing."""
        listed = _as_list(cell)
        if listed is None:
            listed = [cell] if separator is None else cell.split(separator)
        return tuple(dict.fromkeys(label.strip() for label in listed if label.strip()))

    def expected(self, cell: str, separator: str | None) -> list[str]:
        """The labels as a list."""
        return list(self.cell_labels(cell, separator))

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The cell as it is: an empty one is a row without labels."""
        del row, column
        return cell

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """0 and 1 as int8 `(rows, c)`."""
        rows = [self.cell_labels(cell, separator) for cell in cells]
        table = np.zeros((len(rows), len(names)), dtype=np.int8)
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
            return [str(one) for one in value]
    return None
