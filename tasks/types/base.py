"""Types of tasks. Everything that differs between types is here, so that no other code asks for the type.

An entry says how labels are read, what a step minimises, how outputs become answers, and the metrics. The part
for devices, the decoder of outputs, is in `runtime/outputs.py` under the same name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ArtifactError, DataError
from maskpack.runtime.outputs import DECODERS, OutputDecoder
from maskpack.tasks.evaluation.metrics import Confusion

if TYPE_CHECKING:
    from torch import Tensor  # at run time only where a step needs it

_MOST = 50  # labels; with more, of which most stand once, the column is taken for something else


class TaskType(ABC):
    """One type of task.

    Attributes:
        name: as manifests spell it.
        problem_type: transformers' name of it in `config.json`.
        usual_metrics: metrics for the user's own data; the first is the main one.
        other_metrics: further metrics that may be chosen.
        pipeline_tag: the Hub's name of the task type.
        auto_class: class of transformers that loads such a model.
        preprocessor: name in `tasks/preprocess.py::PREPROCESSORS`.
        several: whether a row may have several labels, so that a cell may hold a list of them.
    """

    name: ClassVar[str]
    problem_type: ClassVar[str]
    usual_metrics: ClassVar[tuple[str, ...]]
    other_metrics: ClassVar[tuple[str, ...]] = ()
    pipeline_tag: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    preprocessor: ClassVar[str] = "text"
    several: ClassVar[bool] = False

    @property
    def decoder(self) -> OutputDecoder:
        """Decodes its outputs, in numpy alone."""
        return DECODERS[self.name]

    @property
    def labelled(self) -> bool:
        """Whether an output stands for a label; else outputs are numbers and there are no labels."""
        return self.decoder.labelled

    def check_labels(self, labels: Sequence[str], task: str) -> None:
        """Raise ArtifactError unless a task of this type can have these labels."""
        if self.labelled and len(labels) < 2:
            raise ArtifactError(f"task `{task}` has {len(labels)} labels, expected at least 2")
        if labels and not self.labelled:
            raise ArtifactError(f"task `{task}` has {len(labels)} labels, a {self.name} has none")

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """The labels of one row, each once; none of a number.

        Args:
            cell: of the label column.
            separator: what stands between labels, where a row may have several.
        """
        del separator
        return (cell,) if self.labelled else ()

    def expected(self, cell: str, separator: str | None) -> str | float | list[str]:
        """A cell of the label column in the form of an answer, to be compared with one."""
        del separator
        return cell

    @abstractmethod
    def check_cell(self, cell: str, row: str, column: str) -> str:
        """A cell of the user's own data in its stored form.

        Args:
            cell: of the label column.
            row: its row in words, for an error.
            column: name of the column.

        Raises:
            DataError: it cannot be a label of this type.
        """

    def label_names(
        self, column: str, cells: Sequence[str], separator: str | None
    ) -> tuple[str, ...]:
        """Distinct labels of a column: numbers by value, words by alphabet.

        Raises:
            DataError: there is only one, or nearly one for each row.
        """
        labels = {label for cell in cells for label in self.cell_labels(cell, separator)}
        numeric = all(re.fullmatch("-?[0-9]+", label) for label in labels)
        names = tuple(sorted(labels, key=int if numeric else None))
        if len(names) < 2:
            raise DataError(
                f"column `{column}` holds one label only: {', '.join(names) or 'none at all'}",
                "a task needs rows of two labels or more",
            )
        if len(names) > max(_MOST, len(cells) // 2):
            raise DataError(
                f"column `{column}` holds {len(names)} labels in {len(cells)} rows, "
                f"such as `{names[0][:40]}`",
                "choose another `label_field`; a number is of the kind `regression`",
            )
        return names

    @abstractmethod
    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Labels as arrays for training, one entry or row for each cell.

        Args:
            cells: of the label column.
            names: labels in the order of the logits.
            separator: text between labels.
            split: which rows these are, in words, for an error.

        Raises:
            DataError: a label that is not among `names`.
        """

    def in_order(self, labels: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """The same labels in another order: label `i` is the one that was at `places[i]`."""
        return np.asarray(np.argsort(places)[labels])

    @abstractmethod
    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Rows `(c)` of each label."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of `logits (b, c)` against labels as `encode` gives them."""

    @abstractmethod
    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Distance of `logits (b, c)` from a teacher's, softened by a temperature."""

    @abstractmethod
    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Predictions of logits `(rows, c)`, in the form of the labels."""

    @abstractmethod
    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """Constant predictions; the best of them is the result of a collapsed model."""

    def confusion(
        self, labels: NDArray[Any], logits: NDArray[np.float32], names: tuple[str, ...]
    ) -> Confusion | None:
        """Confusion of classes; None where a row may have several classes, or a number."""
        del labels, logits, names
        return None

    def pairs(
        self, labels: NDArray[Any], logits: NDArray[np.float32]
    ) -> tuple[tuple[float, float], ...]:
        """True and predicted numbers of some rows; empty where answers are labels."""
        del labels, logits
        return ()


def label_positions(
    labels: Sequence[tuple[str, ...]], names: Sequence[str], split: str
) -> list[list[int]]:
    """The index of every label of every row in `names`.

    Raises:
        DataError: a label that is not among them.
    """
    index = {label: number for number, label in enumerate(names)}
    positions: list[list[int]] = []
    for number, row in enumerate(labels):
        odd = [label for label in row if label not in index]
        if odd:
            raise DataError(
                f"data row {number + 1} of the {split} has the unknown label `{odd[0]}`",
                f"labels: {', '.join(names)}",
            )
        positions.append([index[label] for label in row])
    return positions
