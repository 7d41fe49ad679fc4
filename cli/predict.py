"""`compress predict`: a line of JSON for each text; texts are lines of a file or rows of a table. Imports no torch."""

from __future__ import annotations

import json as codec
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data.columns import columns_hint, plain_columns, plain_texts, taken
from maskpack.tasks.data.tables import column_names, read_rows
from maskpack.tasks.options import typed_separator
from maskpack.tasks.types import TASK_TYPES

if TYPE_CHECKING:
    from maskpack.runtime import Session
    from maskpack.runtime.session import Text

_CHUNK = 1024  # lines that are answered together
_TABLES = {".csv", ".json", ".jsonl", ".parquet", ".gz"}
_SEPARATORS = ",;\t"


def predict(
    folder: Annotated[
        Path, Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    texts: Annotated[
        Path | None, Option(help="File of texts, one a line. [standard input]")
    ] = None,
    data: Annotated[
        Path | None, Option(help="Instead: CSV, TSV, JSON, JSONL or Parquet file (or .gz) of rows.")
    ] = None,
    text_field: Annotated[
        str | None, Option(help="Column of the text in --data. [a plain name, such as text]")
    ] = None,
    pair_field: Annotated[
        str | None, Option(help="Column of a second text in --data, for pairs.")
    ] = None,
    label_field: Annotated[
        str | None, Option(help="Column of the label in --data; it comes back as `expected`.")
    ] = None,
    label_separator: Annotated[
        str | None, Option(help="What stands between the labels of a cell of --data.")
    ] = None,
    task: Annotated[str | None, Option("--task", "-t", help="Which, of several.")] = None,
    pair: Annotated[
        bool, Option("--pair", help="A tab parts a line into two texts of a pair.")
    ] = False,
    batch_size: Annotated[
        int, Option(help="Texts a run; 1: no text changes another's answer.")
    ] = 32,
    threads: Annotated[int, Option(help="Of one operator; 0: ONNX Runtime's choice.")] = 0,
    provider: opt.Providers = None,
    json: Annotated[
        bool, Option("--json", help="As always here: the output is lines of JSON.")
    ] = True,
) -> None:
    """Answer texts with an exported task in ONNX Runtime, one line of JSON for each text.

    Texts are lines of a file or of standard input, or a column of a table. A row's own label, if the
    table has one, is printed beside the answer as `expected`.

    Example: echo "where is my parcel" | compress predict tickets

    Example: compress predict tickets --data rows.csv --text-field body --label-field queue
    """
    del json
    from maskpack.runtime import Session  # noqa: PLC0415 - imports ONNX Runtime

    session = Session(folder, threads=threads, providers=provider or ())
    separator = typed_separator(label_separator)
    columns = Columns(text_field, pair_field, label_field, separator)
    if data is None:
        if columns != Columns():
            raise ConfigError("columns are of `--data`", f"`compress predict {folder} --data FILE`")
        asked = _of_lines(folder, texts, pair=pair)
    else:
        if texts is not None or pair:
            raise ConfigError("`--data` goes without `--texts` and `--pair`", "choose one of them")
        asked = _of_table(session, data, columns, task=task)
    _answer(session, asked, task=task, batch_size=batch_size)


def _answer(session: Session, asked: Iterator[Asked], *, task: str | None, batch_size: int) -> None:
    while chunk := list(islice(asked, _CHUNK)):
        texts = [text for text, _ in chunk]
        answers = session.predict(texts, task=task, batch_size=batch_size)
        for (_, expected), answer in zip(chunk, answers, strict=True):
            told = {} if expected is None else {"expected": expected}
            render.data(codec.dumps({**answer.to_dict(), **told}, ensure_ascii=False))


def _of_table(
    session: Session, data: Path, columns: Columns, *, task: str | None
) -> Iterator[Asked]:
    rows = rows_of(data, columns, session.config(task).kind)
    if not rows:
        raise DataError(f"`{data}` has no rows", "a file with a line of names and a line a row")
    return iter(rows)


def _of_lines(folder: Path, path: Path | None, *, pair: bool) -> Iterator[Asked]:
    """The lines of a file or of standard input; a table is refused."""
    if path is None and sys.stdin.isatty():
        end = "Ctrl-Z and Enter end" if sys.platform == "win32" else "Ctrl-D ends"
        render.words(f"note: texts are read from the terminal, one a line; {end} them")
    where = "standard input" if path is None else f"`{path}`"
    if path is not None and path.suffix.lower() in _TABLES:
        raise _no_lines(where, folder, path)
    with _lines(path) as lines:
        first = next(lines, None)
        if first is None:
            hint = f"a text a line, in `--texts FILE` or `echo TEXT | compress predict {folder}`"
            raise DataError(f"there is no text in {where}", hint)
        if _is_header(first):
            raise _no_lines(where, folder, path)
        for line in chain([first], lines):
            yield _pair(line) if pair else line, None


def _no_lines(where: str, folder: Path, path: Path | None) -> DataError:
    """The error for a table where lines of text were expected."""
    source = "FILE" if path is None else path
    return DataError(
        f"{where} is a table, not a text a line",
        f"`compress predict {folder} --data {source} --text-field COLUMN`",
    )


def _is_header(line: str) -> bool:
    """Whether a line names the columns of a table: it has plain names and nothing else."""
    names = ([name.strip('"') for name in line.split(one)] for one in _SEPARATORS)
    return any(plain_columns(each) is not None for each in names)


@contextmanager
def _lines(path: Path | None) -> Iterator[Iterator[str]]:
    """Lines of a file or of standard input, without their ends."""
    try:
        with nullcontext(sys.stdin) if path is None else path.open(encoding="utf-8-sig") as file:
            yield (line.rstrip("\r\n") for line in file)
    except OSError as error:
        raise DataError(
            f"cannot read `{path}`: {error.strerror}", "give a file of texts, one a line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"`{path or 'standard input'}` is not UTF-8: {error}",
            "give plain text, one a line; for a table `--data`",
        ) from error


def _pair(line: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise DataError(f"no tab in the line `{line[:60]}`, expected a pair of texts")
    return first, second


Asked = tuple["Text", str | float | list[str] | None]
"""A text or a pair, and its own label or labels, or number; None if the table has none."""


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
            raise ConfigError("`--pair-field` and `--label-field` need `--text-field`")

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of one text, or of two."""
        return tuple(name for name in (self.text, self.pair) if name is not None)


def rows_of(data: Path, columns: Columns, kind: str) -> list[Asked]:
    """The rows of a file.

    Args:
        data: CSV, TSV, JSON or Parquet.
        columns: columns to read.
        kind: type of the task, which determines the form of a label.

    Raises:
        ConfigError: no column of text is given.
        DataError: the file cannot be read, or a label is no number in a regression.
    """
    columns = columns if columns.text is not None else _plain(data)
    wanted = (*columns.texts, *([] if columns.label is None else [columns.label]))
    task_type = TASK_TYPES[kind]
    rows = read_rows(data, wanted, lists=task_type.several and columns.label is not None)
    size = len(columns.texts)
    return [
        (
            row[0] if size == 1 else (row[0], row[1]),
            task_type.expected(row[size], columns.separator) if row[size:] else None,
        )
        for row in rows
    ]


def _plain(data: Path) -> Columns:
    """Columns with plain names; a table may have texts alone."""
    names = column_names(data)
    plain = plain_columns(names)
    texts: Sequence[str] | None = plain[:-1] if plain else plain_texts(names)
    if texts is None:
        raise ConfigError(f"which column of `{data}` is the text?", columns_hint(names, data))
    first, second = (*texts, None)[:2]
    columns = Columns(first, second, plain[-1] if plain else None)
    render.words(f"note: {taken(data, texts, columns.label)}")
    return columns
