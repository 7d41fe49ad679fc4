"""Rows from Parquet files, through pyarrow: an optional extra, imported when there is one to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskpack.compressor.data.cells import Row, Wanted, check_columns, read_bytes
from maskpack.formats import DataError


def read_parquet(wanted: Wanted) -> Iterator[Row]:
    """The wanted columns; numbers that `datasets` wrote for classes become their names again.

    Raises:
        DataError: pyarrow is missing, the file is no Parquet, a column is missing, a cell is empty.
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
        DataError: pyarrow is missing, or the file is no Parquet.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file; what pyarrow says against it becomes our error."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"reading `{path}` needs the package `pyarrow`",
            "pip install 'maskpack[data]', or give CSV or JSON lines",
        ) from error
    try:
        yield parquet.ParquetFile(pa.BufferReader(read_bytes(path)))
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"cannot read `{path}` as Parquet: {first}") from error


def named(value: Any, names: Sequence[str]) -> Any:
    """Class numbers, alone or in a list, as class names; -1 and nothing stay what they are."""
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
