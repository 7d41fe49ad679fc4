"""Notes and warnings about the data before a run: counts, and whatever may spoil the result.

Each is one line that ends with what to do. Only `log_warnings` has an effect: it sends the
lines to the log `maskpack.tasks.data_warnings`, notes as INFO, warnings as WARNING.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import Hint
from maskpack.runtime.windows import LONGEST
from maskpack.tasks.alike import alike, spelled
from maskpack.tasks.data.held_out import SEED
from maskpack.tasks.data.splits import Split, TaskData
from maskpack.tasks.data.stored_rows import pages_of, taken
from maskpack.tasks.evaluation.metrics import majority
from maskpack.tasks.types.base import TaskType, too_many
from maskpack.tasks.windows import by_row

if TYPE_CHECKING:
    from maskpack.tasks.batches import Encoded

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
        hint = Hint(warning.hint) if isinstance(warning.hint, str) else warning.hint
        _LOG.log(level, "%s; %s" if str(hint) else "%s%s", warning.text, hint)


def find_warnings(data: TaskData) -> list[DataWarning]:
    """All notes and warnings about a task's rows and labels."""
    warnings = [*_split(data), *_texts(data)]
    if _counted(data):
        warnings += [*_counts(data), *_many(data), *_names(_counted(data)), *_lopsided(data)]
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
    lengths = [np.zeros(0, np.int64)]
    for split, rows in splits:
        may_be_cut = taken(split.texts, np.flatnonzero(rows.lengths >= max_length))
        lengths += [full[full > max_length] for full in map(full_lengths, pages_of(may_be_cut))]
    cut = np.concatenate(lengths)
    if not len(cut):
        return []
    total = sum(len(split) for split, _ in splits)
    enough = min(-(-int(cut.max()) // 8) * 8, longest)
    held, some = len(cut) - int((cut > enough).sum()), "all of them"
    if held < len(cut):
        some = f"{held or 'none'} of them, and the model reads no more"
    would: Hint | str = "it reads no more"
    if enough > max_length:
        would = Hint("a `max_length` of {enough} would hold {held}", enough=enough, held=some)
    return [
        DataWarning(
            f"{len(cut)} of {total} texts are longer than {max_length} tokens and are cut", would
        )
    ]


def window_warnings(
    splits: Sequence[tuple[Split, Encoded]], max_length: int
) -> Iterator[DataWarning]:
    """Into how many windows rows were cut, how many have no answer, and how many one that cannot be found.

    Args:
        splits: rows, and their windows.
        max_length: tokens of a window at most.
    """
    rows, windows = (sum(len(one[place]) for one in splits) for place in (0, 1))
    without = sum(not answers for split, _ in splits for answers in split.labels)
    also = f", {without:,} of them without an answer" if without else ""
    yield DataWarning(
        f"{rows:,} questions{also} in {windows:,} windows of at most {max_length} tokens",
        serious=False,
    )
    torn = long = 0
    for row, places, labels in (
        (*one, own.labels) for _, own in splits for one in by_row(own.labels)
    ):
        sizes = [labels[at].end - labels[at].start + 1 for at in places if labels[at].has_answer]
        torn += bool(row.answers) and not sizes
        long += bool(sizes) and min(sizes) > LONGEST
    if torn:
        yield DataWarning(
            f"answers that are whole in no window, and so are never learned: {torn}",
            "a larger `max_length` or `stride` may hold them",
        )
    if long:
        yield DataWarning(f"answers of more than {LONGEST} tokens, which are never given: {long}")


def answer_warnings(
    kind: TaskType, logits: NDArray[np.float32], labels: NDArray[Any]
) -> list[DataWarning]:
    """Whether a task says much the same of every row.

    Args:
        kind: its type.
        logits: `(rows, c)`.
        labels: of these rows.
    """
    fact = kind.nearly_constant(logits, labels)
    return [] if fact is None else [DataWarning(fact, "train longer, or with a larger `head_lr`")]


def _split(data: TaskData) -> Iterator[DataWarning]:
    """Where the evaluation rows come from."""
    held = data.held_out
    if held is not None:
        how = "the same share of each label" if held.by_label else "drawn at random"
        how = "whole contexts" if held.together else how
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
    kind, names = data.task.type, _counted(data)
    train, dev = (kind.counts(split.labels, len(data.labels)) for split in (data.train, data.dev))
    shown = [f"{name} {a} + {b}" for name, a, b in zip(names, train, dev, strict=True)]
    if len(shown) > _NAMED:
        order = np.argsort(-train, kind="stable")
        ends = [shown[place] for place in (*order[:3], *order[-3:])]
        shown = [*ends[:3], f"... {len(shown) - 6} more ...", *ends[3:]]
    yield DataWarning(
        f"{_unit(data)} of each label, training + evaluation: {', '.join(shown)}", serious=False
    )
    for counts, where, what in (
        (train, "training", "is never learned"),
        (dev, "evaluation", "is not scored"),
    ):
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if absent:
            yield DataWarning(
                f"without {'a row' if _unit(data) == 'rows' else 'an entity'} in the {where} split, and so it {what}: {_some(absent)}"
            )
    if data.task.type.several and data.train.labels.sum(axis=1).max() < 2:
        yield DataWarning(
            "no row has more than one label",
            "is something else than this separator of labels needed?",
        )


def _counted(data: TaskData) -> tuple[str, ...]:
    """Names of what counts as a label."""
    return data.task.type.counted(data.labels)


def _unit(data: TaskData) -> str:
    """What has a label: a row, or an entity in one."""
    return "entities" if data.task.type.decoder.per_token else "rows"


def _many(data: TaskData) -> Iterator[DataWarning]:
    """Labels of a column that may hold something else."""
    if too_many(data.labels, len(data.train)) and not data.task.raw_labels:
        yield DataWarning(
            f"column `{data.task.label}` holds {len(data.labels)} labels in {len(data.train)} training rows",
            "if they are none, choose another `label_field`; a number is of the kind `regression`",
        )


def _names(labels: Sequence[str]) -> Iterator[DataWarning]:
    """Labels that are probably one."""
    case: list[list[str]] = []
    other: list[list[str]] = []
    for group in alike(labels):
        bare = {label.strip().casefold() for label in group}
        (case if len(bare) == 1 else other).append(group)
    if case:
        named = [label for label in labels if any(label in group for group in case)]
        yield DataWarning(f"labels differ in letter case only: {_some(named)}; make them one")
    if other:
        named = [" and ".join(f"`{spelled(label)}`" for label in group) for group in other]
        yield DataWarning(
            f"labels look alike but are different texts: {_some(named)}; make them one"
        )


def _lopsided(data: TaskData) -> Iterator[DataWarning]:
    counts = data.task.type.counts(data.train.labels, len(data.labels))
    present = counts[counts > 0]
    if (
        data.task.type.several
        or data.task.type.structured
        or present.max() < _LOPSIDED * present.min()
    ):
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
    elif _counted(data):
        counts = data.task.type.counts(data.train.labels, len(data.labels))
        rare = [
            f"{name} ({count})"
            for name, count in zip(_counted(data), counts, strict=True)
            if 0 < count < _FEW_OF_A_LABEL
        ]
        if rare:
            yield DataWarning(
                f"under {_FEW_OF_A_LABEL} training {_unit(data)}: {_some(rare)}; add rows or merge labels"
            )
    if len(data.dev) < _FEW_TO_SCORE and not data.task.type.own_label:
        yield DataWarning(
            f"evaluation rows: {len(data.dev)}, each is {100 / len(data.dev):.1f} points of the score",
            "give more as `eval_data`",
        )


def _repeated(data: TaskData) -> Iterator[DataWarning]:
    """Texts that occur in both splits, and texts under two labels."""
    train, dev = (_hashes(split) for split in (data.train, data.dev))
    both = int(np.isin(dev, train).sum())
    if both:
        yield DataWarning(
            f"evaluation rows that are training rows too: {both} of {len(data.dev)}; they flatter "
            "the score, leave duplicates out"
        )
    torn = _torn(train, data.train.labels) if data.labels else 0
    if torn:
        yield DataWarning(f"training texts under different labels: {torn}; correct them")


def _hashes(split: Split) -> NDArray[np.int64]:
    """A hash of what tells every row from others: of millions of rows no two different ones are likely to have the same."""
    return np.fromiter(map(hash, split.keys), dtype=np.int64, count=len(split))


def _torn(hashes: NDArray[np.int64], labels: NDArray[Any]) -> int:
    """Texts that stand in rows of different labels."""
    order = np.argsort(hashes, kind="stable")
    hashes, labels = hashes[order], labels[order].reshape(len(labels), -1)
    differ = (labels[1:] != labels[:-1]).any(axis=1) & (hashes[1:] == hashes[:-1])
    return len(np.unique(hashes[1:][differ]))


def _some(names: Sequence[str]) -> str:
    more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED} more"
    return ", ".join(names[:_NAMED]) + more
