"""`--data` of commands that several tasks take part in: `PATH`, or `TASK=PATH` for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from maskpack.formats import ConfigError, DataError


def data_by_task(given: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    """Task -> where its data lies, from `PATH` or `TASK=PATH` texts.

    A path that is there is a path, even if it holds an equals sign.

    Args:
        given: values of `--data`.
        tasks: names of the tasks at hand; a bare path is that of the only one.

    Raises:
        ConfigError: a bare path among several tasks, a task that is not at hand or named twice.
        DataError: nothing lies there.
    """
    found: dict[str, Path] = {}
    for text in given:
        task, place = _parted(text, tasks)
        if task in found:
            raise ConfigError(
                f"`--data` names `{task}` twice: `{found[task].as_posix()}` and `{place.as_posix()}`",
                "one file or folder a task",
            )
        found[task] = place
    return found


def _parted(text: str, tasks: Sequence[str]) -> tuple[str, Path]:
    """The task of one text, and its place."""
    task, equals, path = text.partition("=")
    if not equals or _is_there(text):
        if len(tasks) != 1:
            raise ConfigError(
                f"`--data {text}` does not say of which task it is",
                f"give `--data TASK=PATH`; tasks: {', '.join(tasks)}",
            )
        task, path = tasks[0], text
    elif task not in tasks:
        close = get_close_matches(task, tasks, n=1)
        raise ConfigError(
            f"`--data {text}`: there is no task `{task}` here, and no such file or folder",
            f"{f'did you mean `{close[0]}`? ' if close else ''}tasks: {', '.join(tasks)}",
        )
    if not path:
        raise ConfigError(f"`--data {text}` has no path", f"like `--data {task}=rows.csv`")
    if not _is_there(path):
        raise DataError(
            f"no such file or folder: `{path}`", f"`--data {text}` was to be that of `{task}`"
        )
    return task, Path(path)


def _is_there(path: str) -> bool:
    """Whether it names a data set of the Hub, or something on disk."""
    from maskpack.compressor.data.hub import is_hub  # noqa: PLC0415 - keeps --help fast

    place = Path(path)
    return is_hub(place) or place.exists()
