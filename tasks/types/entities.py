"""Token classification: what a text names, from where to where.

A row's label is a list of spans: beginning, end and kind, in letters of the text. Words with tags become a text and spans when
a table is read (`tasks/data/tagged.py`). What a model learns are tags of words (`runtime/tags.py`): int64 `(rows, tokens)`, the number of
its tag where a word begins, else `IGNORED`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ArtifactError, DataError
from maskpack.runtime.outputs import Answered, Entities
from maskpack.runtime.tags import IGNORED, OUTSIDE, kinds_of, part_of, tags_of
from maskpack.runtime.words import Words
from maskpack.tasks.data.cells import Row
from maskpack.tasks.data.tagged import read_spans, tagged_row
from maskpack.tasks.evaluation.marked import MarkedText, mark
from maskpack.tasks.evaluation.metrics import entity_counts
from maskpack.tasks.types.base import Structured
from maskpack.tasks.types.single_label import CrossEntropy

if TYPE_CHECKING:
    from maskpack.runtime.tokens import Tokens  # which needs a package that reading a task does not


class TokenClassification(Structured, CrossEntropy):
    """Entities in a text; losses are those of one label, of each word."""

    name = "token-classification"
    summary = "entities in a text, each from one word to another"
    problem_type = None
    usual_metrics = ("entity_f1", "entity_precision", "entity_recall")
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    preprocessor = "words"
    texts = 1
    one_order = True
    marks = True

    def check_labels(self, labels: Sequence[str], task: str) -> None:
        """Raise ArtifactError unless they are the tags of some kinds of entities, in the usual order."""
        if kinds_of(labels) is None:
            raise ArtifactError(
                f"task `{task}` has the labels {', '.join(labels[:8])}, expected {OUTSIDE}, B-x, I-x for each kind x"
            )

    def row(self, row: Row, where: str) -> Row:
        """The text, and its spans as JSON."""
        return tagged_row(row, where)

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """The kinds of entities in a row."""
        del separator
        return tuple(dict.fromkeys(kind for _, _, kind in json.loads(cell)))

    def expected(self, cell: str, separator: str | None) -> Any:
        """The spans as an answer has them."""
        del separator
        spans = read_spans(cell) or ()
        return [{"start": start, "end": end, "label": kind} for start, end, kind in spans]

    def label_names(
        self, column: str, cells: Sequence[str], separator: str | None
    ) -> tuple[str, ...]:
        """The tags of all kinds, by alphabet."""
        kinds = {kind for cell in cells for kind in self.cell_labels(cell, separator)}
        if not kinds:
            raise DataError(
                f"no row has an entity in `{column}`", "choose another `label_field`, or other rows"
            )
        return tags_of(sorted(kinds))

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Spans `(rows)`: of each row a tuple of beginning, end and the number of the kind."""
        del separator
        kinds = kinds_of(names)
        assert kinds is not None
        number = {kind: place for place, kind in enumerate(kinds)}
        found = np.empty(len(cells), dtype=object)
        for place, cell in enumerate(cells):
            spans = json.loads(cell)
            odd = [kind for _, _, kind in spans if kind not in number]
            if odd:
                raise DataError(
                    f"data row {place + 1} of the {split} has an entity of the unknown kind `{odd[0]}`",
                    f"kinds: {', '.join(kinds)}",
                )
            found[place] = tuple((start, end, number[kind]) for start, end, kind in spans)
        return found

    def of_model(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The tags of the same kinds, by alphabet; None of another scheme."""
        parts = [part_of(name) for name in names]
        tags = tags_of(sorted({part[1] for part in parts if part is not None} - {""}))
        return tags if sorted(tags) == sorted(names) else None

    def in_order(self, labels: NDArray[Any], places: NDArray[np.intp]) -> NDArray[Any]:
        """Spans have one order of kinds only."""
        if not np.array_equal(places, np.arange(len(places))):
            raise DataError("tags of entities have one order only: O, B-x, I-x for each kind x")
        return labels

    def blank(self, labels: NDArray[Any], rows: int) -> NDArray[Any]:
        """Rows without an entity."""
        del labels
        found = np.empty(rows, dtype=object)
        found[:] = [()] * rows
        return found

    def given(self, answers: Sequence[Answered], names: Sequence[str]) -> NDArray[Any]:
        """The spans of the entities."""
        number = {kind: place for place, kind in enumerate(kinds_of(names) or ())}
        found = np.empty(len(answers), dtype=object)
        for place, answer in enumerate(answers):
            assert isinstance(answer, Entities)
            found[place] = tuple((one.start, one.end, number[one.label]) for one in answer.entities)
        return found

    def places(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a word begins."""
        return np.asarray(labels != IGNORED)

    def counts(self, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
        """Entities of each kind, of rows that are not cut to tokens yet."""
        numbers = [kind for spans in labels for _, _, kind in spans]
        return np.bincount(np.array(numbers, dtype=np.int64), minlength=(classes - 1) // 2)

    def counted(self, names: Sequence[str]) -> tuple[str, ...]:
        """The kinds of entities."""
        return kinds_of(names) or ()

    def class_counts(
        self, logits: NDArray[np.float32], labels: NDArray[Any], classes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Entities of each kind that are found, given and there."""
        return entity_counts(self.answers(logits), labels, (classes - 1) // 2)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Numbers of tags `(rows, tokens)`."""
        return np.asarray(logits.argmax(axis=-1))

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """No entity anywhere."""
        return [np.zeros_like(labels)]

    def marked(
        self,
        texts: Sequence[str],
        labels: NDArray[Any],
        answers: Sequence[Answered],
        names: Sequence[str],
    ) -> list[MarkedText]:
        """Texts with the entities that are there and those that are given."""
        kinds, found = kinds_of(names) or (), []
        for text, spans, answer in zip(texts, labels, answers, strict=True):
            assert isinstance(answer, Entities)
            true = [(start, end, kinds[kind]) for start, end, kind in spans]
            given = [(one.start, one.end, one.label) for one in answer.entities]
            found.append(mark(text, true, given))
        return found


def tags_on_words(
    labels: NDArray[Any], words: Sequence[Words], texts: Sequence[str], width: int
) -> NDArray[np.int64]:
    """Numbers of tags `(rows, width)` of the first token of each word.

    Args:
        labels: spans of each row, as `encode` gives them.
        words: of each row.
        texts: of each row, for an error.
        width: tokens a row has at most.

    Raises:
        DataError: a span begins or ends within a word.
    """
    table = np.full((len(labels), width), IGNORED, dtype=np.int64)
    for place, (spans, own) in enumerate(zip(labels, words, strict=True)):
        tags = np.zeros(len(own), dtype=np.int64)
        for span in spans:
            first, last = _covered(span, own, texts[place])
            tags[first:last] = 2 * span[2] + 2  # I of this kind
            if first < last:
                tags[first] -= 1  # B
        table[place, own.first] = tags
    return table


def tags_on_tokens(
    labels: NDArray[Any], rows: Sequence[Tokens], texts: Sequence[tuple[str, ...]], width: int
) -> NDArray[np.int64]:
    """The same of rows as a device reads them; arguments as of `tags_on_words`."""
    words = [row.words for row in rows if row.words is not None]
    return tags_on_words(labels, words, [row[0] for row in texts], width)


def _covered(span: tuple[int, int, int], words: Words, text: str) -> tuple[int, int]:
    """The words of a span: the first, and the one behind the last; none where the text was cut before it.

    Raises:
        DataError: it begins or ends within a word.
    """
    start, end, _ = span
    first = int(np.searchsorted(words.spans[:, 1], start, side="right"))
    last = int(np.searchsorted(words.spans[:, 0], end, side="left"))
    if first == len(words):
        return first, first
    own = words.spans[first:last]
    if len(own) and (own[0, 0] < start or own[-1, 1] > end):
        odd = own[0] if own[0, 0] < start else own[-1]
        raise DataError(
            f"the span {start} to {end}, `{text[start:end]}`, of `{text:.60}` cuts the word `{text[odd[0] : odd[1]]}`",
            "let spans begin and end where words do",
        )
    return first, last
