"""What other tools are told of a run: a line of JSON a step, and the trackers of `--log-to`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskpack.formats.errors import ConfigError

if TYPE_CHECKING:
    from maskpack.compressor.training.progress import Progress

    OnProgress = Callable[[Progress], None]

_FOLDER = Path("logs")


def trackers_of(log_to: str | None, log_dir: Path | None) -> tuple[str, ...]:
    """The trackers that a command line names: a folder alone is TensorBoard's.

    >>> trackers_of("wandb, mlflow", None), trackers_of(None, Path("runs")), trackers_of(None, None)
    (('wandb', 'mlflow'), ('tensorboard',), ())
    """
    if log_to is None:
        return () if log_dir is None else ("tensorboard",)
    return tuple(name.strip() for name in log_to.split(","))


@contextmanager
def logged(
    on_progress: OnProgress,
    name: str,
    *,
    trackers: Sequence[str] = (),
    folder: Path | None = None,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[OnProgress]:
    """A progress callback that also writes logs.

    Args:
        on_progress: the callback without logs.
        name: of the task, which is the run's name.
        trackers: keys of `TRACKERS`.
        folder: what they write into; None: `logs`.
        file: for lines of JSON, or None.
        options: of the run, for trackers.

    Raises:
        ConfigError: a log cannot be written.
    """
    with ExitStack() as stack:
        observers = [on_progress]
        if file is not None:
            observers.append(_log_lines(file, name, stack))
        if trackers:
            from maskpack.compressor.training.trackers import tracked  # noqa: PLC0415 - imports torch

            context = tracked(trackers, name, folder or _FOLDER, options or {})
            observers.append(stack.enter_context(context))

        def tell(now: Progress) -> None:
            for observer in observers:
                observer(now)

        yield tell


def _log_lines(file: Path, name: str, stack: ExitStack) -> OnProgress:
    """One JSON object a step; NaN and infinity, as in the loss of a run that diverges, become null."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a", encoding="utf-8", buffering=1, newline="\n")
    except OSError as error:
        raise _no_log(error.filename, error) from error
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
