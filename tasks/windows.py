"""Labels of windows: which row a window is of, where its tokens lie in the context, and where the answer does.

`Encoded.labels` of a task that cuts rows into windows is an array of `WindowLabel`, one for each window. So all code that works on rows of
tokens works on windows, and what is said of rows joins the windows of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.windows import Window, usual_stride


@dataclass(frozen=True)
class WindowRule:
    """How the rows of a task are cut, and what may be answered.

    Attributes:
        stride: tokens that neighbouring windows share; None: the usual number, see `usual_stride`.
        no_answer: whether rows may have no answer.
        texts: whether long texts are cut too, of a type that joins the outputs of windows; else they are cut off.
    """

    stride: int | None = None
    no_answer: bool = False
    texts: bool = False

    def shared(self, max_length: int) -> int:
        """Tokens that neighbouring windows of so many tokens share."""
        return usual_stride(max_length) if self.stride is None else self.stride


USUAL = WindowRule()
"""The rule where nobody says anything."""


@dataclass(frozen=True, eq=False)
class GoldRow:
    """A row of a task; its windows hold the same object.

    Attributes:
        context: the text in which the answer is.
        answers: right ones; empty: the context has none.
        may_lack: whether rows of the task may have no answer.
    """

    context: str
    answers: tuple[str, ...]
    may_lack: bool


@dataclass(frozen=True, eq=False)
class WindowLabel:
    """What is known of a window.

    Attributes:
        row: that it is of.
        window: where its tokens lie in the context.
        start, end: the first and the last token of the answer; 0 and 0 where the window has none.
    """

    row: GoldRow
    window: Window
    start: int
    end: int

    @property
    def has_answer(self) -> bool:
        """Whether the window has an answer; the first token is never one."""
        return self.end > 0

    def numbers(self) -> NDArray[np.int64]:
        """All numbers of it, to be compared."""
        return np.concatenate(
            [[self.start, self.end, self.window.first], self.window.spans.ravel()]
        )


def labels_of(
    labels: NDArray[Any],
    contexts: Sequence[str],
    windows: Sequence[Sequence[Window]],
    rule: WindowRule,
) -> NDArray[Any]:
    """Labels of all windows, one row behind the other.

    Args:
        labels: of each row its answers, as pairs of beginning and end in letters.
        contexts: of each row.
        windows: of each row.
        rule: of the task.
    """
    found: list[WindowLabel] = []
    for answers, context, own in zip(labels, contexts, windows, strict=True):
        texts = tuple(context[start:end] for start, end in answers)
        row = GoldRow(context, texts, rule.no_answer)
        found += [WindowLabel(row, window, *_tokens(window, context, answers)) for window in own]
    return as_array(found)


def _tokens(window: Window, context: str, answers: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Tokens of the first answer that is whole in a window."""
    for start, end in answers:
        text = context[start:end]
        left, right = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
        tokens = window.tokens_of(start + left, end - right)
        if tokens != (0, 0):
            return tokens
    return 0, 0


def as_array(values: Sequence[Any]) -> NDArray[Any]:
    """Objects as an array of one axis, whatever they are."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def has_windows(labels: NDArray[Any]) -> bool:
    """Whether labels are those of windows."""
    return labels.dtype == object and len(labels) > 0 and isinstance(labels[0], WindowLabel)


def counted_tokens(labels: NDArray[Any], width: int | None = None) -> NDArray[np.bool_]:
    """Which tokens of each window count, `(windows, width)`; None: as wide as the longest needs."""
    if width is None:
        width = max(one.window.first + len(one.window.spans) for one in labels)
    return np.stack([one.window.counted(max(width, 1)) for one in labels])


def by_row(labels: NDArray[Any]) -> list[tuple[GoldRow, list[int]]]:
    """The rows that windows are of, in the order of their first windows, and the places of the windows of each."""
    found: dict[int, tuple[GoldRow, list[int]]] = {}
    for place, one in enumerate(labels):
        found.setdefault(id(one.row), (one.row, []))[1].append(place)
    return list(found.values())


def row_numbers(labels: NDArray[Any]) -> NDArray[np.intp]:
    """For each window the number of its row, in the order of `by_row`."""
    numbers = np.zeros(len(labels), dtype=np.intp)
    for number, (_, places) in enumerate(by_row(labels)):
        numbers[places] = number
    return numbers


def context_numbers(labels: NDArray[Any]) -> NDArray[np.intp]:
    """For each window the number of its context: questions on one text have one number."""
    known: dict[str, int] = {}
    return np.array(
        [known.setdefault(one.row.context, len(known)) for one in labels], dtype=np.intp
    )
