"""Options as YAML files, in and out. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from maskpack.formats import ConfigError
from maskpack.formats.options import Options

UNREADABLE = (OSError, ValueError, RecursionError, yaml.YAMLError)
"""What reading YAML raises. ValueError: no UTF-8, a date of a 13th month, a number of thousands of digits."""

RUN = "run"
"""Key of what a file of options says beside them: model, task, data."""


def load_options(path: Path) -> dict[str, Any]:
    """Options from a YAML file: a mapping of names to values. Inverse of `save_options`.

    Raises:
        ConfigError: no such file, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise ConfigError(f"cannot read the options in `{path}`: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"`{path}` does not hold a mapping of options")
    return {str(key).replace("-", "_"): value for key, value in tree.items()}


def save_options(path: Path, config: Options, run: Mapping[str, Any] | None = None) -> None:
    """Write all options, defaults included, as YAML that `load_options` reads.

    Args:
        path: file to write.
        config: the options.
        run: what stands beside them on the command line, or None.
    """
    tree = {key: str(v) if isinstance(v, StrEnum) else v for key, v in asdict(config).items()}
    if run is not None:
        tree[RUN] = dict(run)
    try:
        path.write_bytes(yaml.safe_dump(tree, sort_keys=True).encode())
    except OSError as error:
        raise ConfigError(f"cannot write `{path}`: {error.strerror}") from error
