"""Rows without labels: texts, or images, that a teacher says of what is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data.cells import column_list
from maskpack.tasks.data.columns import plain_columns, plain_texts
from maskpack.tasks.data.images import check_files, files_below, path_of
from maskpack.tasks.data.tables import LINES, column_names, read_rows
from maskpack.tasks.data.tagged import in_words
from maskpack.tasks.data.text_lines import lines_in


def read_unlabelled(
    path: Path, columns: Sequence[str], *, images: bool = False
) -> tuple[tuple[str, ...], ...]:
    """Texts of a file, one or two a row; empty ones are left out.

    A `.txt` file holds a text a line. For a task on pairs it holds both with a tab between, or a text and the one on
    the next line make a pair. A table has the task's own columns or columns of plain names, such as `text`; its other
    columns are not read. Images are those in a folder and below it, or those that a table names; their paths are absolute,
    so that they can stand beside rows of another folder.

    Args:
        path: the file, or a folder of images.
        columns: of the task's texts, one or two.
        images: whether rows are images.

    Raises:
        DataError: the file cannot be read, or holds no text.
        ConfigError: a table without such columns.
    """
    if images:
        return _images(path, columns)
    if is_lines(path):
        rows = _lines(path, len(columns))
    else:
        chosen = _columns(path, columns)
        cells = read_rows(path, chosen, lists=len(chosen) == 1)
        rows = [tuple(map(in_words, row)) for row in cells if any(map(str.strip, row))]
    if not rows:
        raise DataError(f"`{path}` holds no text", "one text or more a line")
    return tuple(rows)


def _images(path: Path, columns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Absolute path, or data URL, of each image."""
    if path.is_dir():
        return tuple((file.resolve().as_posix(),) for file in files_below(path))
    rows = list(read_rows(path, _columns(path, columns), images=True))
    check_files(rows, path.parent, f"`{path}`")
    if not rows:
        raise DataError(f"`{path}` names no image")
    return tuple((path_of(row[0], path.parent.resolve()),) for row in rows)


def is_lines(path: Path, *, pairs: bool = False) -> bool:
    """Whether a file holds a text a line; with `pairs`, whether each line holds two with a tab between."""
    if Path(path.name.removesuffix(".gz")).suffix.lower() != LINES:
        return False
    lines = (line for line in lines_in(path) if line.strip()) if pairs else ()
    return all(line.count("\t") == 1 for line in lines)


def _lines(path: Path, width: int) -> list[tuple[str, ...]]:
    """The lines as rows of so many texts.

    Raises:
        DataError: it cannot be read, a pair is wanted of one line, or only some lines hold two texts.
    """
    numbered = [(n, line) for n, line in enumerate(lines_in(path), start=1) if line.strip()]
    lines = [line.strip() for _, line in numbered]
    if width == 1:
        return [(line,) for line in lines]
    if any("\t" in line for _, line in numbered):
        return [_pair(line, f"line {number} of `{path}`") for number, line in numbered]
    if len(lines) == 1:
        raise DataError(f"`{path}` holds one text, a task on pairs needs two")
    return list(zip(lines, [*lines[1:], lines[0]], strict=True))


def _pair(line: str, where: str) -> tuple[str, str]:
    """Both texts of a line, of which one may be empty."""
    if line.count("\t") != 1:
        raise DataError(
            f"{where} has {line.count(chr(9))} tabs, a pair of texts has one between them",
            "put one tab into each line, or none into any: then a text and the next line's are a pair",
        )
    first, _, second = line.partition("\t")
    return first.strip(), second.strip()


def _columns(path: Path, wanted: Sequence[str]) -> Sequence[str]:
    """The columns of the texts in a table."""
    names = column_names(path)
    if set(wanted) <= set(names):
        return wanted
    plain = plain_texts(names) or (plain_columns(names) or ())[:-1]
    if len(plain) != len(wanted):
        raise ConfigError(
            f"`{path}` has neither the task's columns {column_list(wanted)} nor plain ones",
            f"its columns: {column_list(names)}; rename one, or give lines of text as .txt",
        )
    return plain
