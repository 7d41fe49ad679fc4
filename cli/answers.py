"""Answers of `compress predict` as lines: JSON or CSV, of one task or of all tasks of a folder. Imports no torch."""

from __future__ import annotations

import csv as codec_of_tables
import io
import json as codec
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from maskpack.cli import render
from maskpack.formats import ConfigError, DataError, MaskpackError
from maskpack.formats.writer import write_bytes
from maskpack.runtime.fills import BETWEEN
from maskpack.runtime.images import DATA_URL

if TYPE_CHECKING:
    from maskpack.runtime import Session
    from maskpack.runtime.outputs import Answered
    from maskpack.runtime.task import TaskConfig
    from maskpack.runtime.tokens import Text


@dataclass(frozen=True)
class NoRow:
    """A line that is no text and no pair.

    Attributes:
        line: as it was read.
        error: what is wrong with it.
    """

    line: str
    error: DataError


Label = str | float | list[Any] | None
"""A row's own label, labels or number; None if it has none."""

Asked = tuple["Text | NoRow", Label]
"""A text or a pair, or a line that is neither, and its own label."""

ByTask = dict[str, "Answered | MaskpackError"]
"""Name of a task -> its answer to a text, or what is wrong."""

_TEXTS = ("text", "pair")
_EXPECTED = "expected"
_NO_NUMBER = DataError("the graph's answer is not a number")


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to answer.

    Attributes:
        chunks: lists of rows that are answered together.
        pairs: whether a row is a pair of texts.
        labelled: whether rows have labels of their own.
        named: whether a row is the path of an image, which its line names.
    """

    chunks: Iterator[Sequence[Asked]]
    pairs: bool
    labelled: bool = False
    named: bool = False


@dataclass(frozen=True)
class Ask:
    """Which tasks answer.

    Attributes:
        session: of the folder.
        tasks: their names, in the order of their columns.
        batch_size: texts a run.
        together: whether a line holds an object of tasks; else it is the answer of the only one.
        windows: whether long texts are cut into windows.
        stride: tokens that neighbouring windows share; None: the usual number.
        members: tasks that answer as one, under the name of the only one of `tasks`; none: it answers alone.
    """

    session: Session
    tasks: tuple[str, ...]
    batch_size: int
    together: bool
    windows: bool = False
    stride: int | None = None
    members: tuple[str, ...] = ()

    def answers(self, texts: Sequence[Text]) -> list[ByTask]:
        """What each task says of each text."""
        if self.members:
            found = self.session.predict_each(
                texts,
                task=self.members,
                batch_size=self.batch_size,
                windows=self.windows,
                stride=self.stride,
            )
            return [{self.tasks[0]: one} for one in found]
        return self.session.predict_all_each(
            texts,
            tasks=self.tasks,
            batch_size=self.batch_size,
            windows=self.windows,
            stride=self.stride,
        )


def tasks_of_texts(session: Session, *, pairs: bool) -> tuple[tuple[str, ...], TaskConfig]:
    """The tasks of a folder that read rows of so many texts, and what is known of the rows; others are named in a note.

    Args:
        session: of the folder.
        pairs: whether a row is said to be a pair; else it is one only if all tasks read pairs.
    """
    configs = {name: session.config(name) for name in session.tasks}
    texts = 2 if pairs or all(config.texts == 2 for config in configs.values()) else 1
    chosen = [name for name, config in configs.items() if config.texts in {None, texts}]
    words = {1: "one text", 2: "a pair of texts"}
    if not chosen:
        hint = "leave `--pair` and `--pair-field` out"
        raise ConfigError(f"no task of the folder reads {words[texts]} a row", hint)
    if left := [f"`{name}`" for name in configs if name not in chosen]:
        render.words(f"note: not asked, because a row is {words[texts]}: {', '.join(left)}")
    first = configs[chosen[0]]
    alike = all(configs[name].columns == first.columns for name in chosen)
    return tuple(chosen), first if alike else replace(first, columns=())


def check_columns(tasks: Sequence[str]) -> None:
    """Raise ConfigError if a task has the name of a column of CSV that is not its own."""
    taken = [f"`{name}`" for name in tasks if name in {*_TEXTS, _EXPECTED}]
    if taken:
        raise ConfigError(
            f"the column of a task cannot be named {', '.join(taken)}: `--csv` has columns `text`, "
            "`pair` and `expected` of its own",
            "leave `--csv` out; in JSON the names stay apart",
        )


def answer_lines(rows: Rows, ask: Ask, *, csv: bool) -> None:
    """A line for each row; what is wrong with one stops no other, and is the exit code at the end.

    Args:
        rows: the rows.
        ask: the tasks.
        csv: print CSV with a line of names, not JSON.
    """
    empty: list[int] = []
    number = failed = 0
    if csv:
        render.data(_header(rows, ask))
    for chunk in rows.chunks:
        found = iter(ask.answers([text for text, _ in chunk if not isinstance(text, NoRow)]))
        for text, expected in chunk:
            number += 1
            answers = (
                _all_wrong(ask, text.error) if isinstance(text, NoRow) else _finite(next(found))
            )
            wrong = _tell_wrong(number, answers)
            failed += wrong
            empty += [number] if not wrong and _is_empty(text) else []
            own = {"image": text} if rows.named and not str(text).startswith(DATA_URL) else {}
            line = (
                _csv(text, answers, expected, rows) if csv else _json(own, answers, expected, ask)
            )
            render.data(line)
    if empty:
        render.words(
            f"warning: texts that are empty: {len(empty)} of {number}, the first is number {empty[0]}; "
            "their answers mean nothing"
        )
    if failed:
        render.words(f"error: {failed:,} of {number:,} rows were not answered")
        raise typer.Exit(1)


def write_vectors(
    rows: Rows,
    session: Session,
    task: str | tuple[str, ...],
    path: Path | None,
    *,
    second: bool,
    batch_size: int,
) -> None:
    """Write the vectors of all texts into a file of numpy; inverse: `numpy.load`.

    Raises:
        ConfigError: no file, or a task that gives no vectors.
        DataError: a line is no text.
    """
    if path is None:
        raise ConfigError("`--second` and `--npy FILE` are of one task that gives vectors")
    texts = []
    for chunk in rows.chunks:
        for text, _ in chunk:
            if isinstance(text, NoRow):
                raise text.error
            texts.append(text if isinstance(text, str) else text[0])
    vectors = session.embed(texts, task=task, second=second, batch_size=batch_size)
    file = io.BytesIO()
    np.save(file, vectors)
    write_bytes(path, file.getvalue())
    render.words(f"{len(vectors)} vectors of {vectors.shape[1]} numbers are in {path}")


def _all_wrong(ask: Ask, error: DataError) -> ByTask:
    return dict.fromkeys(ask.tasks, error)


def _finite(answers: ByTask) -> ByTask:
    """The answers; of a graph that overflowed, as narrow arithmetic may, the error."""
    return {name: answer if _is_finite(answer) else _NO_NUMBER for name, answer in answers.items()}


def _is_finite(answer: Answered | MaskpackError) -> bool:
    """Whether JSON has all numbers of the answer."""
    try:
        codec.dumps({} if isinstance(answer, MaskpackError) else answer.to_dict(), allow_nan=False)
    except ValueError:
        return False
    return True


def _tell_wrong(number: int, answers: ByTask) -> bool:
    """Whether a row lacks an answer; says which, each fact once."""
    facts = {str(one): None for one in answers.values() if isinstance(one, MaskpackError)}
    for fact in facts:
        render.words(f"error: row {number}: {fact}")
    return bool(facts)


def _json(row: dict[str, Any], answers: ByTask, expected: Label, ask: Ask) -> str:
    told: dict[str, Any] = {name: _told(answer) for name, answer in answers.items()}
    line = {"tasks": told} if ask.together else next(iter(told.values()))
    own = {} if expected is None else {_EXPECTED: expected}
    return codec.dumps({**row, **line, **own}, ensure_ascii=False, allow_nan=False)


def _told(answer: Answered | MaskpackError) -> dict[str, Any]:
    return {"error": str(answer)} if isinstance(answer, MaskpackError) else answer.to_dict()


def _header(rows: Rows, ask: Ask) -> str:
    texts = _TEXTS if rows.pairs else _TEXTS[:1]
    return _cells((*texts, *ask.tasks, *([_EXPECTED] if rows.labelled else [])))


def _csv(text: Text | NoRow, answers: ByTask, expected: Label, rows: Rows) -> str:
    """As many cells as the header has; a line that is no row is the first text."""
    parts = (text.line,) if isinstance(text, NoRow) else _parts(text)
    missing = [""] * (1 + rows.pairs - len(parts))
    own = [_label(expected, parts[-1])] if rows.labelled else []
    return _cells((*parts, *missing, *map(_cell, answers.values()), *own))


def _label(expected: Label, text: str) -> str:
    """A row's own label as a cell has the answer.

    Args:
        expected: the label; spans are of the text.
        text: the only text of the row, or the last.
    """
    if isinstance(expected, list):
        return BETWEEN.join(one if isinstance(one, str) else _span(one, text) for one in expected)
    return "" if expected is None else str(expected)


def _span(span: dict[str, Any], text: str) -> str:
    """The letters of a span, after what it is, if it says so."""
    letters = text[span["start"] : span["end"]]
    return f"{span['label']}: {letters}" if "label" in span else letters


def _cell(answer: Answered | MaskpackError) -> str:
    """The answer; nothing where there is none."""
    return "" if isinstance(answer, MaskpackError) else answer.cell


def _cells(cells: Sequence[str]) -> str:
    """A line of CSV, without its end."""
    line = io.StringIO()
    # line breaks in a cell are quoted only if the end of a line has them
    codec_of_tables.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def _is_empty(text: Text | NoRow) -> bool:
    return not isinstance(text, NoRow) and not any(map(str.strip, _parts(text)))


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
