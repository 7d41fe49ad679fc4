"""Notes and warnings about the data before a run: counts, and whatever may spoil the result.

Each is one line that ends with what to do. Only `log_warnings` has an effect: it sends the
lines to the log `maskpack.tasks.data_warnings`, notes as INFO, warnings as WARNING.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import Hint
from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import SEED, Split, TaskData
from maskpack.tasks.evaluation.metrics import majority

_LOG = logging.getLogger(__name__)
_FEW_ROWS = 100  # training rows, under which seeds matter more than options
_FEW_OF_A_LABEL = 8
_FEW_TO_SCORE = 50  # evaluation rows: each is two points or more
_LOPSIDED = 10  # rows of the commonest label for one of the rarest
_NAMED = 8  # labels that a line spells out


@dataclass(frozen=True)
class DataWarning:
    """One line for people.

    Attributes:
        text: the fact.
        hint: what to do, if anything.
        serious: whether it is a warning rather than a note.
    """

    text: str
    hint: Hint | str = ""
    serious: bool = True

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.text, str(self.hint))))


def log_warnings(warnings: Iterable[DataWarning]) -> None:
    """Log warnings and notes."""
    for warning in warnings:
        level = logging.WARNING if warning.serious else logging.INFO
        _LOG.log(level, "%s; %s" if warning.hint else "%s%s", warning.text, warning.hint)


def find_warnings(data: TaskData) -> list[DataWarning]:
    """All notes and warnings about a task's rows and labels."""
    warnings = [*_split(data), *_texts(data)]
    if data.labels:
        warnings += [*_counts(data), *_names(data.labels), *_lopsided(data)]
    return [*warnings, *_few(data), *_repeated(data)]


