"""`compress predict`: a line of JSON for each text; texts are lines of a file or rows of a table. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.answers import (
    Ask,
    Asked,
    NoRow,
    Rows,
    answer_lines,
    check_columns,
    tasks_of_texts,
    write_vectors,
)
from maskpack.cli.lines import MOST, chunks
from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.data.columns import (
    columns_hint,
    columns_of,
    found_columns,
    plain_columns,
    plain_texts,
    taken,
)
from maskpack.tasks.data.hub import hub_table, is_hub
from maskpack.tasks.data.splits import find_file
from maskpack.tasks.data.tables import TAGGED, is_separator_line, read_rows
from maskpack.tasks.options import typed_separator
from maskpack.tasks.task import EVALUATION
from maskpack.tasks.types import TASK_TYPES

if TYPE_CHECKING:
    from maskpack.runtime.task import TaskConfig

_TABLES = {".csv", ".json", ".jsonl", ".parquet", ".gz", *TAGGED}
_SEPARATORS = ",;\t"


def predict(
    folder: Annotated[
        Path, Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    texts: Annotated[
        Path | None, Option(help="File of texts, one a line. [standard input]")
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="Instead: CSV, TSV, JSON, JSONL or Parquet file (or .gz) of rows, a folder with a dev file, "
            "or hub:NAME[:CONFIG]."
        ),
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
    every: Annotated[
        bool,
        Option("--all", help="Every task that reads so many texts a row; on a trunk, in one pass."),
    ] = False,
    csv: Annotated[
        bool, Option("--csv", help="Lines of CSV: the texts, and a column a task with its answer.")
    ] = False,
    npy: Annotated[
        Path | None,
        Option(
            help="Write vectors `(texts, width)` of a task that gives them into this file of numpy, and no lines."
        ),
    ] = None,
    second: Annotated[
        bool,
        Option("--second", help="With --npy: texts to be found, behind the task's second prefix."),
    ] = False,
    pair: Annotated[
        bool, Option("--pair", help="A tab parts a line into two texts of a pair.")
    ] = False,
    windows: Annotated[
        bool,
        Option(
            "--windows",
            help="Cut a text of more tokens than the task reads into windows and join their answers; else it is cut off.",
        ),
    ] = False,
    stride: Annotated[
        int | None,
        Option(
            help="With --windows: tokens that neighbouring windows share. [a quarter of a window]"
        ),
    ] = None,
    batch_size: Annotated[
        int, Option(help="Texts a run; 1: no text changes another's answer.")
    ] = 32,
    threads: Annotated[
        int,
        Option(
            help="Of one operator; 0: OMP_NUM_THREADS, else one for each core that no other program keeps busy."
        ),
    ] = 0,
    provider: opt.Providers = None,
    json: Annotated[
        bool, Option("--json", help="As always here: the output is lines of JSON.")
    ] = True,
) -> None:
    """Answer texts with an exported task in ONNX Runtime, one line of JSON for each text.

    A text that cannot be answered gets a line with `error`, the others are answered; then the exit code is 1.

    Texts are lines of a file or of standard input, or a column of a table. A row's own label, if the
    table has one, is printed beside the answer as `expected`. On standard input, such as a pipe from
    `tail -f`, texts are answered when no further line comes for a fifth of a second.

    With `--all` a line holds an object of tasks, `tasks`, with the answer of each. In a folder of `--layout trunk` the
    lower layers then run once for all of them.

    Example: echo "where is my parcel" | compress predict tickets

    Example: compress predict tickets --data rows.csv --text-field body --label-field queue

    With `--windows` an answer also says into how many windows its text was cut.

    Example: compress predict trunk --all --texts texts.txt

    Example: compress predict tickets --windows --texts letters.txt

    Example: compress predict help --texts pages.txt --npy pages.npy --second
    """
    del json
    from maskpack.runtime import Session  # noqa: PLC0415 - imports ONNX Runtime

    session = Session(folder, threads=threads, providers=provider or ())
    separator = typed_separator(label_separator)
    columns = Columns(text_field, pair_field, label_field, separator)
    if every and (task is not None or label_field is not None):
        other = opt.given(task=task, label_field=label_field)
        raise ConfigError(f"`--all` goes without {other}", "choose one of them")
    pairs = pair or pair_field is not None
    if every:
        names, config = tasks_of_texts(session, pairs=pairs)
    else:
        config = session.config(task)
        names = (config.name,)
    if csv:
        check_columns(names)
    if data is None:
        if columns != Columns():
            raise ConfigError("columns are of `--data`", f"`compress predict {folder} --data FILE`")
        rows = _of_lines(folder, texts, config, pair=pair)
    else:
        if texts is not None or pair:
            other = opt.given(texts=texts, pair=pair)
            raise ConfigError(f"`--data` goes without {other}", "choose one of them")
        rows = _of_table(config, data, columns, labels=not every, second=second)
    if npy is not None or second:
        if csv or every or windows or stride is not None:
            other = opt.given(csv=csv, all=every, windows=windows, stride=stride is not None)
            raise ConfigError(f"`--npy` goes without {other}", "choose one of them")
        write_vectors(rows, session, names, npy, second=second, batch_size=batch_size)
        return
    ask = Ask(session, names, batch_size, together=every, windows=windows, stride=stride)
    answer_lines(rows, ask, csv=csv)


def _check_texts(config: TaskConfig, given: int, what: str, option: str) -> None:
    """Refuse rows of too few or too many texts before any is answered."""
    if config.texts is None or config.texts == given:
        return
    words = {1: "one text a row", 2: "a pair of texts a row"}
    advice = f"give it with `{option}`" if config.texts == 2 else f"leave `{option}` out"
    raise ConfigError(
        f"`{config.name}` reads {words[config.texts]}, the {what} are {words[given]}", advice
    )


def _of_table(
    config: TaskConfig, data: Path, columns: Columns, *, labels: bool, second: bool
) -> Rows:
    rows = rows_of(data, columns, config, second=second)
    if not labels:
        rows = [(text, None) for text, _ in rows]
    if not rows:
        raise DataError(f"`{data}` has no rows", "a file with a line of names and a line a row")
    given = 2 if isinstance(rows[0][0], tuple) else 1
    _check_texts(config, given, f"rows of `{data}`", "--pair-field")
    chunks = (rows[first : first + MOST] for first in range(0, len(rows), MOST))
    return Rows(chunks, given == 2, any(label is not None for _, label in rows))


def _of_lines(folder: Path, path: Path | None, config: TaskConfig, *, pair: bool) -> Rows:
    """The lines of a file or of standard input; a table is refused."""
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
    if not is_hub(data) and data.is_dir():
        data = find_file(data, EVALUATION)
    if columns.text is None:
        columns = _found(data, columns, config, second=second)
    separator = config.separator if columns.separator is None else columns.separator
    wanted = (*columns.texts, *([] if columns.label is None else [columns.label]))
    task_type = TASK_TYPES[config.kind]
    lists = task_type.several and columns.label is not None
    read, structured = hub_table if is_hub(data) else read_rows, task_type.structured
    rows = read(data, wanted, lists=lists, structured=structured)
    size = len(columns.texts)
    if structured:
        cells = ((*row, NO_LABEL)[: size + 1] for row in rows)
        whole = (
            task_type.row(row, f"data row {number} of `{data}`")
            for number, row in enumerate(cells, start=1)
        )
        rows = [row[: len(wanted)] for row in whole]
    return [
        (
            row[0] if size == 1 else (row[0], row[1]),
            task_type.expected(row[size], separator) if row[size:] else None,
        )
        for row in rows
    ]


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
