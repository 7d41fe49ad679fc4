"""Text files, plain or gzip: whole, or line by line in memory that does not grow with the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from maskpack.formats import DataError

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks, as spreadsheets write them
_CHUNK = 1 << 20  # bytes that are read at once


def read_bytes(path: Path) -> bytes:
    """All of a file, unzipped if its name ends in `.gz`.

    Raises:
        DataError: it cannot be read.
    """
    return b"".join(_chunks(path))


def read_text(path: Path) -> str:
    """The same as text, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    data = read_bytes(path)
    return _decoded(path, data, data[:2]).removeprefix("\ufeff")


def lines_of(text: str) -> list[str]:
    r"""Lines without their ends: line feeds, with carriage returns or without, or carriage returns alone.

    A carriage return within a line of a file of line feeds is part of the line.

    >>> lines_of("a\r\nb\rc\n\nd"), lines_of("a\rb\r")
    (['a', 'b\rc', '', 'd'], ['a', 'b'])
    """
    end = "\n" if "\n" in text else "\r"
    return [line.removesuffix("\r") for line in text.removesuffix(end).split(end)] if text else []


def lines_in(path: Path) -> Iterator[str]:
    """The lines of a file as `lines_of` gives those of its text.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    return (line.removesuffix("\n").removesuffix("\r") for line in ended_lines(path))


def ended_lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends; the last one gets an end if it has none.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    end = _line_end(path)
    head, rest, offset, lines, byte = b"", b"", 0, 0, end.encode()
    for chunk in _chunks(path):
        head = head or chunk[:2]
        cut = chunk.rfind(byte) + 1
        if not cut:
            rest += chunk
            continue
        whole, rest = rest + chunk[:cut], chunk[cut:]
        text = _decoded(path, whole, head, offset=offset, lines=lines)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset, lines = offset + len(whole), lines + whole.count(b"\n")
        yield from (line + end for line in text.removesuffix(end).split(end))
    text = _decoded(path, rest, head, offset=offset, lines=lines)
    if last := text if offset else text.removeprefix("\ufeff"):
        yield last + end


def _line_end(path: Path) -> str:
    """What ends the lines of a file: a carriage return if it holds no line feed."""
    return "\n" if any(b"\n" in chunk for chunk in _chunks(path)) else "\r"


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file in pieces, unzipped if its name ends in `.gz`."""
    try:
        with _opened(path) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read `{path}`: {error}") from error


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _decoded(path: Path, data: bytes, head: bytes, *, offset: int = 0, lines: int = 0) -> str:
    """A piece of a file as text.

    Args:
        path: the file.
        data: the piece.
        head: the first two bytes of the file.
        offset: of the piece in the file.
        lines: line feeds before it.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines + data[: error.start].count(b"\n") + 1
        other = "utf-16" if head in _UTF_16 else "latin1"
        raise DataError(
            f"line {line} of `{path}` is not UTF-8: byte 0x{data[error.start]:02x} "
            f"at offset {offset + error.start}",
            f"convert it first: `iconv -f {other} -t utf-8 IN > OUT`",
        ) from error
