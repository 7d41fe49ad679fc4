"""Decoders of outputs: logits to labels, probabilities, numbers, entities and answers. Pure, numpy alone.

One line in `DECODERS` for each type of task. Training, verification and devices run this same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.cloze import KEPT
from maskpack.runtime.fills import BETWEEN, Filled, Masks, all_masks
from maskpack.runtime.tags import entities_in
from maskpack.runtime.windows import (
    SPANS,
    Window,
    best_in,
    best_of,
    joined_labels,
    joined_means,
    joined_tokens,
)
from maskpack.runtime.words import Words

Logits = NDArray[np.float32]
_SAME = 0.99  # cosine of two vectors that stand for the same


@dataclass(frozen=True)
class Prediction:
    """The answer of a task to a text.

    Attributes:
        label: the most probable class; None for a regression, and where a text may have several.
        score: the probability of the most probable class, or the predicted number.
        scores: class -> probability; empty for a regression.
        labels: where a text may have several, those with a probability above 0.5, in the order of the
            logits; else None.
        windows: into how many the text was cut, where a device was told to; else None.
    """

    label: str | None
    score: float
    scores: dict[str, float]
    labels: tuple[str, ...] | None = None
    windows: int | None = None

    @property
    def cell(self) -> str:
        """The answer in a cell of a table: a label, labels with a line between them, or a number."""
        if self.labels is not None:
            return BETWEEN.join(self.labels)
        return f"{self.score:.6g}" if self.label is None else self.label

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        cut = _told(self.windows)
        if self.labels is not None:
            return {"labels": list(self.labels), "scores": self.scores, **cut}
        if self.label is None:
            return {"score": self.score, **cut}
        return {"label": self.label, "score": self.score, "scores": self.scores, **cut}


def _told(windows: int | None) -> dict[str, int]:
    return {} if windows is None else {"windows": windows}


@dataclass(frozen=True)
class Entity:
    """Something that a text names.

    Attributes:
        label: what it is.
        start, end: where it begins and ends in the text, in letters.
        text: the letters between.
        score: mean over its words of the probability of their tags.
    """

    label: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Entities:
    """What a text names, from its first to its last.

    Attributes:
        entities: each once.
        windows: into how many the text was cut, where a device was told to; else None.
    """

    entities: tuple[Entity, ...]
    windows: int | None = None

    @property
    def cell(self) -> str:
        """The answer in a cell of a table: the kind and the letters of each."""
        return BETWEEN.join(f"{one.label}: {one.text}" for one in self.entities)

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {"entities": [asdict(one) for one in self.entities], **_told(self.windows)}


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text as a vector.

    Attributes:
        vector: float32 `(w)`, of length 1: the product of two vectors is their cosine.
    """

    vector: NDArray[np.float32]

    @property
    def cell(self) -> str:
        """The numbers in a cell of a table, with blanks between them."""
        return " ".join(f"{value:.6g}" for value in self.vector.tolist())

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {"vector": [round(value, 7) for value in self.vector.tolist()]}


