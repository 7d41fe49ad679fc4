"""A task's rows in two splits: from files, from the samples in the package, or from the Hub.

Where the data has no evaluation split of its own, a tenth of every label is held out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.data.hub import Rows, glue_rows, hub_rows, is_hub
from maskpack.tasks.data.tables import NOWHERE, READERS, Row, read_rows
from maskpack.tasks.task import Task

SHARE = 10  # one row in so many
SEED = 0  # the same rows for every run: runs differ, data does not


@dataclass(frozen=True)
class HeldOut:
    """Rows that were held out of one file or split.

    Attributes:
        rows, total: held out, and in all.
        by_label: whether every label was given its share.
    """

    rows: int
    total: int
    by_label: bool


def held_out_places(groups: Sequence[str]) -> NDArray[np.intp]:
    """Indices of the rows that are held out, in order.

    A tenth of all, divided among the groups by their size; a group of two rows or more is in both
    splits whatever its size, and a group of one stays in training.

    Args:
        groups: the group of each row.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng(SEED).permutation(len(groups)):
        places[groups[index]].append(int(index))
    sizes = {group: len(places[group]) for group in sorted(places)}
    quota = {group: size // SHARE for group, size in sizes.items()}
    left = len(groups) // SHARE - sum(quota.values())
    for group in sorted(sizes, key=lambda one: -(sizes[one] % SHARE))[:left]:
        quota[group] += 1
    for group, size in sizes.items():
        quota[group] = min(max(quota[group], 1), size - 1)
    kept = [index for group in sizes for index in places[group][: quota[group]]]
    return np.sort(np.array(kept, dtype=np.intp))


def groups_of(labels: Sequence[Sequence[str]]) -> list[str]:
    """For each row its rarest label, so that rare labels are divided first; `` for a row without labels."""
    counts = Counter(label for row in labels for label in row)
    return [min(row, key=lambda label: (counts[label], label), default="") for row in labels]


TRAIN = ("train", "msr_paraphrase_train")
"""Names of training files; the second is MRPC's."""
_SUBSET_SEED = 0  # subsets do not depend on the run's seed: runs differ, data does not


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split.

    Attributes:
        texts: one or two texts a row.
        labels: class indices (int64) or values (float32), one a row; where a row may have several
            labels, 0 and 1 (int8) `(rows, c)`.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.intp]) -> Split:
        """The rows at `indices`, in that order."""
        return Split(tuple(self.texts[i] for i in indices), self.labels[indices])

    def sha256(self) -> str:
        """Digest of texts and labels."""
        digest = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels.tolist(), strict=True):
            digest.update(repr((texts, label)).encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TaskData:
    """Both splits of a task.

    Attributes:
        task: the task.
        labels: names in the order of the logits; empty for a regression.
        train, dev: the rows.
        held_out: how `dev` was taken from the training rows; None if it is a split of its own.
    """

    task: Task
    labels: tuple[str, ...]
    train: Split
    dev: Split
    held_out: HeldOut | None = None

    @property
    def outputs(self) -> int:
        """Width of the logits."""
        return max(1, len(self.labels))

    def in_order(self, labels: tuple[str, ...]) -> TaskData:
        """The same with its labels, and so the logits, in another order."""
        if labels == self.labels:
            return self
        places = np.array([self.labels.index(label) for label in labels])
        train, dev = (
            replace(split, labels=self.task.type.in_order(split.labels, places))
            for split in (self.train, self.dev)
        )
        return replace(self, labels=labels, train=train, dev=dev)

    def limit_train(self, rows: int | None) -> TaskData:
        """At most `rows` training rows, chosen at random but the same for every run seed."""
        if rows is None or rows >= len(self.train):
            return self
        order = np.random.default_rng(_SUBSET_SEED).permutation(len(self.train))
        return replace(self, train=self.train.take(np.sort(order[:rows])))


def load_data(task: Task, *, data: Path | None = None, eval_data: Path | None = None) -> TaskData:
    """Read both splits of `task`.

    Without an evaluation split a tenth of the rows of each label is held out.

    Args:
        task: what to read.
        data: folder with train and dev files, one file, or `hub:NAME[:CONFIG]`; None for samples and
            the Hub.
        eval_data: file of the evaluation split, if it is not beside the training file.

    Raises:
        DataError: missing file or column, unknown label, wrong encoding, empty split.
    """
    data = data or task.folder
    if data is None:
        rows = _checked(task, glue_rows(task), "the Hub")
    elif is_hub(data):
        rows = _checked(task, hub_rows(task, data), f"`{data.as_posix()}`")
    else:
        rows = _file_rows(task, data, eval_data)
    if eval_data is not None and (data is None or is_hub(data)):
        rows = Rows(rows.train, _read(task, eval_data), rows.names)
    return _assemble(task, rows, str(data or "the Hub"))


def load_dev(
    task: Task, labels: Sequence[str], *, data: Path | None = None, sha256: str | None = None
) -> Split:
    """Read the evaluation split alone, for label names that are already fixed.

    Args:
        task: what to read.
        labels: label names in the order of the logits.
        data: folder with a dev file, that file, or `hub:NAME[:CONFIG]`; None for samples and the Hub.
        sha256: digest of the wanted rows. If they are the rows that `load_data` holds out of a single file,
            these are given; otherwise all rows of the file.
    """
    data = data or task.folder
    if data is None or is_hub(data):
        both = glue_rows(task) if data is None else hub_rows(task, data)
        rows = _divided(task, both.train)[1] if both.dev is None else both.dev
        rows = checked_rows(task, rows, str(data or "the Hub"))
    elif data.is_dir():
        rows = _read(task, find_file(data, task.dev))
    else:
        rows = _read(task, data)
        split = _dev_split(task, labels, rows)
        if sha256 is None or split.sha256() == sha256 or not (held := _divided(task, rows)[1]):
            return split
        held_out = _dev_split(task, labels, held)
        return held_out if held_out.sha256() == sha256 else split
    return _dev_split(task, labels, rows)


def _dev_split(task: Task, labels: Sequence[str], rows: list[Row]) -> Split:
    raw = task.raw_labels or tuple(labels)
    return _to_split(task, raw, rows, f"evaluation split of `{task.name}`")


def _assemble(task: Task, rows: Rows, where: str) -> TaskData:
    train, dev, held_out = rows.train, rows.dev, None
    if not train:
        raise DataError(f"the training split of `{task.name}` is empty in {where}")
    cells = [row[-1] for row in train]
    raw = task.raw_labels or rows.names or task.type.label_names(task.label, cells, task.separator)
    if dev is None:
        train, dev = _divided(task, rows.train)
        held_out = HeldOut(len(dev), len(rows.train), by_label=task.type.labelled)
    if not dev:
        hint = "too few rows to hold some out: give `eval_data`" if held_out is not None else None
        raise DataError(f"the evaluation split of `{task.name}` is empty in {where}", hint)
    return TaskData(
        task,
        (task.labels or raw) if task.type.labelled else (),
        _to_split(task, raw, train, f"training split of `{task.name}`"),
        _to_split(task, raw, dev, f"evaluation split of `{task.name}`"),
        held_out,
    )


def _to_split(task: Task, raw: Sequence[str], rows: list[Row], where: str) -> Split:
    if not rows:
        raise DataError(f"the {where} is empty")
    cells = [row[-1] for row in rows]
    labels = task.type.encode(cells, raw, task.separator, where)
    return Split(tuple(row[:-1] for row in rows), labels)


def _file_rows(task: Task, data: Path, eval_data: Path | None) -> Rows:
    if not data.exists():
        raise DataError(f"no such file or folder: `{data}`", NOWHERE)
    if data.is_dir():
        train = _read(task, find_file(data, TRAIN))
        return Rows(train, _read(task, eval_data or find_file(data, task.dev)))
    return Rows(_read(task, data), None if eval_data is None else _read(task, eval_data))


def _divided(task: Task, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training rows and the tenth that is held out, in the file's order."""
    groups = groups_of([task.type.cell_labels(row[-1], task.separator) for row in rows])
    held = set(held_out_places(groups).tolist())
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


def checked_rows(task: Task, rows: list[Row], where: str) -> list[Row]:
    """The rows, their labels as the type of the task keeps them.

    Raises:
        DataError: a label is missing or of another form, or a column of text is empty.
    """
    for index, column in enumerate(task.texts):
        if rows and not any(row[index].strip() for row in rows):
            raise DataError(
                f"column `{column}` of {where} is empty in every row", "choose another `text_field`"
            )
    if task.raw_labels:
        return rows
    check = task.type.check_cell
    return [
        (*row[:-1], check(row[-1], f"data row {number} of {where}", task.label))
        for number, row in enumerate(rows, start=1)
    ]


def _checked(task: Task, rows: Rows, where: str) -> Rows:
    dev = None if rows.dev is None else checked_rows(task, rows.dev, where)
    return Rows(checked_rows(task, rows.train, where), dev, rows.names)


def _read(task: Task, path: Path) -> list[Row]:
    columns, lists = (*task.texts, task.label), task.type.several
    rows = read_rows(path, columns, header=task.header, lists=lists)
    return checked_rows(task, rows, f"`{path}`")


def find_file(folder: Path, stems: Sequence[str]) -> Path:
    """The first file in a folder with one of these names and an ending that is read.

    Raises:
        DataError: there is none.
    """
    for stem in stems:
        for ending in READERS:
            for zipped in ("", ".gz"):
                path = folder / f"{stem}{ending}{zipped}"
                if path.is_file():
                    return path
    raise DataError(
        f"`{folder}` has no file `{stems[0]}` with one of the endings {', '.join(READERS)}",
        f"looked for: {', '.join(stems)}",
    )
