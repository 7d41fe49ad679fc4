"""Rows of questions, contexts and answers, from the forms in which people have them.

    {"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}    a file as SQuAD's, version 1 or 2
    {"text": ["in Rome"], "answer_start": [12]}                     as the Hub has them; empty lists: no answer
    [{"text": "in Rome", "start": 12}]                              a list; empty: no answer

Each becomes a question, a context, and its answers as JSON, `[[12, 19]]`: where each begins and ends in the context, in letters. A row that
cannot be read is named in the error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.tasks.data.cells import NO_LABEL, Row
from maskpack.tasks.data.text_lines import lines_in, read_text

SQUAD_COLUMNS = ("question", "context", "answers")
"""Fields of a file as SQuAD's, by the names that they have on the Hub."""

_STARTS = ("answer_start", "start")
_BEGINNING = re.compile(r'\s*\{\s*("[^"]*"\s*:\s*("[^"]*"|[0-9.]+)\s*,\s*)*"data"\s*:\s*\[')
_LOOKED_AT = 20  # lines in which the beginning of such a file stands
_FORMS = (
    'answers are `{"text": ["..."], "answer_start": [0]}`, a list of `{"text": "...", "start": 0}`, '
    "or an empty list where there is none"
)


def answered_row(row: Row, where: str) -> Row:
    """Question, context, and where its answers begin and end, of cells in one of the forms above.

    Args:
        row: cells of question, context and answers.
        where: the row, in words, for an error.

    Raises:
        DataError: answers of no known form, or one that is not in the context where it is said to be.
    """
    question, context, cell = row
    if cell == NO_LABEL:
        return row
    answers = _answers(cell)
    if answers is None:
        raise DataError(f"{where} holds `{cell:.40}` where answers are expected", _FORMS)
    spans = [_span(text, start, context, where) for text, start in answers]
    return question, context, json.dumps(spans)


def _span(text: str, start: int, context: str, where: str) -> tuple[int, int]:
    """Where an answer begins and ends.

    Raises:
        DataError: it is empty, or is not there.
    """
    if not text.strip():
        raise DataError(f"{where} has an empty answer", "an empty list says that there is none")
    if start < 0 or context[start : start + len(text)] != text:
        places = [match.start() for match in islice(re.finditer(re.escape(text), context), 4)]
        stands = " and ".join(map(str, places))
        raise DataError(
            f"{where} has the answer `{text:.40}` at letter {start}, where its context has "
            f"`{context[max(start, 0) : max(start, 0) + len(text)]:.40}`",
            f"it stands at {stands}, counted from 0"
            if places
            else "an answer is a part of its context, letter by letter",
        )
    return start, start + len(text)


def _answers(cell: str) -> list[tuple[str, int]] | None:
    """Text and beginning of each answer; None: a form that is not known."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        start = next((value[name] for name in _STARTS if name in value), None)
        texts = value.get("text")
        if isinstance(texts, str) and type(start) is int:
            texts, start = [texts], [start]
        if not isinstance(texts, list) or not isinstance(start, list) or len(texts) != len(start):
            return None
        value = [{"text": text, "start": at} for text, at in zip(texts, start, strict=True)]
    if not isinstance(value, list):
        return None
    return _listed(value)


def _listed(values: list[Any]) -> list[tuple[str, int]] | None:
    found = []
    for one in values:
        if not isinstance(one, dict):
            return None
        start = next((one[name] for name in _STARTS if name in one), None)
        if not isinstance(one.get("text"), str) or type(start) is not int:
            return None
        found.append((one["text"], start))
    return found


def is_squad(path: Path) -> bool:
    """Whether a file of JSON begins as SQuAD's do: one object, with articles in `data`."""
    return _BEGINNING.match("\n".join(islice(lines_in(path), _LOOKED_AT))) is not None


def squad_rows(path: Path) -> Iterator[dict[str, Any]] | None:
    """Questions of a file as SQuAD's, each with its context and its answers; None: it is none.

    Raises:
        DataError: an article lacks a part; it is named.
    """
    if not is_squad(path):
        return None
    try:
        tree = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return None  # one object a line
        raise DataError(f"`{path}` is not valid JSON: {error}") from error
    if not any(isinstance(one, dict) and "paragraphs" in one for one in tree["data"]):
        return None
    return _questions(tree["data"], path)


def _questions(articles: list[Any], path: Path) -> Iterator[dict[str, Any]]:
    for number, article in enumerate(articles, start=1):
        try:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    none = asked.get("is_impossible") is True  # of version 2
                    answers = [] if none else asked["answers"]
                    values = (asked["question"], paragraph["context"], answers)
                    yield dict(zip(SQUAD_COLUMNS, values, strict=True))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"article {number} of `{path}` is not as SQuAD's: {error!r}",
                "an article has `paragraphs` of a `context` and `qas`, which have a `question` and `answers`",
            ) from error