def length_warnings(
    full_lengths: Callable[[Sequence[tuple[str, ...]]], NDArray[np.int64]],
    splits: Sequence[tuple[Split, Encoded]],
    *,
    max_length: int,
    longest: int,
) -> list[DataWarning]:
    """How many texts were cut, and which length would hold them.

    Args:
        full_lengths: tokens of rows without the cut.
        splits: texts, and their tokens.
        max_length: tokens they were cut to.
        longest: tokens the encoder has positions for.
    """
    may_be_cut = [
        [split.texts[index] for index in np.flatnonzero(rows.lengths >= max_length)]
        for split, rows in splits
    ]
    full = np.concatenate(
        [full_lengths(rows) for rows in may_be_cut if rows] or [np.zeros(0, np.int64)]
    )
    cut = full[full > max_length]
    if not len(cut):
        return []
    total = sum(len(split) for split, _ in splits)
    enough = min(-(-int(cut.max()) // 8) * 8, longest)
    still = int((cut > enough).sum())
    held = "all of them" if not still else f"all but {still}, and the model reads no more"
    would: Hint | str = "it reads no more"
    if enough > max_length:
        would = Hint("a `max_length` of {enough} would hold {held}", enough=enough, held=held)
    return [
        DataWarning(
            f"{len(cut)} of {total} texts are longer than {max_length} tokens and are cut", would
        )
    ]


def _split(data: TaskData) -> Iterator[DataWarning]:
    """Where the evaluation rows come from."""
    held = data.held_out
    if held is not None:
        how = "the same share of each label" if held.by_label else "drawn at random"
        yield DataWarning(
            f"held out {held.rows} of {held.total} rows ({held.rows / held.total:.0%}) for evaluation, "
            f"{how}, seed {SEED}",
            "`eval_data` gives rows of your own",
            serious=False,
        )


def _texts(data: TaskData) -> Iterator[DataWarning]:
    empty = sum(not any(text.strip() for text in row) for row in data.train.texts)
    if empty:
        yield DataWarning(f"training rows with an empty text: {empty}; leave them out")


def _counts(data: TaskData) -> Iterator[DataWarning]:
    count = data.task.type.counts
    train, dev = (count(split.labels, len(data.labels)) for split in (data.train, data.dev))
    shown = [f"{name} {a} + {b}" for name, a, b in zip(data.labels, train, dev, strict=True)]
    if len(shown) > _NAMED:
        order = np.argsort(-train, kind="stable")
        ends = [shown[place] for place in (*order[:3], *order[-3:])]
        shown = [*ends[:3], f"... {len(shown) - 6} more ...", *ends[3:]]
    yield DataWarning(
        f"rows of each label, training + evaluation: {', '.join(shown)}", serious=False
    )
    for counts, where, what in (
        (train, "training", "is never learned"),
        (dev, "evaluation", "is not scored"),
    ):
        absent = [name for name, count in zip(data.labels, counts, strict=True) if not count]
        if absent:
            yield DataWarning(
                f"without a row in the {where} split, and so it {what}: {_some(absent)}"
            )
    if data.task.type.several and data.train.labels.sum(axis=1).max() < 2:
        yield DataWarning(
            "no row has more than one label",
            "is something else than this separator of labels needed?",
        )


def _names(labels: Sequence[str]) -> Iterator[DataWarning]:
    """Labels that are probably one."""
    counts = Counter(label.strip().casefold() for label in labels)
    alike = [label for label in labels if counts[label.strip().casefold()] > 1]
    if alike:
        yield DataWarning(f"labels differ in letter case only: {_some(alike)}; make them one")


def _lopsided(data: TaskData) -> Iterator[DataWarning]:
    counts = data.task.type.counts(data.train.labels, len(data.labels))
    present = counts[counts > 0]
    if data.task.type.several or present.max() < _LOPSIDED * present.min():
        return
    most = data.labels[int(counts.argmax())]
    floor = majority(data.task.type, data.dev.labels, ["accuracy"])["accuracy"]
    yield DataWarning(
        f"`{most}` has {present.max() / present.min():.0f} times the rows of the rarest label: "
        f"always answering it is {floor:.0%} accurate",
        "" if data.task.metric == "macro_f1" else "judge by the metric `macro_f1`",
    )


def _few(data: TaskData) -> Iterator[DataWarning]:
    if len(data.train) < _FEW_ROWS:
        yield DataWarning(
            f"training rows: {len(data.train)}, which is few (under {_FEW_ROWS}): results differ "
            "from seed to seed",
            "label more rows, or try several seeds and more epochs",
        )
    elif data.labels:
        counts = data.task.type.counts(data.train.labels, len(data.labels))
        rare = [
            f"{name} ({count})"
            for name, count in zip(data.labels, counts, strict=True)
            if 0 < count < _FEW_OF_A_LABEL
        ]
        if rare:
            yield DataWarning(
                f"under {_FEW_OF_A_LABEL} training rows: {_some(rare)}; add rows or merge labels"
            )
    if len(data.dev) < _FEW_TO_SCORE:
        yield DataWarning(
            f"evaluation rows: {len(data.dev)}, each is {100 / len(data.dev):.1f} points of the score",
            "give more as `eval_data`",
        )


def _repeated(data: TaskData) -> Iterator[DataWarning]:
    """Texts that occur in both splits, and texts under two labels."""
    known = set(data.train.texts)
    both = sum(row in known for row in data.dev.texts)
    if both:
        yield DataWarning(
            f"evaluation rows that are training rows too: {both} of {len(data.dev)}; they flatter "
            "the score, leave duplicates out"
        )
    answers: dict[tuple[str, ...], set[str]] = {}
    for texts, label in zip(data.train.texts, data.train.labels.tolist(), strict=True):
        answers.setdefault(texts, set()).add(repr(label))
    torn = sum(len(labels) > 1 for labels in answers.values())
    if torn and data.labels:
        yield DataWarning(f"training texts under different labels: {torn}; correct them")


def _some(names: Sequence[str]) -> str:
    more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED} more"
    return ", ".join(names[:_NAMED]) + more