@dataclass(frozen=True)
class Answer:
    """The part of a context that answers a question.

    Attributes:
        text: the letters; empty: the context has no answer.
        start, end: where they begin and end in the context; 0 and 0 where there is none.
        score: product of the probabilities of the first and the last token; where there is no answer, that of none.
    """

    text: str
    start: int
    end: int
    score: float

    @property
    def cell(self) -> str:
        """The answer in a cell of a table: its letters."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return asdict(self)


Answered = Prediction | Entities | Answer | Embedding | Filled
"""The answer of a task of any type to a text."""


@dataclass(frozen=True, eq=False)
class ReadText:
    """What a decoder may know of a text beside the logits.

    Attributes:
        text: the text, or the first of a pair; the context where a question is answered.
        words: its words, for types that have a label for each; else None.
        window: the part of the context that was read, for types that cut rows into windows; else None.
        may_lack: whether rows may have no answer.
        masks: of the part of the text that was read, for types that fill masks; else None.
    """

    text: str
    words: Words | None = None
    window: Window | None = None
    may_lack: bool = False
    masks: Masks | None = None


@dataclass(frozen=True)
class OutputDecoder:
    """Decodes the outputs of one type of task.

    Attributes:
        labelled: whether each of two or more outputs stands for a label; else there is one number.
        predictions: labels, logits `(b, c)` and what was read to the answer for each text.
        same: for each row, whether two models' logits `(b, c)` give the same answer.
        vectors: whether the output is a vector of a text, of length 1; a row of a table is then read text by text.
        per_token: whether there are outputs for each token, `(b, s, c)`. Padding then stands behind a text, whatever the model.
        windows: whether a long row is cut into windows, as in training. `predictions` then gets all windows of one row, and gives one answer.
        fills: whether outputs are logits of all tokens, and asked for at masks. A long text is cut into blocks; `predictions` gets
            all blocks of one text that have masks, with the logits of these alone.
        join: outputs of the windows of a text, and the windows, to the outputs `(1, ...)` of the whole; where a device may cut texts into windows
            though training cuts them off. `predictions` then counts tokens without those before and behind the text. None: it may not.
        outputs: names of a graph's outputs; several are the last axis of the logits.
        further: names of outputs that only other programs read.
        reads: what a device reads, a name in `READERS` of `runtime/readers.py`.
        modules: of this package, with numpy alone, that read outputs: a program without maskpack gets copies of them.
    """

    labelled: bool
    predictions: Callable[[Sequence[str], Logits, Sequence[ReadText]], list[Answered]]
    same: Callable[[Logits, Logits], NDArray[np.bool_]]
    per_token: bool = False
    vectors: bool = False
    windows: bool = False
    fills: bool = False
    join: Callable[[Sequence[Logits], Sequence[Window]], Logits] | None = None
    outputs: tuple[str, ...] = ("logits",)
    further: tuple[str, ...] = ()
    reads: str = "text"
    modules: tuple[str, ...] = ()

    def decode(
        self, labels: Sequence[str], logits: Logits, told: Sequence[Sequence[ReadText]]
    ) -> list[Answered]:
        """The answer to each of some rows.

        Args:
            labels: in the order of the outputs.
            logits: of all rows; those of the windows of a row stand one behind the other.
            told: what was read of each row, window by window.
        """
        starts = np.cumsum([0, *map(len, told)])
        return [
            answer
            for start, own in zip(starts, told, strict=False)
            for answer in self.predictions(labels, logits[start : start + len(own)], own)
        ]

    @property
    def pieces(self) -> bool:
        """Whether a long row is read as several pieces, of which one answer is made."""
        return self.windows or self.fills

    def agreement(self, left: Logits, right: Logits) -> float:
        """Share of rows with the same answer; of outputs `(b, s, c)` those that do not count are 0 on both sides."""
        return float(np.mean(self.same(left, right)))


def _one_label(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    del read
    answers: list[Answered] = []
    for scores in _scores(labels, softmax(logits)):
        label = max(scores, key=lambda name: scores[name])
        answers.append(Prediction(label, scores[label], scores))
    return answers


def _several_labels(
    labels: Sequence[str], logits: Logits, read: Sequence[ReadText]
) -> list[Answered]:
    del read
    small = np.exp(-np.abs(logits))  # of at most 0: a sigmoid without an overflow warning
    shares = np.where(logits >= 0, np.ones_like(small), small) / (1 + small)
    return [
        Prediction(None, max(scores.values()), scores, tuple(n for n in labels if scores[n] > 0.5))
        for scores in _scores(labels, shares)
    ]


def joined(outputs: Sequence[Logits]) -> Logits:
    """The outputs of a graph as logits: several are the last axis."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)


