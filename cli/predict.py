"""`compress predict`: texts in, a line of JSON for each out. Imports no torch."""

from __future__ import annotations

import json as codec
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import render
from maskpack.formats import DataError

_CHUNK = 1024  # lines that are answered together


def predict(
    folder: Annotated[
        Path, typer.Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    texts: Annotated[
        Path | None, typer.Option(help="File of texts, one a line. [standard input]")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Which, of several.")] = None,
    pair: Annotated[
        bool, typer.Option("--pair", help="A tab parts a line into two texts of a pair.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Texts a run; 1: no text changes another's answer.")
    ] = 32,
    threads: Annotated[int, typer.Option(help="Of one operator; 0: ONNX Runtime's choice.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="As always here: the output is lines of JSON.")
    ] = True,
) -> None:
    """Answer texts with an exported task, a line of JSON each, in ONNX Runtime.

    Example: echo "where is my parcel" | compress predict tickets
    """
    del json
    from maskpack.runtime import Session  # noqa: PLC0415 - imports ONNX Runtime

    session = Session(folder, threads=threads)
    with _lines(texts) as lines:
        while chunk := list(islice(lines, _CHUNK)):
            rows = [_pair(line) if pair else line for line in chunk]
            for answer in session.predict(rows, task=task, batch_size=batch_size):
                render.data(codec.dumps(answer.to_dict(), ensure_ascii=False))


@contextmanager
def _lines(path: Path | None) -> Iterator[Iterator[str]]:
    """Lines of a file or of standard input, without their ends."""
    try:
        with nullcontext(sys.stdin) if path is None else path.open(encoding="utf-8") as file:
            yield (line.rstrip("\r\n") for line in file)
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"`{path or 'standard input'}` is not UTF-8: {error}") from error


def _pair(line: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise DataError(f"no tab in the line `{line[:60]}`, expected a pair of texts")
    return first, second
