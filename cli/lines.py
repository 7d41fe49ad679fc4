"""Lines of a file or of standard input, in lists that are answered together.

Standard input may be a pipe that stays open, such as `tail -f`: what has come is answered when nothing more comes for a
moment. A thread reads the descriptor itself, because a thread that waits in Python's own buffer would stop the
interpreter from ending.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TextIO

from maskpack.formats import DataError
from maskpack.tasks.data.text_lines import lines_of

MOST = 1024  # lines of a list
PAUSE = 0.2  # seconds without a new line, after which those that have come are answered
_BLOCK = 1 << 16
_WAITING = 16  # blocks that are read ahead


def chunks(path: Path | None, where: str) -> Iterator[list[str]]:
    """Lists of lines without their ends, none of them empty.

    Args:
        path: of the file; None reads standard input.
        where: what an error calls it.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        if path is not None:
            with path.open("rb") as file:
                yield from _prompt(decoded(file, where))
        elif (number := _descriptor(sys.stdin)) is None:
            yield from _prompt(decoded((line.encode() for line in sys.stdin or ()), where))
        else:
            yield from _prompt(decoded(byte_lines(arriving(number)), where))
    except OSError as error:
        raise DataError(
            f"cannot read {where}: {error.strerror}", "give a file of texts, one a line"
        ) from error


def _descriptor(stream: TextIO | None) -> int | None:
    """The number by which the system knows a stream; None of one that is closed or in memory."""
    with suppress(io.UnsupportedOperation):
        return None if stream is None else stream.fileno()
    return None


def _prompt(lines: Iterable[str | None]) -> Iterator[list[str]]:
    """Lists of lines; None among them ends a list before it is full.

    >>> list(_prompt(iter([None, "a", "b", None, None, "c"])))
    [['a', 'b'], ['c']]
    """
    chunk: list[str] = []
    for line in lines:
        if line is not None:
            chunk.append(line)
        if chunk and (line is None or len(chunk) == MOST):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def arriving(number: int, pause: float = PAUSE) -> Iterator[bytes | None]:
    """Blocks of bytes of a descriptor, in the order of their coming; None whenever none came for `pause` seconds."""
    blocks: Queue[bytes | OSError] = Queue(_WAITING)

    def read() -> None:
        block: bytes | OSError = b"-"
        while isinstance(block, bytes) and block:
            try:
                block = os.read(number, _BLOCK)
            except OSError as error:
                block = error
            blocks.put(block)

    Thread(target=read, daemon=True).start()
    while True:
        try:
            block = blocks.get(timeout=pause)
        except Empty:
            yield None
            continue
        if isinstance(block, OSError):
            raise block
        if not block:
            return
        yield block


def byte_lines(blocks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    r"""Lines with their ends of blocks of bytes; None stays None.

    >>> list(byte_lines([b"a\nb", None, b"c\n", b"d"]))
    [b'a\n', None, b'bc\n', b'd']
    """
    rest: list[bytes] = []
    for block in blocks:
        if block is None:
            yield None
            continue
        first, *others = block.split(b"\n")
        rest.append(first)
        for line in others:
            yield b"".join(rest) + b"\n"
            rest = [line]
    if last := b"".join(rest):
        yield last


def decoded(lines: Iterable[bytes | None], where: str) -> Iterator[str | None]:
    r"""Lines without their ends, as `lines_of` parts them; None stays None.

    >>> list(decoded([b"\xef\xbb\xbfa\r\n", None, b"\xc3\xa9\n", b"c"], "a file"))
    ['a', None, '\xe9', 'c']

    Raises:
        DataError: a line is not UTF-8.
    """
    number = 0
    for line in lines:
        if line is None:
            yield None
            continue
        number += 1
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number} of {where} is not UTF-8: byte 0x{line[error.start]:02x}",
                "give plain text, one a line; for a table `--data`",
            ) from error
        if number == 1:  # alone it may be a file of carriage returns
            yield from lines_of(text) or [""]
        else:
            yield text.removesuffix("\n").removesuffix("\r")
