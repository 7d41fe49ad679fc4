"""Rows of texts with entities, from the forms in which people have them: words and tags, or a text and spans.

    words   O B-person ...    two columns of a file as CoNLL's; a sentence ends at an empty line
    ["Anna", "met", ...]      lists of words and of tags, in JSON or Parquet
    Anna met ...              words and tags with blanks between them
    a text                    spans: [{"start": 0, "end": 4, "label": "person"}], or [[0, 4, "person"]]

Each becomes a text and its spans as JSON, `[[0, 4, "person"]]`, from the first to the last. Words are joined by blanks. A row that cannot
be read is named in the error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.runtime.tags import entities_in, part_of
from maskpack.tasks.data.cells import MISSING, NO_LABEL, Row, Wanted, check_columns
from maskpack.tasks.data.text_lines import lines_in

Span = tuple[int, int, str]
"""Beginning and end in letters, and kind."""

CONLL_COLUMNS = ("text", "label")
"""What the columns of words and tags of a file as CoNLL's are called, which has no names."""

_START_OF_DOCUMENT = "-DOCSTART-"
_KEYS = (("start", "begin", "start_offset"), ("end", "end_offset"), ("label", "type", "tag"))
_SCHEMES = "tags are O, B-X and I-X for a kind X (BIO), or have E-X and S-X as well (BIOES)"


def tagged_row(row: Row, where: str) -> Row:
    """A text and its spans, of cells in one of the forms above.

    Args:
        row: cells of text and label.
        where: the row, in words, for an error.

    Raises:
        DataError: words and tags of different number, a tag of no scheme, a span that is not in the text or overlaps another.
    """
    text, cell = row
    words = _listed(text)
    whole = in_words(text)
    if cell == NO_LABEL or (cell.strip().casefold() in MISSING and text.strip()):
        return whole, NO_LABEL
    spans = read_spans(cell)
    if spans is not None:
        return whole, _dumped(_checked(whole, spans, where))
    tags = _listed(cell)
    tags = cell.split() if tags is None else tags
    if words is None:
        words = text.split()
    if not _are_texts(words) or not _are_texts(tags):
        raise DataError(f"{where} holds neither words and tags nor spans", _SCHEMES)
    return _of_tags(words, tags, where)


def read_spans(cell: str) -> list[Span] | None:
    """The spans of a cell; None if it does not hold a list of spans, such as a list of tags."""
    found = []
    for one in _listed(cell) or (None,):
        span = _span(one)
        if span is None:
            return [] if cell.strip() == "[]" else None
        found.append(span)
    return found


def _span(one: Any) -> Span | None:
    """A span as an object or a list has it."""
    if isinstance(one, dict):
        values = [next((one[key] for key in keys if key in one), None) for keys in _KEYS]
    elif isinstance(one, list) and len(one) == 3:
        values = one
    else:
        return None
    start, end, kind = values
    if type(start) is not int or type(end) is not int or not isinstance(kind, str):
        return None
    return (start, end, kind) if kind else None


def _of_tags(words: Sequence[str], tags: Sequence[str], where: str) -> Row:
    """Words joined by blanks, and the spans that tags mark."""
    if len(words) != len(tags):
        raise DataError(
            f"{where} has {len(words)} words and {len(tags)} tags", "give each word one tag"
        )
    odd = next((tag for tag in tags if part_of(tag) is None), None)
    if odd is not None:
        raise DataError(f"{where} has the tag `{odd:.40}`, which is of no scheme", _SCHEMES)
    starts, length = [], 0
    for word in words:
        starts.append(length)
        length += len(word) + 1
    spans = [
        (starts[first], starts[last] + len(words[last]), kind)
        for kind, first, last in entities_in(tags)
    ]
    empty = next((span for span in spans if span[0] == span[1]), None)
    if empty is not None:
        raise DataError(f"{where} has an entity `{empty[2]}` of an empty word", "leave it out")
    return _joined(words), _dumped(spans)


def _checked(text: str, spans: Sequence[Span], where: str) -> list[Span]:
    """Spans in order.

    Raises:
        DataError: one is not in the text, or overlaps another.
    """
    ordered = sorted(spans)
    for start, end, kind in ordered:
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"{where} has the span {start} to {end} of `{kind}`, its text has {len(text)} letters",
                "a span begins at its first letter, counted from 0, and ends behind its last one",
            )
    for left, right in pairwise(ordered):
        if right[0] < left[1]:
            raise DataError(
                f"{where} has spans that overlap: {left[0]} to {left[1]} of `{left[2]}`, {right[0]} to {right[1]} of `{right[2]}`",
                "each word has one tag: leave one of them out",
            )
    return ordered


def in_words(cell: str) -> str:
    """A text; words that a cell holds as a list in JSON are joined by blanks, as those of rows with tags are.

    >>> in_words('["Anna", "met"]'), in_words("[1] says so")
    ('Anna met', '[1] says so')
    """
    words = _listed(cell)
    return _joined(words) if words and _are_texts(words) else cell


def _listed(cell: str) -> list[Any] | None:
    """A list that a cell holds as JSON, or None."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _joined(words: Any) -> str:
    return " ".join(words)


def _dumped(spans: Sequence[Span]) -> str:
    return json.dumps([list(span) for span in spans], ensure_ascii=False)


def read_conll(wanted: Wanted) -> Iterator[Row]:
    """Sentences of a file with a word and, last in its line, its tag; as lists in JSON.

    Raises:
        DataError: a line has a word and no tag, or other columns than `CONLL_COLUMNS` are wanted.
    """
    check_columns(wanted, CONLL_COLUMNS)
    for words, tags in _sentences(wanted.path):
        cells = dict(zip(CONLL_COLUMNS, (words, tags), strict=True))
        yield tuple(json.dumps(cells[name], ensure_ascii=False) for name in wanted.columns)


def _sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(lines_in(path), start=1):
        if not line.strip() or line.startswith(_START_OF_DOCUMENT):
            if words:
                yield words, tags
                words, tags = [], []
            continue
        fields = line.rstrip().split("\t") if "\t" in line.strip() else line.split()
        if line.startswith("#") and not words and part_of(fields[-1]) is None:
            continue  # a comment, as CoNLL-U has them before a sentence
        if len(fields) < 2:
            raise DataError(
                f"line {number} of `{path}` holds `{line.strip():.40}` alone, expected a word and its tag",
                "a word and its tag stand in one line, with a tab or a blank between them",
            )
        words.append(fields[0])
        tags.append(fields[-1])
    if words:
        yield words, tags


def conll_columns(path: Path) -> list[str]:
    """Names for the columns."""
    del path
    return list(CONLL_COLUMNS)
