"""Types of tasks. Everything that differs between types is here, so that no other code asks for the type.

An entry says how labels are read, what a step minimises, how outputs become answers, and the metrics. The part
for devices, the decoder of outputs, is in `runtime/outputs.py` under the same name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ArtifactError, ConfigError, DataError
from maskpack.formats.target import TargetScale
from maskpack.models.families import TEXT
from maskpack.runtime.outputs import DECODERS, Answered, OutputDecoder
from maskpack.tasks.alike import look_of, spelled
from maskpack.tasks.data.cells import MISSING, NO_LABEL, Row
from maskpack.tasks.evaluation.calibration import Decision, Probabilities
from maskpack.tasks.evaluation.marked import MarkedText
from maskpack.tasks.evaluation.metrics import Confusion, class_counts

if TYPE_CHECKING:
    from torch import Tensor  # at run time only where a step needs it

_MOST = 50  # labels; with more, of which most stand once, the column may be something else
_WHOLE = re.compile("-?[0-9]{1,400}")
GIVE_A_LABEL = "give it one, leave the row out, or learn with `unlabelled` skip"
"""The hint for a row without a label."""


class TaskType(ABC):
    """One type of task.

    Attributes:
        name: as manifests spell it.
        summary: what it answers, in a few words.
        problem_type: transformers' name of it in `config.json`; None: it has none.
        usual_metrics: metrics for the user's own data; the first is the main one.
        other_metrics: further metrics that may be chosen.
        pipeline_tag: the Hub's name of the task type.
        auto_class: class of transformers that loads such a model.
        preprocessor: name in `tasks/preprocess.py::PREPROCESSORS`.
        reads: what its model reads, as of `Family.reads`: texts, or images, of which a row holds the path or a data URL.
        several: whether a row may have several labels, so that a cell may hold a list of them.
        structured: whether cells may hold lists and objects, of which `row` makes what the type reads.
        grouped: whether the texts of a row are read one by one, so that outputs are `(rows, g, w)`; there is a vector a text.
        finds_texts: whether a row's label is a text too, the second of its group.
        own_label: whether a row's text is its own label, so that there is no column of labels.
        texts: texts that a row must have; None: one or two.
        one_order: whether labels have one order only, which the outputs of a fine-tuned model are brought into.
        competing: whether the tokens of a row compete for one label; else each token that counts has its own.
        marks: whether answers are places in a text, which `marked` shows.
        pictured: whether rows are images with a class each, which a report shows where it is wrong.
        probabilities: what logits say of probabilities; None: nothing, they are numbers.
        error_metrics: metrics in the target's own unit, smaller where the task is better; none is a main metric.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    problem_type: ClassVar[str | None]
    usual_metrics: ClassVar[tuple[str, ...]]
    other_metrics: ClassVar[tuple[str, ...]] = ()
    pipeline_tag: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    preprocessor: ClassVar[str] = "text"
    reads: ClassVar[str] = TEXT
    several: ClassVar[bool] = False
    structured: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    finds_texts: ClassVar[bool] = False
    own_label: ClassVar[bool] = False
    texts: ClassVar[int | None] = None
    one_order: ClassVar[bool] = False
    competing: ClassVar[bool] = False
    marks: ClassVar[bool] = False
    pictured: ClassVar[bool] = False
    probabilities: ClassVar[Probabilities | None] = None
    error_metrics: ClassVar[tuple[str, ...]] = ()

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

    def label_column(self, label: str | None, texts: Sequence[str | None]) -> str | None:
        """The column of the label, which is not one of the columns of texts; None: nobody names one.

        Raises:
            ConfigError: a text would be its own label.
        """
        if label is not None and label in texts:
            raise ConfigError(
                f"`{label}` is named as the column of a text and of the label",
                "choose another `label_field`: a text that is its own label teaches nothing",
            )
        return label

    def row(self, row: Row, where: str) -> Row:
        """The cells of a row, texts and label, in the form that the other methods read; of a structured type.

        Args:
            row: cells as a table has them; what is no text is JSON.
            where: the row, in words, for an error.

        Raises:
            DataError: they have no form that is known.
        """
        del where
        return row

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """The labels of one row, each once; none of a number.

        Args:
            cell: of the label column.
            separator: what stands between labels, where a row may have several.
        """
        del separator
        return (cell,) if self.labelled else ()

    def expected(self, cell: str, separator: str | None) -> Any:
        """A cell of the label column that does not lack a label, in the form of an answer, to be compared with one."""
        del separator
        return cell

    def lacks_label(self, cell: str) -> bool:
        """Whether a cell of the label column says nothing."""
        return cell == NO_LABEL or cell.strip().casefold() in MISSING

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
            DataError: there is only one.
        """
        labels = {label for cell in cells for label in self.cell_labels(cell, separator)}
        numeric = all(_WHOLE.fullmatch(label) for label in labels)
        # `1` and `01` are one number: a set has its own order in each process, so the text decides
        names = sorted(labels, key=lambda label: (int(label) if numeric else 0, label))
        if len(names) < 2:
            raise DataError(
                f"column `{column}` holds one label only: {', '.join(names) or 'none at all'}",
                "a task needs rows of two labels or more",
            )
        return tuple(names)

    def groups(
        self, texts: Sequence[tuple[str, ...]], cells: Sequence[str]
    ) -> Sequence[str] | None:
        """The group of each row, of which all rows are held out together; None: rows are held out by their labels."""
        del texts, cells
        return None

    def may_lack(self, cells: Sequence[str]) -> bool:
        """Whether one of some rows has no answer, of a type that asks for one."""
        del cells
        return False

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

    def of_model(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The labels of a task that a fine-tuned model with outputs of these names answers; None: it is of another type."""
        return tuple(names) if self.labelled else ()

    def in_order(self, labels: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """The same labels in another order: label `i` is the one that was at `places[i]`."""
        return np.asarray(np.argsort(places)[labels])

    def blank(self, labels: NDArray[Any], rows: int) -> NDArray[Any]:
        """Labels that are never looked at, of rows that have none, in the form of some labels."""
        return np.repeat(labels[:1], rows, axis=0)

    def given(self, answers: Sequence[Answered], names: Sequence[str]) -> NDArray[Any]:
        """Labels that say what answers to rows say, as `encode` gives them; of a structured type.

        Args:
            answers: of a decoder, one for each row.
            names: labels in the order of the logits.
        """
        del names
        raise NotImplementedError(f"answers of `{self.name}` are labels already: {answers[:1]}")

    def places(self, labels: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which outputs `(rows, tokens)` count, for types with outputs for each token; None: there is one output a row."""
        del labels
        return None

    def targets(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels as numbers, which a step's loss reads."""
        return labels

    def target_scale(self, labels: NDArray[Any]) -> TargetScale | None:
        """The unit in which the head learns labels as `encode` gives them; None: in their own."""
        del labels
        return None

    def nearly_constant(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> str | None:
        """How little the answers differ from each other, in words; None if they do, or are labels."""
        del logits, labels
        return None

    @abstractmethod
    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Rows of each label, in the order of `counted`."""

    def counted(self, names: Sequence[str]) -> tuple[str, ...]:
        """What `counts` and `class_counts` count, by name: the labels."""
        return tuple(names)

    def class_counts(
        self, logits: NDArray[np.float32], labels: NDArray[Any], classes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """How often each label is rightly given, given, and right; see `metrics.class_counts`."""
        return class_counts(self.answers(logits), labels, classes)

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of `logits (b, c)` against labels as `encode` gives them."""

    def balanced_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32] | None:
        """Weights `(c)` with which rare labels count as much as common ones; None: rows have no labels."""
        del labels, classes
        return None

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """`loss` with the weights of `balanced_weights`; a type that gives weights overrides it."""
        raise NotImplementedError(f"`{self.name}` gives no weights")

    @abstractmethod
    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Distance of `logits (b, c)` from a teacher's, softened by a temperature."""

    @abstractmethod
    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Predictions of logits `(rows, c)`, in the form of the labels."""

    def measured(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Those numbers of what `predict_all` gives in which two models are compared: all of them."""
        return logits

    def answered(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[Any]:
        """Predictions in the form that metrics read, beside `right`.

        Args:
            logits: of all outputs.
            labels: of the same rows, which may say more than the label.
        """
        del labels
        return self.answers(logits)

    def right(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels in the form that metrics read."""
        return labels

    def decisions(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> tuple[Decision, ...]:
        """The decisions for a label that have a threshold, which a change of its logit moves; empty: there are none.

        Args:
            logits: `(rows, c)`.
            labels: of the rows, as `encode` gives them.
        """
        del logits, labels
        return ()

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

    def marked(
        self,
        texts: Sequence[str],
        labels: NDArray[Any],
        answers: Sequence[Answered],
        names: Sequence[str],
    ) -> list[MarkedText]:
        """Texts with what their labels and the answers to them mark; of a type that marks."""
        raise NotImplementedError(f"`{self.name}` marks nothing in a text")


class WithoutLabels(TaskType):
    """A type whose rows have numbers or texts in place of labels."""

    def label_names(
        self, column: str, cells: Sequence[str], separator: str | None
    ) -> tuple[str, ...]:
        """None."""
        del column, cells, separator
        return ()

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Empty: there are no labels to count."""
        del labels, classes
        return np.zeros(0, dtype=np.int64)


class Structured(TaskType):
    """A type of whose cells `row` makes a form of its own, a list in JSON, in which an empty list is a label too."""

    structured = True

    def lacks_label(self, cell: str) -> bool:
        """Whether a table has no value there."""
        return cell == NO_LABEL

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The cell as it is: `row` has checked it."""
        if self.lacks_label(cell):
            raise DataError(f"{row} has no label in `{column}`", GIVE_A_LABEL)
        return cell


def too_many(names: Sequence[str], rows: int) -> bool:
    """Whether labels are so many for the rows that their column may hold something else: names of rows, or numbers."""
    return len(names) > max(_MOST, rows // 2)


def label_positions(
    labels: Iterable[tuple[str, ...]], names: Sequence[str], split: str
) -> Iterator[list[int]]:
    """The index of every label of every row in `names`, row by row.

    Raises:
        DataError: a label that is not among them.
    """
    index = {label: number for number, label in enumerate(names)}
    for number, row in enumerate(labels):
        odd = [label for label in row if label not in index]
        if odd:
            look = look_of(odd[0])
            like = next((name for name in names if look_of(name) == look), None)
            told = (
                ""
                if like is None
                else f"it looks like `{spelled(like)}`, and is `{spelled(odd[0])}`; "
            )
            raise DataError(
                f"data row {number + 1} of the {split} has the unknown label `{odd[0]}`",
                f"{told}labels: {', '.join(names)}",
            )
        yield [index[label] for label in row]
