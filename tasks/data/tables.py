"""Rows from files: TSV, CSV, JSON and Parquet, plain or gzip. Errors name the file and the row.

TSV is read without quoting, as GLUE writes it (its fields hold bare quotation marks); CSV follows the usual
quoting rules, with commas, semicolons or tabs; JSON is one object a line or one array of objects. Parquet goes
through pyarrow, an optional extra, imported when there is such a file to read.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.formats.extras import needed_for
from maskpack.tasks.data.cells import Row, Wanted, check_columns, read_bytes, read_text


def read_parquet(wanted: Wanted) -> Iterator[Row]:
    """The wanted columns; numbers that `datasets` wrote for classes become their names again.

    Raises:
        DataError: the file is no Parquet, a column is missing, a cell is empty.
        MissingPackageError: pyarrow is missing.
    """
    with _opened(wanted.path) as file:
        check_columns(wanted, file.schema_arrow.names)
        table = file.read(columns=list(wanted.columns))
    names = _class_names(file.schema_arrow.metadata or {}, wanted.columns[-1])
    columns = {name: table[name].to_pylist() for name in wanted.columns}
    for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        row = dict(zip(columns, cells, strict=True))
        if names:
            row[wanted.columns[-1]] = named(row[wanted.columns[-1]], names)
        yield wanted.row(row, number)


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
        yield parquet.ParquetFile(pa.BufferReader(read_bytes(path)))
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"cannot read `{path}` as Parquet: {first}") from error


def named(value: Any, names: Sequence[str]) -> Any:
    """Class numbers, alone or in a list, as class names; -1 and None stay as they are."""
    if isinstance(value, list):
        return [named(each, names) for each in value]
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
_BIGGEST_FIELD = 2**24  # letters; the csv module stops at 131,072, which a long e-mail passes


def read_rows(
    path: Path, columns: Sequence[str], *, header: Sequence[str] = (), lists: bool = False
) -> list[Row]:
    """The named columns of every row of a file.

    Args:
        path: a file with one of the endings of `READERS`, with `.gz` or without.
        columns: names of the columns to take.
        header: column names of a file without a header line.
        lists: whether the last column may hold a list; it comes as JSON.

    Raises:
        DataError: no such file, unknown ending, wrong encoding, missing column or broken row.
    """
    reader, _ = READERS[_ending(path)]
    _LOG.debug("reading `%s`", path)
    return list(reader(Wanted(path, tuple(columns), tuple(header), lists)))


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


def _read_tsv(wanted: Wanted) -> Iterator[Row]:
    text = read_text(wanted.path).removesuffix("\n")
    lines = (line.removesuffix("\r").split("\t") for line in text.split("\n"))
    yield from _pick(wanted, lines, crowded=True)


def _read_csv(wanted: Wanted) -> Iterator[Row]:
    text = read_text(wanted.path)
    csv.field_size_limit(_BIGGEST_FIELD)
    delimiter = _delimiter(text, wanted.columns)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        yield from _pick(wanted, rows)
    except csv.Error as error:
        raise DataError(f"`{wanted.path}` is not valid CSV: {error}") from error


def _delimiter(text: str, columns: Sequence[str]) -> str:
    """The delimiter with which the first line names all wanted columns; a comma if none does."""
    first = text.split("\n", 1)[0].removesuffix("\r")
    for delimiter in _DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter), [])
        if set(columns) <= set(names):
            return delimiter
    return ","


def _read_json(wanted: Wanted) -> Iterator[Row]:
    text = read_text(wanted.path)
    for number, value in _array(wanted, text) if text.lstrip()[:1] == "[" else _lines(wanted, text):
        if not isinstance(value, dict):
            raise DataError(f"row {number} of `{wanted.path}` is not a JSON object")
        yield wanted.row(value, number)


def _array(wanted: Wanted, text: str) -> Iterator[tuple[int, object]]:
    """Number and value of each item of an array."""
    try:
        yield from enumerate(json.loads(text), start=1)
    except (json.JSONDecodeError, RecursionError) as error:
        first = text.lstrip().split("\n", 1)[0]
        if first.rstrip().endswith("]"):  # lines, of which the first is no object
            raise DataError(f"row 1 of `{wanted.path}` is not a JSON object") from error
        raise DataError(f"`{wanted.path}` is not valid JSON: {error}") from error


def _lines(wanted: Wanted, text: str) -> Iterator[tuple[int, object]]:
    """Number and value of each line that is not empty."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"row {number} of `{wanted.path}` is not a JSON object: {error}",
                "expected one object a line, or one array of objects",
            ) from error


def _tsv_names(path: Path) -> list[str]:
    first = read_text(path).split("\n", 1)[0].removesuffix("\r")
    return first.split("\t") if first else []


def _csv_names(path: Path) -> list[str]:
    """Names in the first line, with the delimiter that gives the most names."""
    first = read_text(path).split("\n", 1)[0].removesuffix("\r")
    csv.field_size_limit(_BIGGEST_FIELD)
    try:
        rows = [next(csv.reader([first], delimiter=one), []) for one in _DELIMITERS]
    except csv.Error as error:
        raise DataError(f"`{path}` is not valid CSV: {error}") from error
    return max(rows, key=len)


def _json_names(path: Path) -> list[str]:
    text, wanted = read_text(path), Wanted(path, ())
    items = _array(wanted, text) if text.lstrip()[:1] == "[" else _lines(wanted, text)
    number, first = next(items, (1, {}))
    if not isinstance(first, dict):
        raise DataError(f"row {number} of `{path}` is not a JSON object")
    return list(first)


READERS: dict[str, tuple[Callable[[Wanted], Iterator[Row]], Callable[[Path], list[str]]]] = {
    ".tsv": (_read_tsv, _tsv_names),
    ".txt": (_read_tsv, _tsv_names),  # MRPC as Microsoft ships it
    ".csv": (_read_csv, _csv_names),
    ".jsonl": (_read_json, _json_names),
    ".json": (_read_json, _json_names),
    ".parquet": (read_parquet, parquet_columns),
}
"""Ending -> function that reads wanted columns of a file, and function that reads all names."""


def _pick(wanted: Wanted, rows: Iterator[list[str]], *, crowded: bool = False) -> Iterator[Row]:
    """Take the wanted columns of each row; the first row names them unless `header` does.

    A row may have more fields than there are names only if it is `crowded`, as some of GLUE's are.
    """
    names = list(wanted.header) or next(rows, [])
    check_columns(wanted, names)
    places = [names.index(column) for column in wanted.columns]
    for number, row in enumerate(rows, start=1 if wanted.header else 2):
        if not row or row == [""]:
            continue
        if len(row) <= max(places) or (len(row) > len(names) and not crowded):
            raise DataError(
                f"row {number} of `{wanted.path}` has {len(row)} fields, not {len(names)}",
                "put quotation marks round a text that holds a separator"
                if len(row) > len(names)
                else None,
            )
        yield tuple(row[index] for index in places)
