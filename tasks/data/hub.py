"""Rows through the package `datasets`: GLUE by name, and any data set as `hub:NAME[:CONFIG]`.

NAME is a data set on the Hub or a local folder that `datasets` reads. It travels as a path, because
`--data` is one everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.formats.extras import needed_for
from maskpack.formats.waiting import announced
from maskpack.models.families import IMAGES
from maskpack.tasks.data.cells import Row, Wanted, check_columns
from maskpack.tasks.data.tables import named
from maskpack.tasks.task import EVALUATION, HubData, Task, Unlabelled

_LOG = logging.getLogger(__name__)

_PREFIX = "hub:"
_SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`


@dataclass(frozen=True)
class Rows:
    """Rows of a data set.

    Attributes:
        train: of its training split, or of its only one.
        dev: of its evaluation split; None if it has none.
        names: class names in the data set's own order, where it keeps them.
    """

    train: list[Row]
    dev: list[Row] | None
    names: tuple[str, ...] = ()


def is_hub(data: Path) -> bool:
    """Whether a path of data names a data set."""
    return data.as_posix().startswith(_PREFIX)


def glue_rows(task: Task) -> Rows:
    """Rows of a task that is known by name; integer labels become the raw labels that files hold.

    Raises:
        DataError: the task has no data on the Hub, or `datasets` cannot load it.
        MissingPackageError: `datasets` is missing.
    """
    hub = task.hub
    if hub is None:
        raise DataError(f"task `{task.name}` has no data of its own", "give its `data`")

    def read(datasets: Any) -> Rows:
        loaded = datasets.load_dataset(hub.path, hub.config)
        return Rows(
            _glue_split(task, hub, loaded["train"]), _glue_split(task, hub, loaded[hub.dev])
        )

    rows: Rows = _load(read, hub.path, hub.config)
    return rows


def hub_rows(task: Task, data: Path) -> Rows:
    """Rows of a data set that is named as `hub:NAME[:CONFIG]`.

    Raises:
        DataError: `datasets` cannot load it, a column or a cell is missing.
        MissingPackageError: `datasets` is missing.
    """
    loaded, train = _splits(data)
    splits = [str(split) for split in loaded]
    dev = next((split for split in task.dev if split in splits and split != train), None)
    names = class_names(loaded[train].features.get(task.label))
    rows = [
        None if split is None else _own_split(task, data, loaded[split], names)
        for split in (train, dev)
    ]
    return Rows(rows[0] or [], rows[1], names)


def hub_columns(data: Path) -> tuple[str, ...]:
    """Names of the columns of a data set that is named as `hub:NAME[:CONFIG]`.

    Raises:
        DataError: `datasets` cannot load it.
        MissingPackageError: `datasets` is missing.
    """
    loaded, train = _splits(data)
    return tuple(str(name) for name in loaded[train].column_names)


def hub_table(
    data: Path,
    columns: Sequence[str],
    *,
    lists: bool,
    gaps: bool = False,
    structured: bool = False,
    images: bool = False,
) -> list[Row]:
    """These columns of a data set's evaluation split, or of its only one; classes of the last by their names.

    Args:
        data: as `hub:NAME[:CONFIG]`.
        columns: to read.
        lists: whether the last column may hold a list; it comes as JSON.
        gaps: whether the last column may lack a value; it comes as `NO_LABEL`.
        structured: whether cells may hold lists and objects; they come as JSON.
        images: whether cells may hold the bytes of an image; they come as data URLs.

    Raises:
        DataError: `datasets` cannot load it, or a column is missing.
    """
    loaded, train = _splits(data)
    splits = [str(split) for split in loaded]
    dev = next((split for split in EVALUATION if split in splits and split != train), train)
    names = class_names(loaded[dev].features.get(columns[-1]))
    wanted = Wanted(
        data, tuple(columns), lists=lists, gaps=gaps, structured=structured, images=images
    )
    return _rows(wanted, loaded[dev], names)


def _splits(data: Path) -> tuple[Any, str]:
    """A data set's splits by name, and which of them is for training."""
    name, _, config = data.as_posix().removeprefix(_PREFIX).partition(":")
    loaded = _load(lambda datasets: _load_any(datasets, name, config or None), name, config or None)
    splits = [str(split) for split in loaded]
    return loaded, "train" if "train" in splits else splits[0]


def class_names(feature: Any) -> tuple[str, ...]:
    """Names of a `ClassLabel`, or of a list of them; of anything else none."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _load(read: Callable[[Any], Any], name: str, config: str | None) -> Any:
    """The result of `read`, called with the package; exceptions become our errors."""
    with needed_for(f"reading `{name}` from the Hub"):
        import datasets  # noqa: PLC0415 - an optional extra
    own = getattr(getattr(datasets, "exceptions", None), "DatasetsError", OSError)
    try:
        with announced(_LOG, f"getting `{name}` from the Hub or its cache"):
            return read(datasets)
    except (OSError, ValueError, KeyError, RuntimeError, own) as error:
        which = "" if config is None else f" ({config})"
        raise DataError(
            f"cannot load `{name}`{which} from the Hub: {_first_line(error)}",
            "check name and network, or give local files as `data`",
        ) from error


def _load_any(datasets: Any, name: str, config: str | None) -> Any:
    """A mapping of split names to splits."""
    if any((Path(name) / file).is_file() for file in _SAVED):
        loaded = datasets.load_from_disk(name)
    else:
        loaded = datasets.load_dataset(name, config)
    return {"train": loaded} if hasattr(loaded, "features") else loaded


def _own_split(task: Task, data: Path, rows: Any, names: Sequence[str]) -> list[Row]:
    """The task's columns of a split, classes by their names."""
    gaps = task.unlabelled is not Unlabelled.STOP
    wanted = Wanted(
        data,
        (*task.texts, task.label),
        lists=task.type.several,
        gaps=gaps,
        structured=task.type.structured,
        images=task.type.reads == IMAGES,
    )
    return _rows(wanted, rows, names)


def _rows(wanted: Wanted, rows: Any, names: Sequence[str]) -> list[Row]:
    """The wanted columns of a split; numbers of the last one are those of `names`, if there are any."""
    columns = wanted.columns
    check_columns(wanted, list(rows.column_names))
    if wanted.images:
        rows = _undecoded(rows, columns)
    own = []
    for number, cells in enumerate(zip(*(rows[one] for one in columns), strict=True), start=1):
        row = dict(zip(columns, cells, strict=True))
        if names:
            row[columns[-1]] = named(row[columns[-1]], names, gaps=wanted.gaps)
        own.append(wanted.row(row, number))
    return own


def _undecoded(rows: Any, columns: Sequence[str]) -> Any:
    """The rows, of whose images the bytes are given: all of them decoded would not fit into memory."""
    for column in columns:
        feature = rows.features.get(column)
        if type(feature).__name__ == "Image":
            rows = rows.cast_column(column, type(feature)(decode=False))
    return rows


def _glue_split(task: Task, hub: HubData, rows: Any) -> list[Row]:
    raw = task.raw_labels
    texts = zip(*(rows[column] for column in hub.texts), strict=True)
    labels = [raw[value] if raw else str(value) for value in rows["label"]]
    return [(*text, value) for text, value in zip(texts, labels, strict=True)]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
