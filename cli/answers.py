"""ByTask of `compress predict` as lines: JSON or CSV, of one task or of all tasks of a folder. Imports no torch."""

from __future__ import annotations

import csv as codec_of_tables
import io
import json as codec
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from maskpack.cli import render
from maskpack.formats import ConfigError, DataError, MaskpackError

if TYPE_CHECKING:
    from maskpack.runtime import Prediction, Session
    from maskpack.runtime.task import TaskConfig
    from maskpack.runtime.tokens import Text

Asked = tuple["Text | DataError", str | float | list[str] | None]
"""A text or a pair, or what is wrong with it, and its own label or labels, or number; None if the table has none."""

ByTask = dict[str, "Prediction | MaskpackError"]
"""Name of a task -> its answer to a text, or what is wrong."""

_BETWEEN = "|"  # labels of a cell


@dataclass(frozen=True)
class Ask:
    """Which tasks answer.

    Attributes:
        session: of the folder.
        tasks: their names, in the order of their columns.
        batch_size: texts a run.
        together: whether a line holds an object of tasks; else it is the answer of the only one.
    """

    session: Session
    tasks: tuple[str, ...]
    batch_size: int
    together: bool

    def answers(self, texts: Sequence[Text]) -> list[ByTask]:
        """What each task says of each text."""
        return self.session.predict_all_each(texts, tasks=self.tasks, batch_size=self.batch_size)


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


def answer_lines(asked: Iterator[Sequence[Asked]], ask: Ask, *, csv: bool, pairs: bool) -> None:
    """A line for each row; what is wrong with one stops no other, and is the exit code at the end.

    Args:
        asked: lists of rows that are answered together.
        ask: the tasks.
        csv: print CSV with a line of names, not JSON.
        pairs: whether a row is a pair of texts.
    """
    empty: list[int] = []
    number = failed = 0
    if csv:
        names = ("text", "pair") if pairs else ("text",)
        render.data(_cells((*names, *ask.tasks)))
    for chunk in asked:
        found = iter(ask.answers([text for text, _ in chunk if not isinstance(text, DataError)]))
        for text, expected in chunk:
            number += 1
            answers = _all_wrong(ask, text) if isinstance(text, DataError) else next(found)
            wrong = _tell_wrong(number, answers)
            failed += wrong
            empty += [number] if not wrong and _is_empty(text) else []
            line = _csv(text, answers) if csv else _json(answers, expected, ask)
            render.data(line)
    if empty:
        render.words(
            f"warning: texts that are empty: {len(empty)} of {number}, the first is number {empty[0]}; "
            "their answers mean nothing"
        )
    if failed:
        render.words(f"error: {failed:,} of {number:,} rows were not answered")
        raise typer.Exit(1)


def _all_wrong(ask: Ask, error: DataError) -> ByTask:
    return dict.fromkeys(ask.tasks, error)


def _tell_wrong(number: int, answers: ByTask) -> bool:
    """Whether a row lacks an answer; says which, each fact once."""
    facts = {str(one): None for one in answers.values() if isinstance(one, MaskpackError)}
    for fact in facts:
        render.words(f"error: row {number}: {fact}")
    return bool(facts)


def _json(answers: ByTask, expected: str | float | list[str] | None, ask: Ask) -> str:
    told: dict[str, Any] = {name: _told(answer) for name, answer in answers.items()}
    line = {"tasks": told} if ask.together else next(iter(told.values()))
    own = {} if expected is None else {"expected": expected}
    return codec.dumps({**line, **own}, ensure_ascii=False)


def _told(answer: Prediction | MaskpackError) -> dict[str, Any]:
    return {"error": str(answer)} if isinstance(answer, MaskpackError) else answer.to_dict()


def _csv(text: Text | DataError, answers: ByTask) -> str:
    parts = ("",) if isinstance(text, DataError) else _parts(text)
    return _cells((*parts, *map(_cell, answers.values())))


def _cell(answer: Prediction | MaskpackError) -> str:
    """A label, labels, or a number; nothing where there is no answer."""
    if isinstance(answer, MaskpackError):
        return ""
    if answer.labels is not None:
        return _BETWEEN.join(answer.labels)
    return f"{answer.score:.6g}" if answer.label is None else answer.label


def _cells(cells: Sequence[str]) -> str:
    """A line of CSV, without its end."""
    line = io.StringIO()
    codec_of_tables.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _is_empty(text: Text | DataError) -> bool:
    return not isinstance(text, DataError) and not any(map(str.strip, _parts(text)))


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
