"""Texts with what a task finds in them beside what is there, in parts that a page can show. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

Span = tuple[int, int, str]
"""Beginning and end in letters, and kind."""


class Verdict(StrEnum):
    """What is said of a part of a text."""

    PLAIN = "plain"
    RIGHT = "right"
    MISSED = "missed"
    WRONG = "wrong"


@dataclass(frozen=True)
class Part:
    """Letters of a text that lie in the same entities.

    Attributes:
        text: the letters.
        true: kind of the entity that they are of; empty: of none.
        given: kind of the entity that the task finds there; empty: none.
        verdict: plain, where neither is; right, where both are one entity; missed, where the task finds none; else wrong.
    """

    text: str
    true: str = ""
    given: str = ""
    verdict: Verdict = Verdict.PLAIN


MarkedText = tuple[Part, ...]


def mark(text: str, true: Iterable[Span], given: Iterable[Span]) -> MarkedText:
    """A text in parts; spans of one side do not overlap.

    >>> [(part.text, part.verdict.value) for part in mark("Anna met Bob", [(0, 4, "x"), (9, 12, "x")], [(0, 4, "x")])]
    [('Anna', 'right'), (' met ', 'plain'), ('Bob', 'missed')]
    """
    sides = tuple(true), tuple(given)
    ends = sorted({0, len(text), *(end for side in sides for span in side for end in span[:2])})
    parts = []
    for start, end in pairwise(ends):
        here, found = (_over(side, start) for side in sides)
        parts.append(
            Part(
                text[start:end],
                here[2] if here else "",
                found[2] if found else "",
                _of(here, found),
            )
        )
    return tuple(parts)


def _over(spans: Sequence[Span], place: int) -> Span | None:
    return next((span for span in spans if span[0] <= place < span[1]), None)


def _of(true: Span | None, given: Span | None) -> Verdict:
    if given is None:
        return Verdict.PLAIN if true is None else Verdict.MISSED
    return Verdict.RIGHT if true == given else Verdict.WRONG


def telling(texts: Sequence[MarkedText], most: int) -> tuple[MarkedText, ...]:
    """Some texts with an entity in them, in their order: those with a mistake first, of which at most two in three are shown."""
    wrong = {Verdict.MISSED, Verdict.WRONG}
    faulty = [text for text in texts if any(part.verdict in wrong for part in text)]
    sound = [
        text
        for text in texts
        if text not in faulty and any(part.verdict is Verdict.RIGHT for part in text)
    ]
    shown = max(2 * most // 3, most - len(sound))
    chosen = faulty[:shown]
    return (*chosen, *sound[: most - len(chosen)])
