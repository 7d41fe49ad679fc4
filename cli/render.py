"""Output of the command line: data to stdout, words to stderr. No other file prints.

It also shows a run's progress, and logs it as TensorBoard's event files or as a line of JSON a step.
"""

from __future__ import annotations

import codecs
import errno
import io
import json as codec
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from maskpack.cli.hints import in_commands
from maskpack.formats.checks import spell_out
from maskpack.formats.errors import Hint
from maskpack.report.charts import size as size  # noqa: PLC0414 - part of how we print

if TYPE_CHECKING:
    from maskpack.compressor.training.progress import Progress

    OnProgress = Callable[[Progress], None]
    Row = Callable[[str], AbstractContextManager[OnProgress]]

_PLAIN_WIDTH = 150  # width of a table that goes to a file or a pipe
_OUT = Console(
    highlight=False,
    markup=False,
    emoji=False,
    width=None if sys.stdout is not None and sys.stdout.isatty() else _PLAIN_WIDTH,
)
_ERR = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

_ESCAPED = "maskpack.escaped"
"""Name of the error handler of our streams, see `_escaped`."""


class Loudness(IntEnum):
    """Amount of output beside data and errors."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


_loudness = Loudness.USUAL

_LEVELS = {
    Loudness.QUIET: logging.ERROR,
    Loudness.USUAL: logging.INFO,
    Loudness.VERBOSE: logging.DEBUG,
}


class _Logged(logging.Handler):
    """Log records of lower floors and libraries, as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line; a warning of Python's own without the source line below it."""
        record = copy(record)  # for other handlers too
        if isinstance(record.args, tuple):
            record.args = tuple(
                in_commands(each) if isinstance(each, Hint) else each for each in record.args
            )
        first, *_ = self.format(record).splitlines() or [""]
        kind = "note" if record.levelno == logging.INFO else record.levelname.lower()
        _ERR.print(f"{kind}: {first}")


_LOGGED = _Logged()


def set_loudness(loudness: Loudness) -> None:
    """Set the amount of output.

    By default our own notes and warnings are shown; `VERBOSE` also shows which files are read and
    written, and warnings of libraries.
    """
    global _loudness  # noqa: PLW0603 - of the process, as its stderr is
    if not speaks():
        loudness = Loudness.QUIET
        logging.disable()
    _loudness = loudness
    verbose = loudness is Loudness.VERBOSE
    logging.captureWarnings(verbose)
    ours, pythons = logging.getLogger("maskpack"), logging.getLogger("py.warnings")
    ours.setLevel(_LEVELS[loudness])
    for logger, heard in ((ours, True), (pythons, verbose)):
        logger.removeHandler(_LOGGED)
        if heard:
            logger.addHandler(_LOGGED)


def speaks() -> bool:
    """Whether this process answers: of those that a launcher such as `torchrun` started, only the first one."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


@contextmanager
def hushed() -> Iterator[None]:
    """Show no notes and warnings for a while."""
    before = _LOGGED.level
    _LOGGED.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LOGGED.setLevel(before)


def plain_streams() -> None:
    """Let files and pipes get UTF-8 and line feeds, as on Linux: Windows gives them an old code page.

    A terminal keeps its encoding. What that cannot show, and a byte of a path that is no UTF-8, is written as JSON
    writes it, so that a line of JSON stays one. What comes in is UTF-8 too: under some locales Python would pass
    broken bytes on as half letters.
    """
    _fill_closed()
    codecs.register_error(_ESCAPED, _escaped)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors=_ESCAPED)
        else:
            stream.reconfigure(encoding="utf-8", errors=_ESCAPED, newline="\n")


def _fill_closed() -> None:
    """Open what the caller has closed of the three streams: the next file would get its number, and a library's words."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""What cannot be encoded, as JSON escapes it.

    >>> "\U0001f600 \udcff".encode("ascii", _ESCAPED) if codecs.register_error(_ESCAPED, _escaped) is None else b""
    b'\\ud83d\\ude00 \\udcff'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


