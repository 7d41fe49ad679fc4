"""What `compress predict` is asked: lines of text, rows of a table, or images."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.answers import Asked, NoRow, Rows
from maskpack.cli.lines import MOST, chunks
from maskpack.formats import ConfigError, DataError
from maskpack.models.families import IMAGES, TEXT
from maskpack.tasks.data.cells import NO_LABEL, Row
from maskpack.tasks.data.columns import (
    columns_hint,
    columns_of,
    found_columns,
    plain_columns,
    plain_texts,
    taken,
)
from maskpack.tasks.data.hub import hub_table, is_hub
from maskpack.tasks.data.images import (
    files_below,
    image_rows,
    image_splits,
    is_image_folder,
    path_of,
)
from maskpack.tasks.data.splits import find_file
from maskpack.tasks.data.tables import TAGGED, is_separator_line, read_rows
from maskpack.tasks.task import EVALUATION, TASKS
from maskpack.tasks.types import TASK_TYPES

if TYPE_CHECKING:
    from maskpack.runtime.task import TaskConfig

_TABLES = {".csv", ".json", ".jsonl", ".parquet", ".gz", *TAGGED}
_SEPARATORS = ",;\t"


def _check_texts(config: TaskConfig, given: int, what: str, option: str) -> None:
    """Refuse rows of too few or too many texts before any is answered."""
    if config.texts is None or config.texts == given:
        return
    words = {1: "one text a row", 2: "a pair of texts a row"}
    advice = f"give it with `{option}`" if config.texts == 2 else f"leave `{option}` out"
    raise ConfigError(
        f"`{config.name}` reads {words[config.texts]}, the {what} are {words[given]}", advice
    )


def of_table(
    config: TaskConfig, data: Path, columns: Columns, *, labels: bool, second: bool
) -> Rows:
    """The rows of a table; with `labels` their labels too, and with `second` texts that are to be found."""
    rows = rows_of(data, columns, config, second=second)
    if not labels:
        rows = [(text, None) for text, _ in rows]
    if not rows:
        raise DataError(f"`{data}` has no rows", "a file with a line of names and a line a row")
    given = 2 if isinstance(rows[0][0], tuple) else 1
    _check_texts(config, given, f"rows of `{data}`", "--pair-field")
    chunks = (rows[first : first + MOST] for first in range(0, len(rows), MOST))
    labelled, named = any(label is not None for _, label in rows), config.decoder.reads == IMAGES
    return Rows(chunks, given == 2, labelled, named)


def of_images(config: TaskConfig, images: Sequence[Path]) -> Rows:
    """The images that are named, and those in folders."""
    if config.decoder.reads != IMAGES:
        raise ConfigError(f"`{config.name}` reads texts, not images", "leave `--images` out")
    found = [file for path in images for file in files_below(path)]
    chunks = (found[first : first + MOST] for first in range(0, len(found), MOST))
    asked = ([(file.as_posix(), None) for file in some] for some in chunks)
    return Rows(asked, pairs=False, named=True)


def of_lines(folder: Path, path: Path | None, config: TaskConfig, *, pair: bool) -> Rows:
    """The lines of a file or of standard input; a table is refused."""
    if config.decoder.reads != TEXT:
        hint = f"`compress predict {folder} --images FILE_OR_FOLDER`"
        raise ConfigError(f"`{config.name}` reads images, not texts", hint)
    if path is None and sys.stdin is not None and sys.stdin.isatty():
        end = "Ctrl-Z and Enter end" if sys.platform == "win32" else "Ctrl-D ends"
        render.words(f"note: texts are read from the terminal, one a line; {end} them")
    where = "standard input" if path is None else f"`{path}`"
    if path is not None and path.suffix.lower() in _TABLES:
        raise _no_lines(where, folder, path)
    found = chunks(path, where)
    first = next(found, None)
    if first is None:
        hint = f"a text a line, in `--texts FILE` or `echo TEXT | compress predict {folder}`"
        raise DataError(f"there is no text in {where}", hint)
    if _is_header(first[0]):
        raise _no_lines(where, folder, path)
    _check_texts(config, 2 if pair else 1, "lines", "--pair")
    every = chain([first], found)
    return Rows(([(_pair(line) if pair else line, None) for line in some] for some in every), pair)


def _no_lines(where: str, folder: Path, path: Path | None) -> DataError:
    """The error for a table where lines of text were expected."""
    source = "FILE" if path is None else path
    return DataError(
        f"{where} is a table, not a text a line",
        f"`compress predict {folder} --data {source} --text-field COLUMN`",
    )


def _is_header(line: str) -> bool:
    """Whether a line names the columns of a table: it has plain names and nothing else."""
    if is_separator_line(line):
        return True
    names = ([name.strip('"') for name in line.split(one)] for one in _SEPARATORS)
    return any(plain_columns(each) is not None for each in names)


def _pair(line: str) -> tuple[str, str] | NoRow:
    first, tab, second = line.partition("\t")
    if not tab:
        error = DataError(f"no tab in the line `{line[:60]}`, expected a pair of texts")
        return NoRow(line, error)
    return first, second


@dataclass(frozen=True)
class Columns:
    """Columns of a table to read; all None: those with plain names.

    Attributes:
        text: of the text.
        pair: of a second text.
        label: of the label, if a row has one.
        separator: text between the labels of a cell.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and (self.pair, self.label) != (None, None):
            raise ConfigError(
                f"{opt.given(pair_field=self.pair, label_field=self.label)} needs `--text-field`"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of one text, or of two."""
        return tuple(name for name in (self.text, self.pair) if name is not None)


def rows_of(
    data: Path, columns: Columns, config: TaskConfig, *, second: bool = False
) -> list[Asked]:
    """The rows of a file.

    Args:
        data: a file, a folder with an evaluation file, or `hub:NAME[:CONFIG]`, whose evaluation split is taken.
        columns: columns to read.
        config: of the task, which determines the form of a label and knows the columns it was learned from.
        second: whether texts are those to be found, of a task that gives vectors.

    Raises:
        ConfigError: no column of text is given.
        DataError: the file cannot be read, or a label is no number in a regression.
    """
    if config.decoder.reads == IMAGES and is_image_folder(data):
        return _of_classes(data)
    if not is_hub(data) and data.is_dir():
        data = find_file(data, EVALUATION)
    if columns.text is None:
        columns = _found(data, columns, config, second=second)
    separator = config.separator if columns.separator is None else columns.separator
    size, names = len(columns.texts), _stored_names(config)
    return [
        (
            row[0] if size == 1 else (row[0], row[1]),
            _expected(row[size:], config, separator, names, f"row {number} of `{data}`"),
        )
        for number, row in enumerate(_cells(data, columns, config), start=1)
    ]


def _expected(
    cells: Row, config: TaskConfig, separator: str | None, names: Mapping[str, str], where: str
) -> Any:
    """What a row says of itself, in the form of an answer; None if it says nothing.

    Args:
        cells: that of the label, if there is a column of it.
        config: of the task.
        separator: between several labels.
        names: what files call a label -> the label.
        where: the row in words, for an error.
    """
    task_type = TASK_TYPES[config.kind]
    if not cells or task_type.lacks_label(cells[0]):
        return None
    try:
        found = task_type.expected(cells[0], separator)
    except DataError as error:
        raise DataError(f"{where}: {error}", error.hint) from error
    return names.get(found, found) if isinstance(found, str) else found


def _stored_names(config: TaskConfig) -> dict[str, str]:
    """What the files of a known task call its labels, such as `1`, and the labels; empty for other tasks."""
    known = TASKS.get(config.name)
    if known is None or list(known.labels) != list(config.labels):
        return {}
    return dict(zip(known.raw_labels, known.labels, strict=False))


def _cells(data: Path, columns: Columns, config: TaskConfig) -> Sequence[Row]:
    """The cells of some columns of a table, in the form that the type of the task reads."""
    images = config.decoder.reads == IMAGES
    wanted = (*columns.texts, *([] if columns.label is None else [columns.label]))
    task_type = TASK_TYPES[config.kind]
    lists = task_type.several and columns.label is not None
    read, structured = hub_table if is_hub(data) else read_rows, task_type.structured
    gaps = columns.label is not None
    rows = read(data, wanted, lists=lists, gaps=gaps, structured=structured, images=images)
    if images and not is_hub(data):
        rows = [(path_of(row[0], data.parent), *row[1:]) for row in rows]
    if structured:
        cells = ((*row, NO_LABEL)[: len(columns.texts) + 1] for row in rows)
        whole = (
            task_type.row(row, f"data row {number} of `{data}`")
            for number, row in enumerate(cells, start=1)
        )
        rows = [row[: len(wanted)] for row in whole]
    return rows


def _of_classes(data: Path) -> list[Asked]:
    """The images of a folder of classes, for evaluation if it has such, and the class of each."""
    train, dev = image_splits(data, EVALUATION)
    home = dev or train
    return [(path_of(path, home), label) for path, label in image_rows(home)]


def _of_group(data: Path, said: Columns, config: TaskConfig, *, second: bool) -> Columns | None:
    """The column of texts that find or, with `second`, of those to be found, in a table as a task of vectors was learned from.

    Returns:
        None where the table has no such column, or the task gives no vectors.
    """
    if not TASK_TYPES[config.kind].grouped:
        return None
    names, finds = columns_of(data), TASK_TYPES[config.kind].finds_texts
    for known in (config.columns, found_columns(names) if finds else plain_columns(names)):
        if not known or len(known) < (2 if finds else 3):
            continue
        text = known[0] if not second else known[-1 if finds else 1]
        if text in names:
            render.words(f"note: {taken(data, (text,), None)}")
            return replace(said, text=text)
    return None


def _found(data: Path, said: Columns, config: TaskConfig, *, second: bool) -> Columns:
    """The columns that a task was learned from, or else columns with plain names; a table may have texts alone.

    Args:
        data: the table.
        said: columns that the user named, without one of a text.
        config: of the task, which may know columns of texts and label.
        second: as of `rows_of`.
    """
    if (group := _of_group(data, said, config, second=second)) is not None:
        return group
    names, known = columns_of(data), config.columns
    own: Sequence[str] | None = plain_columns(names)
    texts: Sequence[str] | None = own[:-1] if own else plain_texts(names)
    if known and set(known[:-1]) <= set(names):
        texts, own = known[:-1], known if known[-1] in names else None
    if texts is None:
        raise ConfigError(
            f"which column of `{data.as_posix()}` is the text?", columns_hint(names, data)
        )
    first, other = (*texts, None)[:2]
    columns = Columns(first, other, own[-1] if own else None, said.separator)
    render.words(f"note: {taken(data, texts, columns.label)}")
    return columns
