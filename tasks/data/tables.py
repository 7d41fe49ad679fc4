"""Rows from files: TSV, CSV, JSON and Parquet, plain or gzip. Errors name the file and the row.

TSV is read without quoting, as GLUE writes it (its fields hold bare quotation marks); CSV follows the usual
quoting rules, with commas, semicolons or tabs, or the separator that a spreadsheet names in a first line `sep=;`; JSON
is one object a line or one array of objects. Lines end as they do on Linux, on Windows, or with carriage returns
alone. Parquet goes through pyarrow, an optional extra, imported when there is such a file to read. Words with tags in lines are
read by `tagged.py`, files as SQuAD's by `questions.py`.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.formats.extras import needed_for
from maskpack.tasks.data.cells import Row, Wanted, check_columns
from maskpack.tasks.data.questions import SQUAD_COLUMNS, is_squad, squad_rows
from maskpack.tasks.data.tagged import conll_columns, read_conll
from maskpack.tasks.data.text_lines import ended_lines, lines_in, read_bytes, read_text


def read_parquet(wanted: Wanted) -> Iterator[Row]:
    """The wanted columns; numbers that `datasets` wrote for classes become their names again.

    Raises:
        DataError: the file is no Parquet, a column is missing, a cell is empty.
        MissingPackageError: pyarrow is missing.
    """
    number = 0
    with _opened(wanted.path) as file:
        check_columns(wanted, file.schema_arrow.names)
        names = _class_names(file.schema_arrow.metadata or {}, wanted.columns[-1])
        names_once = list(dict.fromkeys(wanted.columns))
        for page in file.iter_batches(batch_size=_PAGE, columns=names_once):
            for row in _page_rows(wanted, page, number):
                number += 1
                if names:
                    row[wanted.columns[-1]] = named(
                        row[wanted.columns[-1]], names, gaps=wanted.gaps
                    )
                yield wanted.row(row, number)


def _page_rows(wanted: Wanted, page: Any, before: int) -> Iterator[dict[str, Any]]:
    """Rows of a page of Parquet, of a file that has so many rows before it."""
    columns = {name: list(_values(wanted, name, page[name], before)) for name in wanted.columns}
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _values(wanted: Wanted, name: str, column: Any, before: int) -> Iterator[Any]:
    """Values of a column of Parquet; one that Python cannot hold, such as bytes that are no UTF-8, is named by its row."""
    for number, cell in enumerate(column, start=before + 1):
        try:
            yield cell.as_py()
        except (ValueError, OverflowError, ImportError) as error:
            raise DataError(
                f"row {number} of `{wanted.path}` has a cell in `{name}` that cannot be read: {error}"
            ) from error


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a file.

    Raises:
        DataError: the file is no Parquet.
        MissingPackageError: pyarrow is missing.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file; exceptions of pyarrow become our errors."""
    with needed_for(f"reading `{path}`"):
        import pyarrow as pa  # noqa: PLC0415 - an optional extra
        from pyarrow import parquet  # noqa: PLC0415
    try:
        zipped = path.suffix == ".gz"
        source = pa.BufferReader(read_bytes(path)) if zipped else pa.memory_map(str(path))
        yield parquet.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"cannot read `{path}` as Parquet: {first}") from error


