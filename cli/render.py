"""Output of the command line: data to stdout, words to stderr. No other file prints.

It also shows a run's progress, and logs it as TensorBoard's event files or as a line of JSON a step.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from maskpack.cli.hints import in_commands
from maskpack.formats.errors import ConfigError, Hint
from maskpack.formats.extras import check_package
from maskpack.report.charts import size as size  # noqa: PLC0414 - part of how we print

if TYPE_CHECKING:
    from maskpack.compressor.training.progress import Progress

    OnProgress = Callable[[Progress], None]


_PLAIN_WIDTH = 150  # width of a table that goes to a file or a pipe
_OUT = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH
)
_ERR = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


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
    _loudness = loudness
    verbose = loudness is Loudness.VERBOSE
    logging.captureWarnings(verbose)
    ours, pythons = logging.getLogger("maskpack"), logging.getLogger("py.warnings")
    ours.setLevel(_LEVELS[loudness])
    for logger, heard in ((ours, True), (pythons, verbose)):
        logger.removeHandler(_LOGGED)
        if heard:
            logger.addHandler(_LOGGED)


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

    What comes in is UTF-8 too: under some locales Python would pass broken bytes on as half letters.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=stream.errors, newline="\n")


def data(text: str) -> None:
    """A line of data to stdout, untouched."""
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
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
    """A table to stdout; columns of numbers are aligned to the right."""
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    shown = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE)
    for name, right in zip(head, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
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
            yield lambda now: bar.update(
                handle,
                description=label if now.stage == "task" else f"{label} ({now.stage})",
                total=now.steps,
                completed=now.step,
                figures=_summary(now),
            )
    else:
        yield _lines(label)


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


def check_tensorboard(folder: Path | None) -> None:
    """Refuse logs that would fail at the first step of a run.

    Raises:
        MissingPackageError: tensorboard is wanted and missing.
    """
    if folder is not None:
        check_package("tensorboard", "`--log-dir`")


@contextmanager
def logged(
    on_progress: OnProgress, name: str, folder: Path | None, file: Path | None
) -> Iterator[OnProgress]:
    """A progress callback that also writes logs.

    Args:
        on_progress: the callback without logs.
        name: of the task; its events lie in a folder of that name.
        folder: for TensorBoard, or None.
        file: for lines of JSON, or None.

    Raises:
        ConfigError: a log cannot be written.
    """
    with ExitStack() as stack:
        observers = [on_progress]
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                observers.append(_log_lines(file, name, stack))
            if folder is not None:
                observers.append(_log_events(folder / name, stack))
        except OSError as error:
            raise _no_log(error.filename, error) from error

        def tell(now: Progress) -> None:
            for observer in observers:
                observer(now)

        yield tell


def _log_lines(file: Path, name: str, stack: ExitStack) -> OnProgress:
    """One JSON object a step; NaN and infinity, as in the loss of a run that diverges, become null."""
    stream = file.open("a", encoding="utf-8", buffering=1, newline="\n")
    began = time.monotonic()

    @stack.callback
    def close() -> None:
        with suppress(OSError):  # an error of the last line, which `write` has reported
            stream.close()

    def write(now: Progress) -> None:
        line = {
            "task": name,
            "stage": now.stage,
            "step": now.step,
            "steps": now.steps,
            "seconds": round(time.monotonic() - began, 3),
            "loss": now.loss if math.isfinite(now.loss) else None,
            "metric": now.metric,
            "score": now.value,
            "zeros": None if now.count is None else now.count.zeros,
            "weights": None if now.count is None else now.count.weights,
        }
        try:
            stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _no_log(file, error) from error

    return write


def _no_log(path: Path | str, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write a log at `{path}`: {error.strerror}")


def _log_events(folder: Path, stack: ExitStack) -> OnProgress:
    """Scalars: the loss every step, the metric and the mask whenever they are measured anew."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional

    writer = SummaryWriter(str(folder))
    stack.callback(writer.close)
    last: dict[str, float] = {}

    def write(now: Progress) -> None:
        figures: dict[str, float | None] = {f"{now.stage}/loss": now.loss}
        values = {f"{now.stage}/{now.metric}": now.value}
        if now.count is not None:
            values[f"{now.stage}/zeros"] = now.count.sparsity
            values[f"{now.stage}/bits a weight"] = now.count.entropy_bpp
        figures |= {name: value for name, value in values.items() if last.get(name) != value}
        for name, value in figures.items():
            if value is not None:
                last[name] = value
                writer.add_scalar(name, value, now.step)

    return write


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+" or text in {"", "-"}
