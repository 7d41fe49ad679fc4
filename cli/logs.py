"""A run's figures for other tools: TensorBoard's event files, or a line of JSON a step."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskpack.formats import ConfigError

if TYPE_CHECKING:
    from maskpack.compressor.training.progress import Progress

    OnProgress = Callable[[Progress], None]

LogDir = Annotated[
    Path | None,
    typer.Option("--log-dir", help="Write events for TensorBoard into this folder."),
]
LogFile = Annotated[
    Path | None, typer.Option("--log", help="Append a line of JSON a step to this file.")
]


def check_tensorboard(folder: Path | None) -> None:
    """Refuse before a run what would fail at its first step.

    Raises:
        ConfigError: tensorboard is wanted and missing.
    """
    if folder is not None and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "`--log-dir` needs the package tensorboard", "pip install 'maskpack[logs]'"
        )


@contextmanager
def logged(
    on_progress: OnProgress, name: str, folder: Path | None, file: Path | None
) -> Iterator[OnProgress]:
    """An observer that also writes logs.

    Args:
        on_progress: the observer as it was.
        name: of the task; its events lie in a folder of that name.
        folder: for TensorBoard, or None.
        file: for lines of JSON, or None.

    Raises:
        ConfigError: a log cannot be written.
    """
    with ExitStack() as stack:
        watchers = [on_progress]
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                watchers.append(_lines(file, name, stack))
            if folder is not None:
                watchers.append(_events(folder / name, stack))
        except OSError as error:
            raise _no_log(error.filename, error) from error

        def tell(now: Progress) -> None:
            for watcher in watchers:
                watcher(now)

        yield tell


def _lines(file: Path, name: str, stack: ExitStack) -> OnProgress:
    """One JSON object a step; what is no number, as the loss of a run that diverges, is null."""
    stream = file.open("a", encoding="utf-8", buffering=1)
    began = time.monotonic()

    @stack.callback
    def close() -> None:
        with suppress(OSError):  # the last line, of which `write` has told
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


def _no_log(place: Path | str, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write a log at `{place}`: {error.strerror}")


def _events(folder: Path, stack: ExitStack) -> OnProgress:
    """Scalars: the loss every step, the metric and the mask whenever they are measured anew."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional

    writer = SummaryWriter(str(folder))
    stack.callback(writer.close)
    last: dict[str, float] = {}

    def write(now: Progress) -> None:
        figures: dict[str, float | None] = {f"{now.stage}/loss": now.loss}
        told = {f"{now.stage}/{now.metric}": now.value}
        if now.count is not None:
            told[f"{now.stage}/zeros"] = now.count.sparsity
            told[f"{now.stage}/bits a weight"] = now.count.entropy_bpp
        figures |= {name: value for name, value in told.items() if last.get(name) != value}
        for name, value in figures.items():
            if value is not None:
                last[name] = value
                writer.add_scalar(name, value, now.step)

    return write