def json(tree: Any, **layout: Any) -> None:
    """JSON to stdout; numbers that it lacks, such as NaN, are words there.

    Args:
        tree: of dicts, lists, texts and numbers.
        layout: options of `json.dumps`.
    """
    data(codec.dumps(spell_out(tree), allow_nan=False, **layout))


def data(text: str) -> None:
    """A line of data to stdout, untouched, and at once: a pipe's reader may be waiting. Nothing where it is closed."""
    if sys.stdout is None or not speaks():
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EINVAL:  # what Windows says of a pipe whose reader went away
            raise BrokenPipeError from error
        raise


def words(text: str) -> None:
    """A line for people, to stderr, unless output is quiet."""
    if _loudness > Loudness.QUIET:
        _ERR.print(text)


def bug(text: str) -> None:
    """A bug's traceback, to stderr, always."""
    _ERR.print(text)


def error(message: str, hint: str | None) -> None:
    """An error and its hint, if it has one."""
    _ERR.print(f"error: {message}", style="bold")
    if hint:
        _ERR.print(f"hint: {hint}")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table to stdout, its title a line of its own, whole; columns of numbers are aligned to the right."""
    if not speaks():
        return
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    shown = Table(box=box.SIMPLE)
    for name, right in zip(head, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    if title:
        _OUT.print(title, style="bold", soft_wrap=True)
    _OUT.print(shown)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table to stdout, padded so that it reads well as it stands."""
    wide = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in wide], *rows]
    for row in lines:
        data(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, wide, strict=True))} |")


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[OnProgress]:
    """A bar on stderr with loss, metric, sparsity, bits and time left; lines without a terminal."""
    if quiet or _loudness is Loudness.QUIET:
        with hushed():
            yield lambda _: None
    elif _ERR.is_terminal and not _ERR.is_dumb_terminal:
        with _bar() as bar:
            handle = bar.add_task(label, total=None, figures="")
            yield _in_row(bar, handle, label)
    else:
        yield _lines(label)


@contextmanager
def progress_table(done: int, runs: int, *, quiet: bool = False) -> Iterator[Row]:
    """A table on stderr of runs that go on at once, once `done` of all `runs` are finished; lines without a terminal."""
    if quiet or _loudness is Loudness.QUIET:
        with hushed():
            yield lambda _: nullcontext(lambda _: None)
    elif _ERR.is_terminal and not _ERR.is_dumb_terminal:
        with _bar() as bar:
            whole = bar.add_task("runs", total=runs, completed=done, figures="")

            @contextmanager
            def row(label: str) -> Iterator[OnProgress]:
                handle = bar.add_task(label, total=None, figures="", visible=False)
                try:
                    yield _in_row(bar, handle, label)
                finally:
                    bar.remove_task(handle)
                    bar.advance(whole)

            yield row
    else:
        yield lambda label: nullcontext(_lines(label))


def _in_row(bar: bars.Progress, handle: bars.TaskID, label: str) -> OnProgress:
    return lambda now: bar.update(
        handle,
        description=label if now.stage == "task" else f"{label} ({now.stage})",
        total=now.steps,
        completed=now.step,
        figures=_summary(now),
        visible=True,
    )


def _bar() -> bars.Progress:
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[figures]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=_ERR,
    )


def _lines(label: str) -> OnProgress:
    """One line every tenth of the run, for logs."""
    began: dict[str, float] = {}

    def show(now: Progress) -> None:
        started = began.setdefault(now.stage, time.monotonic())
        every = max(1, now.steps // 10)
        if now.step % every and now.step != now.steps:
            return
        spent = time.monotonic() - started
        left = spent / now.step * (now.steps - now.step)
        what = label if now.stage == "task" else f"{label} ({now.stage})"
        words(f"{what} {now.step}/{now.steps} {_summary(now)}, {left:.0f} s left")

    return show


def _summary(now: Progress) -> str:
    parts = [f"loss {now.loss:.3f}"]
    if now.value is not None:
        parts.append(f"{now.metric} {now.value:.4f}")
    if now.count is not None:
        parts.append(f"zeros {now.count.sparsity:.2%}, {now.count.entropy_bpp:.3f} bpp")
    return ", ".join(parts)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+" or text in {"", "-"}
