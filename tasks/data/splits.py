"""A task's rows in two splits: from files, from the samples in the package, or from the Hub.

Where the data has no evaluation split of its own, a tenth of every label is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.models.families import IMAGES
from maskpack.tasks.data.cache import Cache
from maskpack.tasks.data.cells import Wanted
from maskpack.tasks.data.checks import MOST_CELLS, CheckedRows, checked_rows
from maskpack.tasks.data.held_out import HeldOut, groups_of, held_out_places, whole_groups
from maskpack.tasks.data.hub import Rows, glue_rows, hub_rows, is_hub
from maskpack.tasks.data.images import (
    check_files,
    digests,
    image_rows,
    image_splits,
    is_image_folder,
    path_of,
)
from maskpack.tasks.data.stored_rows import changed, pages_of, stored_rows, taken
from maskpack.tasks.data.tables import NOWHERE, READERS, stream_rows
from maskpack.tasks.task import Task, Unlabelled
from maskpack.tasks.types.base import too_many
from maskpack.tasks.windows import USUAL, WindowRule

TRAIN = ("train", "msr_paraphrase_train")
"""Names of training files; the second is MRPC's."""
_SUBSET_SEED = 0  # subsets do not depend on the run's seed: runs differ, data does not


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split.

    Attributes:
        texts: one or two texts a row.
        labels: class indices (int64) or values (float32), one a row; where a row may have several
            labels, 0 and 1 (int8) `(rows, c)`; of entities or answers one tuple of spans a row.
        unlabelled: texts of further rows, which have no label.
        prefix: letters before each first text that are not its own.
        second: what stands before a label that is a text.
        second_prefix: the same before each second text.
        windows: how long rows are cut, of a type that cuts them into windows.
        root: folder that paths of images are relative to; None: texts are no paths.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[Any]
    unlabelled: Sequence[tuple[str, ...]] = ()
    prefix: int = 0
    second: str = ""
    second_prefix: int = 0
    windows: WindowRule = USUAL
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def keys(self) -> Sequence[tuple[str, ...]]:
        """What tells rows apart, one a row: their texts; of images the digests of their bytes."""
        if self.root is None:
            return self.texts
        return tuple((digest,) for digest in digests(self.texts, self.root))

    def for_device(self) -> list[str | tuple[str, str]]:
        """The rows as a device takes them: a text, a pair of texts, or the path of an image."""
        if self.root is not None:
            return [path_of(row[0], self.root) for row in self.texts]
        return [row[0] if len(row) == 1 else (row[0], row[1]) for row in self.texts]

    def take(self, indices: NDArray[np.intp]) -> Split:
        """The rows at `indices`, in that order, and all that have no label."""
        return replace(self, texts=taken(self.texts, indices), labels=self.labels[indices])

    def prefixed(self, prefixes: Sequence[str]) -> Split:
        """The rows with a prefix before the first text and another before the second; none of them: as they are."""
        if not any(prefixes):
            return self

        def prefixed(row: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(map("".join, zip(prefixes, row, strict=False)))

        texts, sizes = changed(self.texts, prefixed), [*map(len, prefixes), 0]
        own = replace(self, texts=texts, prefix=sizes[0], second_prefix=sizes[1])
        return replace(own, second=prefixes[1] if prefixes[1:] else "")

    def pages(self) -> Iterator[Split]:
        """The rows some at a time, in memory."""
        start = 0
        for texts in pages_of(self.texts):
            labels = self.labels[start : start + len(texts)]
            yield replace(self, texts=texts, labels=labels, unlabelled=())
            start += len(texts)

    def sha256(self) -> str:
        """Digest of texts, or bytes of images, and labels."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for page in replace(self, texts=self.keys, root=None).pages():
            for row in zip(page.texts, page.labels.tolist(), strict=True):
                digest.update(repr(row).encode())
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

    @property
    def rows_without_label(self) -> dict[str, int]:
        """How many there are, and how many of them a teacher answers; empty where a missing label is an error."""
        if self.task.unlabelled is Unlabelled.STOP:
            return {}
        train, taught = len(self.train.unlabelled), self.task.unlabelled is Unlabelled.TEACH
        return {"train": train, "eval": len(self.dev.unlabelled), "learned": train * taught}

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


def load_data(
    task: Task,
    *,
    data: Path | None = None,
    eval_data: Path | None = None,
    cache: Cache | None = None,
) -> TaskData:
    """Read both splits of `task`.

    Without an evaluation split a tenth of the rows of each label is held out.

    Args:
        task: what to read.
        data: folder with train and dev files or with folders of images, one file, or `hub:NAME[:CONFIG]`; None for
            samples and the Hub.
        eval_data: file, or folder of images, of the evaluation split, if it is not beside the training file.
        cache: keeps the rows of large files; None: all rows are in memory.

    Raises:
        DataError: missing file or column, unknown label, wrong encoding, empty split.
    """
    data = data or task.folder
    if data is None:
        rows = _checked(task, glue_rows(task), "the Hub")
    elif is_hub(data):
        rows = _checked(task, hub_rows(task, data), f"`{data.as_posix()}`")
    else:
        rows = _file_rows(task, data, eval_data, cache)
    if eval_data is not None and (data is None or is_hub(data)):
        rows = replace(rows, dev=_read(task, eval_data, cache))
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
        where = str(data or "the Hub")
        if both.dev is None:
            rows = checked_rows(task, both.train, where)
            return _dev_split(task, labels, _held_out(task, rows))
        return _dev_split(task, labels, checked_rows(task, both.dev, where))
    if data.is_dir():
        dev = _dev_in(task, data)
        if dev is not None:
            return _dev_split(task, labels, _read(task, dev))
        data = _train_in(task, data)
    rows = _read(task, data)
    split = _dev_split(task, labels, rows)
    if sha256 is None or split.sha256() == sha256 or not len(held := _held_out(task, rows)):
        return split
    held_out = _dev_split(task, labels, held)
    return held_out if held_out.sha256() == sha256 else split


def _held_out(task: Task, rows: CheckedRows) -> CheckedRows:
    """The rows that are held out of one file, with all that have no label."""
    return rows.take(_held_places(task, rows), gaps=True)


def _held_places(task: Task, rows: CheckedRows) -> NDArray[np.intp]:
    """Indices of the tenth that is held out, in the file's order."""
    together = task.type.groups(rows.texts, rows.cells)
    if together is not None:
        return whole_groups(together)
    of, separator = task.type.cell_labels, task.separator
    labels = changed(rows.cells, lru_cache(MOST_CELLS)(lambda cell: of(cell, separator)))
    return held_out_places(groups_of(labels))


def _dev_split(task: Task, labels: Sequence[str], rows: CheckedRows) -> Split:
    raw = task.raw_labels or tuple(labels)
    return _to_split(task, raw, rows, f"evaluation split of `{task.name}`")


def _assemble(task: Task, rows: _Both, where: str) -> TaskData:
    train, dev, held_out = rows.train, rows.dev, None
    if not len(train):
        raise DataError(f"the training split of `{task.name}` is empty in {where}")
    cells = train.cells
    known = task.raw_labels or (() if task.type.structured else rows.names)
    raw = known or task.type.label_names(task.label, cells, task.separator)
    if task.type.may_lack(cells):
        task = replace(task, windows=replace(task.windows, no_answer=True))
    if dev is None:
        places = _held_places(task, train)
        dev = train.take(places, gaps=False)
        train = train.take(np.delete(np.arange(len(train)), places), gaps=True)
        together = task.type.groups((), ()) is not None
        held_out = HeldOut(len(dev), len(cells), by_label=task.type.labelled, together=together)
    if not known and too_many(raw, len(cells)) and (task.guessed or not len(dev)):
        raise DataError(
            f"column `{task.label}` holds {len(raw)} labels in {len(cells)} rows, "
            f"such as `{raw[0][:40]}`",
            "choose another `label_field`; a number is of the kind `regression`",
        )
    if not len(dev):
        hint = "too few rows to hold some out: give `eval_data`" if held_out is not None else None
        raise DataError(f"the evaluation split of `{task.name}` is empty in {where}", hint)
    rows_to_learn = _to_split(task, raw, train, f"training split of `{task.name}`")
    scaled = task.type.target_scale(rows_to_learn.labels) is not None
    return TaskData(
        task.with_errors() if scaled else task,
        (task.labels or raw) if task.type.labelled else (),
        rows_to_learn,
        _to_split(task, raw, dev, f"evaluation split of `{task.name}`"),
        held_out,
    )


def _to_split(task: Task, raw: Sequence[str], rows: CheckedRows, where: str) -> Split:
    if not len(rows):
        raise DataError(f"the {where} is empty")
    labels = task.type.encode(rows.cells, raw, task.separator, where)
    return Split(rows.texts, labels, rows.gaps, windows=task.windows, root=rows.root)


@dataclass(frozen=True, eq=False)
class _Both:
    """Training rows, evaluation rows if there are any, and class names where the data keeps them."""

    train: CheckedRows
    dev: CheckedRows | None
    names: tuple[str, ...] = ()


def _file_rows(task: Task, data: Path, eval_data: Path | None, cache: Cache | None) -> _Both:
    if not data.exists():
        raise DataError(f"no such file or folder: `{data}`", NOWHERE)
    if data.is_dir():
        eval_data = eval_data or _dev_in(task, data)
        data = _train_in(task, data)
    train = _read(task, data, cache, learned=True)
    return _Both(train, None if eval_data is None else _read(task, eval_data, cache))


def _checked(task: Task, rows: Rows, where: str) -> _Both:
    train = checked_rows(task, rows.train, where, learned=True)
    dev = None if rows.dev is None else checked_rows(task, rows.dev, where)
    return _Both(train, dev, rows.names)


def _read(
    task: Task, path: Path, cache: Cache | None = None, *, learned: bool = False
) -> CheckedRows:
    """Rows of a file, or of a folder of images."""
    images, where = task.type.reads == IMAGES, f"`{path}`"
    if images and path.is_dir():
        return checked_rows(task, image_rows(path), where, learned=learned, root=path)
    wanted = Wanted(
        path,
        (*task.texts, task.label),
        header=task.header,
        lists=task.type.several,
        crowded=task.hub is not None,  # GLUE's own files
        gaps=task.unlabelled is not Unlabelled.STOP,
        structured=task.type.structured,
        images=images,
        lines=task.type.own_label,
    )
    kept = cache is not None and cache.takes(path)
    rows = stored_rows(cache, wanted) if cache and kept else list(stream_rows(wanted))
    if not images:
        return checked_rows(task, rows, where, learned=learned)
    check_files(rows, path.parent, where)
    return checked_rows(task, rows, where, learned=learned, root=path.parent)


def _train_in(task: Task, folder: Path) -> Path:
    """Where the training rows lie in a folder."""
    if _has_images(task, folder):
        return image_splits(folder, task.dev)[0]
    return find_file(folder, TRAIN)


def _dev_in(task: Task, folder: Path) -> Path | None:
    """Where the evaluation rows lie in a folder; None: among the training rows."""
    if _has_images(task, folder):
        return image_splits(folder, task.dev)[1]
    return find_file(folder, task.dev)


def _has_images(task: Task, folder: Path) -> bool:
    """Whether a folder holds images and no table of them."""
    return task.type.reads == IMAGES and (is_image_folder(folder) or not _files_in(folder, TRAIN))


def find_file(folder: Path, stems: Sequence[str]) -> Path:
    """The first file in a folder with one of these names and an ending that is read.

    Raises:
        DataError: there is none.
    """
    if found := _files_in(folder, stems):
        return found[0]
    raise DataError(
        f"`{folder}` has no file `{stems[0]}` with one of the endings {', '.join(READERS)}",
        f"looked for: {', '.join(stems)}",
    )


def _files_in(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Tables in a folder with one of these names, in their order."""
    names = (f"{stem}{one}{zipped}" for stem in stems for one in READERS for zipped in ("", ".gz"))
    return [folder / name for name in names if (folder / name).is_file()]
