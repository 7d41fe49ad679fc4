"""What somebody should know of their data before a run: counts, and whatever may spoil the result.

Each remark is one line that ends with what to do. The functions are pure but for `tell`, which hands the
lines to the log `maskpack.tasks.data_warnings`: notes as INFO, warnings as WARNING.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import SEED, Split, TaskData
from maskpack.tasks.evaluation.metrics import majority
from maskpack.tasks.task import Kind

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
        text: the line.
        serious: whether it is a warning rather than a note.
    """

    text: str
    serious: bool = True


def log_warnings(remarks: Iterable[DataWarning]) -> None:
    """Hand remarks to the log."""
    for remark in remarks:
        _LOG.log(logging.WARNING if remark.serious else logging.INFO, "%s", remark.text)


def find_warnings(data: TaskData) -> list[DataWarning]:
    """All there is to say of a task's rows and labels."""
    found = [*_split(data), *_texts(data)]
    if data.task.kind is not Kind.REGRESSION:
        found += [*_counts(data), *_names(data.labels), *_lopsided(data)]
    return [*found, *_few(data), *_repeated(data)]


def length_warnings(
    tokenizer: Any, splits: Sequence[tuple[Split, Encoded]], *, max_length: int, longest: int
) -> list[DataWarning]:
    """How many texts were cut, and which length would hold them.

    Args:
        tokenizer: that made the tokens.
        splits: texts, and what they became.
        max_length: tokens they were cut to.
        longest: tokens the encoder has positions for.
    """
    full = np.concatenate(
        [_full_lengths(tokenizer, split, rows, max_length) for split, rows in splits]
    )
    cut = full[full > max_length]
    if not len(cut):
        return []
    total = sum(len(split) for split, _ in splits)
    enough = min(-(-int(cut.max()) // 8) * 8, longest)
    still = int((cut > enough).sum())
    held = "all of them" if not still else f"all but {still}, and the model reads no more"
    would = (
        f"`--max-length {enough}` would hold {held}" if enough > max_length else "it reads no more"
    )
    return [
        DataWarning(
            f"{len(cut)} of {total} texts are longer than {max_length} tokens and are cut; {would}"
        )
    ]


def _full_lengths(
    tokenizer: Any, split: Split, rows: Encoded, max_length: int
) -> NDArray[np.int64]:
    """Tokens of the rows that may have been cut, had they not been."""
    places = np.flatnonzero(rows.lengths >= max_length)
    if not len(places):
        return places
    columns = zip(*(split.texts[place] for place in places), strict=True)
    told = tokenizer(*(list(column) for column in columns), truncation=False, verbose=False)
    return np.array([len(row) for row in told["input_ids"]], dtype=np.int64)


def _split(data: TaskData) -> list[DataWarning]:
    """How the evaluation rows were come by."""
    held = data.held_out
    if held is None:
        return []
    how = "the same share of each label" if held.by_label else "drawn at random"
    return [
        DataWarning(
            f"held out {held.rows} of {held.total} rows ({held.rows / held.total:.0%}) for evaluation, "
            f"{how}, seed {SEED}; `--eval-data` gives rows of your own",
            serious=False,
        )
    ]


def _texts(data: TaskData) -> list[DataWarning]:
    empty = sum(not any(text.strip() for text in row) for row in data.train.texts)
    return (
        [DataWarning(f"training rows with an empty text: {empty}; leave them out")] if empty else []
    )


def label_counts(split: Split, labels: int) -> NDArray[np.int64]:
    """Rows `(c)` of each label."""
    if split.labels.ndim == 2:
        return np.asarray(split.labels.sum(axis=0, dtype=np.int64))
    return np.bincount(split.labels, minlength=labels)


def _counts(data: TaskData) -> list[DataWarning]:
    train, dev = (label_counts(split, len(data.labels)) for split in (data.train, data.dev))
    shown = [f"{name} {a} + {b}" for name, a, b in zip(data.labels, train, dev, strict=True)]
    if len(shown) > _NAMED:
        order = np.argsort(-train, kind="stable")
        ends = [shown[place] for place in (*order[:3], *order[-3:])]
        shown = [*ends[:3], f"... {len(shown) - 6} more ...", *ends[3:]]
    found = [
        DataWarning(f"rows of each label, training + evaluation: {', '.join(shown)}", serious=False)
    ]
    for counts, where in ((train, "training"), (dev, "evaluation")):
        absent = [name for name, count in zip(data.labels, counts, strict=True) if not count]
        what = "is never learned" if where == "training" else "is not scored"
        if absent:
            found.append(
                DataWarning(
                    f"without a row in the {where} split, and so it {what}: {_some(absent)}"
                )
            )
    if data.task.kind is Kind.MULTI_LABEL and data.train.labels.sum(axis=1).max() < 2:
        found.append(
            DataWarning(
                "no row has more than one label; is something else than `--label-separator` needed?"
            )
        )
    return found


def _names(labels: Sequence[str]) -> list[DataWarning]:
    """Labels that are probably one."""
    alike = Counter(label.strip().casefold() for label in labels)
    twins = [label for label in labels if alike[label.strip().casefold()] > 1]
    return (
        [DataWarning(f"labels differ in letter case only: {_some(twins)}; make them one")]
        if twins
        else []
    )


def _lopsided(data: TaskData) -> list[DataWarning]:
    counts = label_counts(data.train, len(data.labels))
    present = counts[counts > 0]
    if data.task.kind is not Kind.CLASSIFICATION or present.max() < _LOPSIDED * present.min():
        return []
    most = data.labels[int(counts.argmax())]
    floor = majority(data.dev.labels, ["accuracy"])["accuracy"]
    advice = "" if data.task.metric == "macro_f1" else "; judge by `--metric macro_f1`"
    return [
        DataWarning(
            f"`{most}` has {present.max() / present.min():.0f} times the rows of the rarest label: "
            f"always answering it is {floor:.0%} accurate{advice}"
        )
    ]


def _few(data: TaskData) -> list[DataWarning]:
    found = []
    if len(data.train) < _FEW_ROWS:
        found.append(
            DataWarning(
                f"training rows: {len(data.train)}, which is few (under {_FEW_ROWS}): results differ from seed "
                "to seed; label more rows, or try several `--seed` and more `--epochs`"
            )
        )
    elif data.task.kind is not Kind.REGRESSION:
        counts = label_counts(data.train, len(data.labels))
        rare = [
            f"{name} ({count})"
            for name, count in zip(data.labels, counts, strict=True)
            if 0 < count < _FEW_OF_A_LABEL
        ]
        if rare:
            found.append(
                DataWarning(
                    f"under {_FEW_OF_A_LABEL} training rows: {_some(rare)}; add rows or merge labels"
                )
            )
    if len(data.dev) < _FEW_TO_SCORE:
        found.append(
            DataWarning(
                f"evaluation rows: {len(data.dev)}, each is {100 / len(data.dev):.1f} points of the score; "
                "give more with `--eval-data`"
            )
        )
    return found


def _repeated(data: TaskData) -> list[DataWarning]:
    """Texts that stand on both sides, and texts under two labels."""
    known = set(data.train.texts)
    both = sum(row in known for row in data.dev.texts)
    found = []
    if both:
        found.append(
            DataWarning(
                f"evaluation rows that are training rows too: {both} of {len(data.dev)}; they flatter "
                "the score, leave duplicates out"
            )
        )
    answers: dict[tuple[str, ...], set[Any]] = {}
    for texts, label in zip(data.train.texts, data.train.labels.tolist(), strict=True):
        answers.setdefault(texts, set()).add(repr(label))
    torn = sum(len(labels) > 1 for labels in answers.values())
    if torn and data.task.kind is not Kind.REGRESSION:
        found.append(DataWarning(f"training texts under different labels: {torn}; correct them"))
    return found


def _some(names: Sequence[str]) -> str:
    more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED} more"
    return ", ".join(names[:_NAMED]) + more
