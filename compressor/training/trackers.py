"""Send the progress of a run to TensorBoard, Weights & Biases or MLflow, through accelerate's trackers.

Nothing leaves the machine unless its user has said so before: Weights & Biases runs offline (`wandb sync` sends later)
and MLflow writes into a database of the folder, where `WANDB_MODE` and `MLFLOW_TRACKING_URI` are not set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskpack.formats import ConfigError
from maskpack.formats.errors import first_line
from maskpack.formats.extras import check_package

if TYPE_CHECKING:  # which imports torch; names of trackers are checked without it
    from maskpack.compressor.training.progress import OnProgress, Progress

PROJECT = "maskpack"
"""Name of the project or experiment under which runs are found."""


def _tensorboard(name: str, folder: Path) -> Any:
    from accelerate.tracking import TensorBoardTracker  # noqa: PLC0415 - optional

    return TensorBoardTracker(name, folder)


def _wandb(name: str, folder: Path) -> Any:
    import wandb  # noqa: PLC0415 - optional
    from accelerate.tracking import WandBTracker  # noqa: PLC0415

    os.environ.setdefault("WANDB_MODE", "offline")
    quiet = wandb.Settings(silent=True)  # it would speak on stdout, which is for data
    return WandBTracker(PROJECT, name=name, dir=str(folder), settings=quiet)


def _mlflow(name: str, folder: Path) -> Any:
    import mlflow  # noqa: PLC0415 - optional
    from accelerate.tracking import MLflowTracker  # noqa: PLC0415

    if "MLFLOW_TRACKING_URI" not in os.environ:
        # its own kind of folder is in maintenance mode, and refused by default
        mlflow.set_tracking_uri(f"sqlite:///{(folder.absolute() / 'mlflow.db').as_posix()}")
    return MLflowTracker(
        PROJECT, logging_dir=(folder.absolute() / "mlruns").as_uri(), run_name=name
    )


TRACKERS: dict[str, Callable[[str, Path], Any]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""Name, which is that of its module -> what makes the tracker from the name of a run and a folder."""

_PACKAGES = {"mlflow": "mlflow-skinny"}  # which lacks only the server


def check_trackers(names: Sequence[str]) -> None:
    """Refuse logs that would fail at the first step of a run.

    Raises:
        ConfigError: a name that is none of a tracker.
        MissingPackageError: its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker `{name}`", f"there are {', '.join(TRACKERS)}")
    for name in names:
        check_package(name, f"`{name}`", package=_PACKAGES.get(name))


@contextmanager
def tracked(
    names: Sequence[str], run: str, folder: Path, options: Mapping[str, Any]
) -> Iterator[OnProgress]:
    """A progress callback that tells trackers of every step: the loss, and the metric and the mask where they are new.

    Args:
        names: keys of `TRACKERS`.
        run: name of the run, such as that of the task.
        folder: where what is logged lies; made if it is not there.
        options: of the run, kept beside its figures.

    Raises:
        ConfigError: a log cannot be written, or a tracker does not start.
    """
    check_trackers(names)
    with ExitStack() as stack:
        opened = [_started(name, run, folder, options, stack) for name in names]
        last: dict[str, float] = {}

        def tell(now: Progress) -> None:
            figures = new_figures(now, last)
            for tracker in opened:
                tracker.log(figures, step=now.step)

        yield tell


def _started(
    name: str, run: str, folder: Path, options: Mapping[str, Any], stack: ExitStack
) -> Any:
    from accelerate import PartialState  # noqa: PLC0415 - keeps imports of those without logs fast

    PartialState()  # trackers ask it which process speaks
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tracker = TRACKERS[name](run, folder)
        tracker.start()
    except OSError as error:
        raise ConfigError(f"cannot write a log at `{error.filename}`: {error.strerror}") from error
    except Exception as error:  # whatever its library raises
        raise ConfigError(
            f"the tracker `{name}` does not start: {first_line(error)}",
            "look at its own settings, or leave it out",
        ) from error

    @stack.callback
    def finish() -> None:
        with suppress(
            Exception
        ):  # the run is done; a log that cannot be closed is no reason to lose it
            tracker.finish()

    if name != "tensorboard":  # whose hyperparameters would be a run of their own beside ours
        tracker.store_init_configuration({key: _plain(value) for key, value in options.items()})
    return tracker


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def new_figures(now: Progress, last: dict[str, float]) -> dict[str, float]:
    """What is logged of a step: the loss always, other figures when they change; `last` is kept up to date.

    >>> from maskpack.compressor.training.progress import Progress
    >>> now = Progress(2, 9, 0.5, "accuracy", 0.75, None)
    >>> seen = {}
    >>> new_figures(now, seen), new_figures(now, seen)
    ({'task/loss': 0.5, 'task/accuracy': 0.75}, {'task/loss': 0.5})
    """
    values: dict[str, float | None] = {f"{now.stage}/{now.metric}": now.value}
    if now.count is not None:
        values[f"{now.stage}/zeros"] = now.count.sparsity
        values[f"{now.stage}/bits a weight"] = now.count.entropy_bpp
    fresh = {name: each for name, each in values.items() if each is not None}
    fresh = {name: each for name, each in fresh.items() if last.get(name) != each}
    last.update(fresh)
    return {f"{now.stage}/loss": now.loss, **fresh}