def named(value: Any, names: Sequence[str], *, gaps: bool = False) -> Any:
    """Class numbers, alone or in a list, as class names; None stays, and -1 unless `gaps` makes None of it."""
    if isinstance(value, list):
        return [named(each, names) for each in value]
    if gaps and value == -1:  # how `datasets` writes a class that is not known
        return None
    known = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if known else value


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...]:
    """Names that `datasets` keeps beside a column of class numbers."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        feature = features[column]
        feature = feature.get("feature", feature)  # of a list of them
        names = feature["names"] if feature["_type"] == "ClassLabel" else ()
    except (KeyError, ValueError, TypeError, AttributeError):
        return ()
    return tuple(str(name) for name in names)


__all__ = ["NOWHERE", "READERS", "Row", "column_names", "read_rows"]

NOWHERE = "give a path as `data`, or `hub:NAME` for a data set of the Hub"
"""The hint for missing data."""

_LOG = logging.getLogger(__name__)
_DELIMITERS = ",;\t"  # of CSV: spreadsheets of half of Europe write semicolons
_SEP = re.compile('"?sep=([^"\\r\\n])"?\\r?\\n?')  # how Excel is told the separator
_LONGEST_NUMBER = 400  # digits; a larger number is no float either
_PAGE = 8192  # rows of Parquet that are in memory at once
_BIGGEST_FIELD = 2**24  # letters; the csv module stops at 131,072, which a long e-mail passes


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    header: Sequence[str] = (),
    lists: bool = False,
    crowded: bool = False,
    gaps: bool = False,
    structured: bool = False,
    images: bool = False,
) -> list[Row]:
    """The named columns of every row of a file.

    Args:
        path: a file with one of the endings of `READERS`, with `.gz` or without.
        columns: names of the columns to take.
        header: column names of a file without a header line.
        lists: whether the last column may hold a list; it comes as JSON.
        crowded: whether a row may have more fields than the header, as some of GLUE's have.
        gaps: whether the last column may lack a value; it comes as `NO_LABEL`.
        structured: whether cells may hold lists and objects; they come as JSON.
        images: whether cells may hold the bytes of an image; they come as data URLs.

    Raises:
        DataError: no such file, unknown ending, wrong encoding, missing column or broken row.
    """
    form = (lists, crowded, gaps, structured, images)
    wanted = Wanted(path, tuple(columns), tuple(header), *form)
    return list(stream_rows(wanted))


def stream_rows(wanted: Wanted) -> Iterator[Row]:
    """The same one by one, in memory that does not grow with the file, but for an array of JSON.

    Raises:
        DataError: as of `read_rows`.
    """
    ending = _ending(wanted.path)
    _LOG.debug("reading `%s`", wanted.path)
    if wanted.lines and ending == LINES:
        return _read_lines(wanted)
    return READERS[ending][0](wanted)


def column_names(path: Path) -> tuple[str, ...]:
    """Names of the columns: of the first line, of the first object, or of the schema.

    Raises:
        DataError: no such file, unknown ending, wrong encoding, or no names in it.
    """
    if not path.exists():
        raise DataError(f"no such file or folder: `{path}`", NOWHERE)
    _, names = READERS[_ending(path)]
    return tuple(names(path))


def _ending(path: Path) -> str:
    """The ending that tells how a file is read, one of `READERS`."""
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending not in READERS:
        raise DataError(
            f"`{path}` has an ending that is not read", f"endings: {', '.join(READERS)}, or .gz"
        )
    return ending


def _read_lines(wanted: Wanted) -> Iterator[Row]:
    """A row of each line that holds more than blanks: its text in every wanted column."""
    for line in lines_in(wanted.path):
        if line.strip():
            yield (line.strip(),) * len(wanted.columns)


def _read_tsv(wanted: Wanted) -> Iterator[Row]:
    lines = (line.split("\t") for line in lines_in(wanted.path))
    yield from _pick(wanted, lines, "TSV has no quoting: write a tab in a text as a blank")


def _read_csv(wanted: Wanted) -> Iterator[Row]:
    lines, delimiter = _csv_lines(wanted.path)
    delimiter = delimiter or _delimiter(wanted.path, wanted.columns)
    hint = "put quotation marks round a text that holds a separator"
    exact = replace(wanted, crowded=False)
    yield from _pick(exact, _records(wanted.path, lines, delimiter), hint)


def is_separator_line(line: str) -> bool:
    """Whether a line of a table names its separator, as spreadsheets read it.

    >>> is_separator_line("sep=;"), is_separator_line("sep=;a")
    (True, False)
    """
    return _SEP.fullmatch(line) is not None


def _csv_lines(path: Path) -> tuple[Iterator[str], str | None]:
    """Lines with their ends, and the delimiter that a first line `sep=;` names; the line is no row then."""
    csv.field_size_limit(_BIGGEST_FIELD)
    lines = ended_lines(path)
    first = list(islice(lines, 1))
    told = _SEP.fullmatch(first[0]) if first else None
    return (chain(first, lines), None) if told is None else (lines, told[1])


def _records(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Rows of cells; a row of CSV may be several lines."""
    rows, number = csv.reader(lines, strict=True, delimiter=delimiter), 0
    while True:
        number += 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            fact = str(error)
            if fact.startswith("new-line"):  # and advice on the arguments of `open`
                fact = "a carriage return outside quotation marks"
            raise DataError(
                f"row {number} of `{path}` is not valid CSV: {fact}",
                "a text with a line break or a separator stands in quotation marks; one within it is written twice",
            ) from error
        if row is None:
            return
        yield row


def _delimiter(path: Path, columns: Sequence[str]) -> str:
    """The delimiter with which the first row names all wanted columns; a comma if none does."""
    wanted = set(columns)
    return next((one for one in _DELIMITERS if wanted <= set(_first(path, one))), ",")