def softmax(logits: Logits) -> Logits:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _entities(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    return [_entities_of(labels, one, row) for one, row in zip(read, logits, strict=True)]


def _entities_of(labels: Sequence[str], read: ReadText, logits: Logits) -> Entities:
    """The entities of one text from the logits `(s, c)` of its tokens."""
    assert read.words is not None
    shares = softmax(logits[read.words.first])
    tags = shares.argmax(axis=-1)
    own = shares[np.arange(len(tags)), tags]
    found = []
    for label, first, last in entities_in([labels[tag] for tag in tags.tolist()]):
        start, end = int(read.words.spans[first, 0]), int(read.words.spans[last, 1])
        score = float(own[first : last + 1].mean())
        found.append(Entity(label, start, end, read.text[start:end], score))
    return Entities(tuple(found))


def _vectors(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    del labels, read
    return [Embedding(row) for row in logits]


def _same_direction(left: Logits, right: Logits) -> NDArray[np.bool_]:
    """Whether cosines are above .99."""
    cosines = (left * right).sum(axis=-1)
    return np.asarray((cosines > _SAME).all(axis=-1) if cosines.ndim > 1 else cosines > _SAME)


def _answer(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    """The answer to the one question that all windows are of."""
    del labels
    found = []
    for one, row in zip(read, logits, strict=True):
        assert one.window is not None
        found.append(best_in(one.window, row))
    best = best_of(found, may_lack=read[0].may_lack)
    if best is None:
        return [Answer("", 0, 0, min(one.none for one in found))]
    return [Answer(read[0].text[best.start : best.end], best.start, best.end, best.score)]


def _filled(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    """What fills the masks of the one text that all blocks are of."""
    del labels
    blocks = [one.masks for one in read if one.masks is not None]
    return [all_masks(read[0].text, blocks, logits)]


def _scores(labels: Sequence[str], shares: Logits) -> list[dict[str, float]]:
    return [dict(zip(labels, row.tolist(), strict=True)) for row in shares]


def _number(labels: Sequence[str], logits: Logits, read: Sequence[ReadText]) -> list[Answered]:
    del labels, read
    return [Prediction(None, float(row[0]), {}) for row in logits]


def _same_class(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.asarray(left.argmax(axis=1) == right.argmax(axis=1))


def _same_tags(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.asarray((left.argmax(axis=-1) == right.argmax(axis=-1)).all(axis=-1))


def _same_ends(left: Logits, right: Logits) -> NDArray[np.bool_]:
    """Of logits `(b, s, 2)`; those that do not count are 0 on both sides."""
    ends = [np.where(one == 0.0, -np.inf, one).argmax(axis=1) for one in (left, right)]
    return np.asarray((ends[0] == ends[1]).all(axis=-1))


def _same_tokens(left: Logits, right: Logits) -> NDArray[np.bool_]:
    """Of each row whether the most probable tokens are the same: of what `runtime.cloze.reduced` keeps, or of logits `(b, s, v)`."""
    best = [one[..., 1] if one.shape[-1] == KEPT else one.argmax(axis=-1) for one in (left, right)]
    return np.asarray((best[0] == best[1]).all(axis=-1))


def _same_labels(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.asarray(((left > 0) == (right > 0)).all(axis=1))


def _same_number(left: Logits, right: Logits) -> NDArray[np.bool_]:
    return np.isclose(left, right, atol=1e-4)[:, 0]


_OF_A_TEXT = OutputDecoder(
    False,
    _vectors,
    _same_direction,
    vectors=True,
    outputs=("sentence_embedding",),
    further=("last_hidden_state",),
)

DECODERS: dict[str, OutputDecoder] = {
    "classification": OutputDecoder(
        True, _one_label, _same_class, join=joined_means, modules=("windows",)
    ),
    "multi-label": OutputDecoder(
        True, _several_labels, _same_labels, join=joined_labels, modules=("windows",)
    ),
    "regression": OutputDecoder(
        False, _number, _same_number, join=joined_means, modules=("windows",)
    ),
    "similarity": _OF_A_TEXT,
    **dict.fromkeys(("retrieval", "label-retrieval"), _OF_A_TEXT),
    "token-classification": OutputDecoder(
        True,
        _entities,
        _same_tags,
        per_token=True,
        join=joined_tokens,
        modules=("tags", "words", "windows"),
    ),
    "question-answering": OutputDecoder(
        True, _answer, _same_ends, per_token=True, windows=True, outputs=SPANS, modules=("windows",)
    ),
    "image-classification": OutputDecoder(True, _one_label, _same_class, reads="images"),
    "image-multi-label": OutputDecoder(True, _several_labels, _same_labels, reads="images"),
    "image-regression": OutputDecoder(False, _number, _same_number, reads="images"),
    "fill-mask": OutputDecoder(
        False, _filled, _same_tokens, per_token=True, fills=True, modules=("fills",)
    ),
}
"""Type of a task, as its configuration spells it -> decoder."""
