"""Which task a call means, and where its data lies. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maskpack.cli import render
from maskpack.formats import ConfigError, DataError

if TYPE_CHECKING:
    from maskpack.formats import Artifact
    from maskpack.tasks.options import TaskOptions
    from maskpack.tasks.task import Task


def find_named_task(
    name: str | None, data: Path | None, columns: TaskOptions, *, quiet: bool
) -> Task:
    """The task that a call names, or one over columns of the user's own data.

    Args:
        name: of the task; None takes the name of the data.
        data: where the rows are. It is looked into for columns where the call gives none.
        columns: what the call says of columns, labels and metric.
        quiet: do not say which columns are taken.
    """
    from maskpack.tasks.data.columns import Said, task_of_said  # noqa: PLC0415 - keeps --help fast

    said = Said(name or _name_of(data), name is not None, data, columns)
    with render.hushed() if quiet else nullcontext():
        return task_of_said(said)


def _name_of(data: Path | None) -> str:
    """A task's name from the name of its data: `data/Tickets 2024.csv.gz` is `tickets-2024`."""
    if data is None:
        raise typer.BadParameter(
            "Missing option '--task': without --data, give a task that `compress tasks` lists"
        )
    last = data.name.removeprefix("hub:").split(":")[0].split(".")[0]
    name = re.sub(r"[^a-z0-9_-]+", "-", last.casefold()).strip("-_")[:64]
    if not name:
        raise ConfigError(f"`{data}` gives the task no name", "name it with `--task`")
    return name


def only_task(artifact: Artifact, named: str | None, *, more: str = "") -> str:
    """The task that a call names, or the only one of an artifact.

    Args:
        artifact: where it is.
        named: by the call.
        more: what else the hint says where several are there.

    Raises:
        ConfigError: none is named of several, or there is none.
        ArtifactError: there is no task of that name.
    """
    have = sorted(artifact.manifest.tasks)
    if named is None and len(have) != 1:
        fact = (
            f"several tasks are in `{artifact.path}`" if have else f"`{artifact.path}` has no task"
        )
        known = f"name one with `--task`: {', '.join(have)}{more}"
        raise ConfigError(fact, known if have else "learn one with `compress fit`")
    return artifact.entry(have[0] if named is None else named).name


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
    from maskpack.tasks.data.hub import is_hub  # noqa: PLC0415 - keeps --help fast

    place = Path(path)
    return is_hub(place) or place.exists()
