"""A run written down and done again: `--save-config` keeps the whole command, `--config` repeats it.

The file holds the options of the config class at its top level, and under `run` what stands beside them
on the command line: the model, the task, the data, the place. What the new command line says wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from maskpack.compressor.options import RUN, load_options
from maskpack.formats import ConfigError

_OF_ONE_CALL = {
    *("config", "save_config", "dry_run", "json", "quiet", "resume", "replace", "log", "log_dir"),
}
"""What a file does not repeat: how to answer, and whether what is there may be touched."""


def recall(ctx: typer.Context, file: Path | None) -> Path | None:
    """Take from the file's `run` what the command line leaves out; called before all other options.

    Raises:
        ConfigError: `run` is no mapping, or holds what the command does not have.
    """
    if file is None or ctx.resilient_parsing:  # that is: while a shell completes a word
        return file
    run = load_options(file).get(RUN) or {}
    if not isinstance(run, Mapping):
        raise ConfigError(f"`{RUN}` in `{file}` is no mapping")
    names = {str(parameter.name) for parameter in ctx.command.params} - _OF_ONE_CALL
    unknown = sorted(map(str, set(run) - names))
    if unknown:
        raise ConfigError(
            f"`{RUN}` in `{file}` has `{unknown[0]}`, which `compress {ctx.info_name}` does not take",
            f"it takes: {', '.join(sorted(names))}",
        )
    ctx.default_map = {**(ctx.default_map or {}), **run}
    return file


def remembered(ctx: typer.Context, known: set[str]) -> dict[str, Any]:
    """What a command line says beside the options of `known`, as plain YAML values.

    Args:
        ctx: of the call.
        known: names of the config class's fields, which are kept apart, but for what must be given.
    """
    needed = {parameter.name for parameter in ctx.command.params if parameter.required}
    given = {
        name: _plain(value)
        for name, value in ctx.params.items()
        if name not in (known - needed) | _OF_ONE_CALL and value is not None and value is not False
    }
    return dict(sorted(given.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path | Enum):
        return str(value)
    return value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=recall,
        is_eager=True,
        help="YAML file of options, or a whole run of --save-config; the command line wins.",
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option("--save-config", help="Write this run as YAML, to be repeated with --config."),
]
