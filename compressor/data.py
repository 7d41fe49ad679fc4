"""A task's rows: from files, from the samples in the package, or from the Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.tables import READERS, Row, read_rows
from maskpack.compressor.tasks import HubData, Kind, Task
from maskpack.formats import DataError

_HOLD_OUT = 10  # without an evaluation file every tenth row, after a fixed shuffle, is held out
_SUBSET_SEED = 0  # subsets do not depend on the run's seed: runs differ, data does not


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split.

    Attributes:
        texts: one or two texts a row.
        labels: class indices (int64) or values (float32), one a row.
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
    """Both splits of a task, with the label names in the order of the logits."""

    task: Task
    labels: tuple[str, ...]
    train: Split
    dev: Split

    @property
    def outputs(self) -> int:
        """Width of the logits."""
        return len(self.labels) if self.task.kind is Kind.CLASSIFICATION else 1

    def limit_train(self, rows: int | None) -> TaskData:
        """At most `rows` training rows, chosen at random but the same for every run seed."""
        if rows is None or rows >= len(self.train):
            return self
        order = np.random.default_rng(_SUBSET_SEED).permutation(len(self.train))
        return replace(self, train=self.train.take(np.sort(order[:rows])))


def load_data(task: Task, *, data: Path | None = None, eval_data: Path | None = None) -> TaskData:
    """Read both splits of `task`.

    Args:
        task: what to read.
        data: folder with train and dev files, or one file; None for samples and the Hub.
        eval_data: file of the evaluation split, if it is not found beside the training file.

    Raises:
        DataError: missing file or column, unknown label, wrong encoding, empty split.
    """
    data = data or task.folder
    if data is None:
        train, dev = _hub_rows(task)
    else:
        train, dev = _file_rows(task, data, eval_data)
    return _assemble(task, train, dev, str(data or "the Hub"))


def load_dev(task: Task, labels: Sequence[str], *, data: Path | None = None) -> Split:
    """Read the evaluation split alone, for label names that are already fixed.

    Args:
        task: what to read.
        labels: label names in the order of the logits.
        data: folder with a dev file, or that file; None for samples and the Hub.
    """
    data = data or task.folder
    if data is None:
        _, rows = _hub_rows(task)
    elif data.is_dir():
        rows = _read(task, _find(data, task.dev))
    else:
        rows = _read(task, data)
    return _dev_split(task, labels, rows)


def load_held_out(task: Task, labels: Sequence[str], *, data: Path) -> Split:
    """The rows that `load_data` holds out of a single file when it is given no evaluation file."""
    return _dev_split(task, labels, _hold_out(_read(task, data))[1])


def _dev_split(task: Task, labels: Sequence[str], rows: list[Row]) -> Split:
    raw = task.raw_labels or tuple(labels)
    return _to_split(task, raw, rows, f"evaluation split of `{task.name}`")


def _assemble(task: Task, train: list[Row], dev: list[Row], where: str) -> TaskData:
    for name, rows in (("training", train), ("evaluation", dev)):
        if not rows:
            raise DataError(f"the {name} split of `{task.name}` is empty in {where}")
    raw = task.raw_labels or _labels_of(task, train)
    if task.kind is Kind.CLASSIFICATION and len(raw) < 2:
        raise DataError(f"column `{task.label}` holds one label only: {', '.join(raw)}")
    return TaskData(
        task,
        (task.labels or raw) if task.kind is Kind.CLASSIFICATION else (),
        _to_split(task, raw, train, f"training split of `{task.name}`"),
        _to_split(task, raw, dev, f"evaluation split of `{task.name}`"),
    )


def _labels_of(task: Task, rows: list[Row]) -> tuple[str, ...]:
    """Distinct labels: numbers by value, words by alphabet."""
    found = {row[-1] for row in rows} if task.kind is Kind.CLASSIFICATION else set()
    numeric = all(re.fullmatch("-?[0-9]+", label) for label in found)
    return tuple(sorted(found, key=int if numeric else None))


def _to_split(task: Task, raw: Sequence[str], rows: list[Row], where: str) -> Split:
    texts = tuple(row[:-1] for row in rows)
    if not rows:
        raise DataError(f"the {where} is empty")
    if task.kind is Kind.REGRESSION:
        return Split(texts, np.array([_number(row, i, where) for i, row in enumerate(rows)], "f4"))
    index = {label: number for number, label in enumerate(raw)}
    labels = np.empty(len(rows), dtype=np.int64)
    for number, row in enumerate(rows):
        if row[-1] not in index:
            raise DataError(
                f"data row {number + 1} of the {where} has the unknown label `{row[-1]}`",
                f"labels: {', '.join(raw)}",
            )
        labels[number] = index[row[-1]]
    return Split(texts, labels)


def _number(row: Row, number: int, where: str) -> float:
    try:
        value = float(row[-1])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"data row {number + 1} of the {where} has `{row[-1]}`, not a number")
    return value


def _file_rows(task: Task, data: Path, eval_data: Path | None) -> tuple[list[Row], list[Row]]:
    if not data.exists():
        raise DataError(f"no such file or folder: `{data}`", "give it with `--data PATH`")
    if data.is_dir():
        train = _read(task, _find(data, ("train", "msr_paraphrase_train")))
        return train, _read(task, eval_data or _find(data, task.dev))
    rows = _read(task, data)
    if eval_data is not None:
        return rows, _read(task, eval_data)
    return _hold_out(rows)


def _hold_out(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training rows and the tenth that is held out, in the file's order."""
    order = np.random.default_rng(_SUBSET_SEED).permutation(len(rows))
    held = len(rows) // _HOLD_OUT
    return [rows[i] for i in np.sort(order[held:])], [rows[i] for i in np.sort(order[:held])]


def _read(task: Task, path: Path) -> list[Row]:
    return read_rows(path, (*task.texts, task.label), header=task.header)


def _find(folder: Path, stems: Sequence[str]) -> Path:
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


def _hub_rows(task: Task) -> tuple[list[Row], list[Row]]:
    hub = task.hub
    if hub is None:
        raise DataError(f"task `{task.name}` has no data of its own", "give it with `--data PATH`")
    try:
        import datasets  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise DataError(
            f"reading `{hub.path}` from the Hub needs the package `datasets`",
            "pip install 'maskpack[data]', or give local files with `--data PATH`",
        ) from error
    try:
        loaded = datasets.load_dataset(hub.path, hub.config)
        return _hub_split(task, hub, loaded["train"]), _hub_split(task, hub, loaded[hub.dev])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"cannot load `{hub.path}` ({hub.config}) from the Hub: {str(error).splitlines()[0]}",
            "check the network, or give local files with `--data PATH`",
        ) from error


def _hub_split(task: Task, hub: HubData, rows: Any) -> list[Row]:
    """Rows of a Hub split; integer labels become the raw labels that files hold."""
    raw = task.raw_labels
    label = "label"
    texts = zip(*(rows[column] for column in hub.texts), strict=True)
    labels = [raw[value] if raw else str(value) for value in rows[label]]
    return [(*text, value) for text, value in zip(texts, labels, strict=True)]