def _first(path: Path, delimiter: str) -> list[str]:
    """The first row as cells, or none where this cannot be their delimiter."""
    try:
        return next(csv.reader(_csv_lines(path)[0], delimiter=delimiter), [])
    except csv.Error:
        return []


def _read_json(wanted: Wanted) -> Iterator[Row]:
    questions = squad_rows(wanted.path)
    if questions is not None:
        check_columns(wanted, SQUAD_COLUMNS)
        own = replace(wanted, structured=True)
        yield from (own.row(row, number) for number, row in enumerate(questions, start=1))
        return
    for number, value in _items(wanted):
        if not isinstance(value, dict):
            raise DataError(f"row {number} of `{wanted.path}` is not a JSON object")
        yield wanted.row(value, number)


def _items(wanted: Wanted) -> Iterator[tuple[int, object]]:
    """Number and value of each item of an array, or of each line."""
    first = next((text for line in lines_in(wanted.path) if (text := line.lstrip())), "")
    return (_array if first.startswith("[") else _lines)(wanted)


def _array(wanted: Wanted) -> Iterator[tuple[int, object]]:
    """Number and value of each item of an array."""
    text = read_text(wanted.path)
    try:
        yield from enumerate(_parsed(text), start=1)
    except (json.JSONDecodeError, RecursionError) as error:
        first = text.lstrip().split("\n", 1)[0]
        if first.rstrip().endswith("]"):  # lines, of which the first is no object
            raise DataError(f"row 1 of `{wanted.path}` is not a JSON object") from error
        raise DataError(f"`{wanted.path}` is not valid JSON: {error}") from error


def _lines(wanted: Wanted) -> Iterator[tuple[int, object]]:
    """Number and value of each line that is not empty."""
    for number, line in enumerate(lines_in(wanted.path), start=1):
        if not line.strip():
            continue
        try:
            yield number, _parsed(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"row {number} of `{wanted.path}` is not a JSON object: {error}",
                "expected one object a line, or one array of objects",
            ) from error


def _parsed(text: str) -> Any:
    """A value of JSON; a whole number of more digits than Python turns into text is infinite."""
    return json.loads(
        text, parse_int=lambda digits: int(digits) if len(digits) < _LONGEST_NUMBER else math.inf
    )


def _tsv_names(path: Path) -> list[str]:
    first = next(lines_in(path), "")
    return first.split("\t") if first else []


def _csv_names(path: Path) -> list[str]:
    """Names in the first row, with the delimiter that the file names, or the one that gives the most names."""
    _, delimiter = _csv_lines(path)
    return max((_first(path, one) for one in delimiter or _DELIMITERS), key=len)


def _json_names(path: Path) -> list[str]:
    if is_squad(path) and squad_rows(path) is not None:
        return list(SQUAD_COLUMNS)
    number, first = next(_items(Wanted(path, ())), (1, {}))
    if not isinstance(first, dict):
        raise DataError(f"row {number} of `{path}` is not a JSON object")
    return list(first)


LINES = ".txt"
"""Ending of files that hold a text a line, for types of tasks that read lines; a table for others."""

TAGGED = (".conll", ".bio", ".iob", ".iob2")
"""Endings of files with a word and its tag in each line."""

READERS: dict[str, tuple[Callable[[Wanted], Iterator[Row]], Callable[[Path], list[str]]]] = {
    ".tsv": (_read_tsv, _tsv_names),
    LINES: (_read_tsv, _tsv_names),  # MRPC as Microsoft ships it
    ".csv": (_read_csv, _csv_names),
    ".jsonl": (_read_json, _json_names),
    ".json": (_read_json, _json_names),
    ".parquet": (read_parquet, parquet_columns),
    **dict.fromkeys(TAGGED, (read_conll, conll_columns)),
}
"""Ending -> function that reads wanted columns of a file, and function that reads all names."""


def _pick(wanted: Wanted, rows: Iterator[list[str]], hint: str) -> Iterator[Row]:
    """Take the wanted columns of each row; the first row names them unless `header` does.

    Args:
        wanted: the columns; a row may have more fields than there are names only if they say so.
        rows: cells.
        hint: what to do about a row of too many fields.
    """
    names = list(wanted.header) or next(rows, [])
    check_columns(wanted, names)
    places = [names.index(column) for column in wanted.columns]
    for number, row in enumerate(rows, start=1 if wanted.header else 2):
        if not row or row == [""]:
            continue
        many = len(row) > len(names)
        if len(row) <= max(places) or (many and not wanted.crowded):
            raise DataError(
                f"row {number} of `{wanted.path}` has {len(row)} fields, not {len(names)}",
                hint if many else None,
            )
        yield tuple(row[index] for index in places)
