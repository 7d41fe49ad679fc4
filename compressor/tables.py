"""Rows from files: TSV, CSV and JSON lines, plain or gzip. Errors name the file and the row.

TSV is read without quoting, as GLUE writes it (its fields hold bare quotation marks); CSV follows
the usual quoting rules; JSON lines hold one object a line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maskpack.formats import DataError

_LOG = logging.getLogger(__name__)

Row = tuple[str, ...]
"""The wanted columns of one row, in the order they were asked for."""


def read_rows(path: Path, columns: Sequence[str], *, header: Sequence[str] = ()) -> list[Row]:
    """The named columns of every row of a file.

    Args:
        path: a `.tsv`, `.csv`, `.jsonl` or `.json` file (one object a line), with `.gz` or without.
        columns: names of the columns to take.
        header: column names of a file without a header line.

    Raises:
        DataError: no such file, unknown ending, wrong encoding, missing column or broken row.
    """
    reader = READERS.get(_ending(path))
    if reader is None:
        raise DataError(
            f"`{path}` has an ending that is not read", f"endings: {', '.join(READERS)}, or .gz"
        )
    _LOG.debug("reading `%s`", path)
    return list(reader(path, _decode(path), columns, header))


def _read_tsv(
    path: Path, text: str, columns: Sequence[str], header: Sequence[str]
) -> Iterator[Row]:
    lines = (line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n"))
    yield from _pick(path, lines, columns, header)


def _read_csv(
    path: Path, text: str, columns: Sequence[str], header: Sequence[str]
) -> Iterator[Row]:
    try:
        yield from _pick(
            path, csv.reader(io.StringIO(text, newline=""), strict=True), columns, header
        )
    except csv.Error as error:
        raise DataError(f"`{path}` is not valid CSV: {error}") from error


def _read_jsonl(path: Path, text: str, columns: Sequence[str], _: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            tree = json.loads(line)
            yield tuple(_as_text(tree[column]) for column in columns)
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"row {number} of `{path}` is not a JSON object: {error}") from error
        except KeyError as error:
            raise DataError(
                f"row {number} of `{path}` has no field {error}",
                f"its fields: {', '.join(tree)}",
            ) from error


READERS: dict[str, Callable[[Path, str, Sequence[str], Sequence[str]], Iterator[Row]]] = {
    ".tsv": _read_tsv,
    ".txt": _read_tsv,  # MRPC as Microsoft ships it
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
}


def _pick(
    path: Path, rows: Iterator[list[str]], columns: Sequence[str], header: Sequence[str]
) -> Iterator[Row]:
    """Take `columns` of each row; the first row names them unless `header` does."""
    names = list(header) or [name.lstrip("\ufeff") for name in next(rows, [])]
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(
            f"`{path}` has no column `{missing[0]}`",
            f"its columns: {', '.join(names)}; choose with `--text-field` and `--label-field`",
        )
    places = [names.index(column) for column in columns]
    for number, row in enumerate(rows, start=1 if header else 2):
        if not row or row == [""]:
            continue
        if len(row) <= max(places):
            raise DataError(f"row {number} of `{path}` has {len(row)} fields, not {len(names)}")
        yield tuple(row[place] for place in places)


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read `{path}`: {error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"row {row} of `{path}` is not UTF-8: byte 0x{data[error.start]:02x} "
            f"at offset {error.start}",
            "convert it first: `iconv -f latin1 -t utf-8 IN > OUT`",
        ) from error


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, dict | list):
        raise TypeError(f"expected a text or a number, found {value!r}")
    return str(int(value)) if isinstance(value, bool) else str(value)
