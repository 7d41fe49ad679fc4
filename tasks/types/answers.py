"""Question answering: the part of a context that answers a question, or none.

A row's label is its answers: pairs of beginning and end in letters of the context, several where people gave several, none where the
context has no answer. What a model learns are windows (`tasks/windows.py`): the first and the last token of the answer, and the first
token of the window where it has none.

    loss = (CE(start) + CE(end)) / 2    over the tokens of a window that count

as transformers' classes for question answering have it (Devlin et al. 2019, arXiv 1810.04805), where they let every token count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ArtifactError, DataError
from maskpack.runtime.outputs import Answer, Answered
from maskpack.runtime.windows import best_in, best_of
from maskpack.tasks.data.cells import Row
from maskpack.tasks.data.questions import answered_row
from maskpack.tasks.types.base import Structured
from maskpack.tasks.types.single_label import CrossEntropy
from maskpack.tasks.windows import as_array, by_row, counted_tokens

if TYPE_CHECKING:
    from torch import Tensor

ENDS = ("start", "end")
"""Names of the outputs, in the order of the logits."""


class QuestionAnswering(Structured, CrossEntropy):
    """A span of a context; outputs are `(b, s, 2)`."""

    name = "question-answering"
    summary = "the part of a context that answers a question, or none"
    problem_type = None
    usual_metrics = ("answer_f1", "exact_match")
    pipeline_tag = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    preprocessor = "windows"
    texts = 2
    competing = True

    def check_labels(self, labels: Sequence[str], task: str) -> None:
        """Raise ArtifactError unless they name the outputs."""
        if tuple(labels) != ENDS:
            raise ArtifactError(
                f"task `{task}` has the labels {', '.join(labels[:8])}, expected {', '.join(ENDS)}"
            )

    def row(self, row: Row, where: str) -> Row:
        """Question, context, and the answers as JSON."""
        return answered_row(row, where)

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """The outputs, whatever the answer is."""
        del cell, separator
        return ENDS

    def expected(self, cell: str, separator: str | None) -> Any:
        """Beginning and end of each answer."""
        del separator
        return [{"start": start, "end": end} for start, end in json.loads(cell)]

    def label_names(
        self, column: str, cells: Sequence[str], separator: str | None
    ) -> tuple[str, ...]:
        """The outputs."""
        del separator
        if not any(json.loads(cell) for cell in cells):
            raise DataError(
                f"no row has an answer in `{column}`", "choose another `label_field`, or other rows"
            )
        return ENDS

    def groups(self, texts: Sequence[tuple[str, ...]], cells: Sequence[str]) -> Sequence[str]:
        """The contexts: all questions on one text are held out together."""
        del cells
        return [row[1] for row in texts]

    def may_lack(self, cells: Sequence[str]) -> bool:
        """Whether a row has no answer."""
        return any(cell == "[]" for cell in cells)

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Answers `(rows)`: of each row a tuple of pairs of beginning and end."""
        del names, separator, split
        return as_array([tuple(map(tuple, json.loads(cell))) for cell in cells])

    def of_model(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The outputs, which transformers' models give no names."""
        return ENDS if len(names) == len(ENDS) else None

    def in_order(self, labels: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """Outputs have one order only."""
        if not np.array_equal(places, np.arange(len(places))):
            raise DataError(f"answers have one order of outputs only: {', '.join(ENDS)}")
        return labels

    def blank(self, labels: NDArray[Any], rows: int) -> NDArray[Any]:
        """Rows without an answer."""
        del labels
        return as_array([()] * rows)

    def given(self, answers: Sequence[Answered], names: Sequence[str]) -> NDArray[Any]:
        """The answer to each question, or none."""
        del names
        found = []
        for answer in answers:
            assert isinstance(answer, Answer)
            found.append(((answer.start, answer.end),) if answer.text else ())
        return as_array(found)

    def places(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """The first token, and those of the context."""
        return counted_tokens(labels)

    def targets(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The first and the last token of the answer, `(windows, 2)`."""
        return np.array([(one.start, one.end) for one in labels], dtype=np.int64).reshape(-1, 2)

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Nothing is counted: rows have no labels that could be rare."""
        del labels, classes
        return np.zeros(0, dtype=np.int64)

    def counted(self, names: Sequence[str]) -> tuple[str, ...]:
        """Nothing, see `counts`."""
        del names
        return ()

    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The mean of both ends of the divergence over tokens."""
        return super().distillation_loss(logits, wanted, temperature) / len(ENDS)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable ends of each window, `(windows, 2)`."""
        return np.asarray(logits.argmax(axis=1))

    def answered(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[Any]:
        """The answer to each row in letters, from all of its windows; empty: none."""
        found = []
        for row, places in by_row(labels):
            each = [best_in(labels[place].window, logits[place]) for place in places]
            best = best_of(each, may_lack=row.may_lack)
            found.append("" if best is None else row.context[best.start : best.end])
        return as_array(found)

    def right(self, labels: NDArray[Any]) -> NDArray[Any]:
        """The right answers to each row."""
        return as_array([row.answers for row, _ in by_row(labels)])

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """No answer to any question."""
        return [as_array([""] * len(by_row(labels)))]
