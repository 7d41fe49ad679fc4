"""What all option classes share: checks of a field, mappings in and out, YAML. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import yaml

from maskpack.formats import ConfigError

RUN = "run"
"""Key of what a file of options says beside them: model, task, data."""

_PLACES = {"teacher", "calibration"}  # options that name a place on this machine


@dataclass(frozen=True)
class Options:
    """A frozen set of options, each field checked on creation."""

    def sha256(self) -> str:
        """Digest of all options: a checkpoint belongs to one set of them."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """All options for a result or a manifest: of a local file or folder only its last name."""
        tree = asdict(self)
        for name in _PLACES & tree.keys():
            tree[name] = None if tree[name] is None else Path(tree[name]).name
        return tree

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """Options from a mapping; absent ones keep their default.

        Raises:
            ConfigError: an option that does not exist, or a value of the wrong type or range.
        """
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(tree) - known)
        if unknown:
            raise ConfigError(f"no option `{unknown[0]}`", f"options: {', '.join(sorted(known))}")
        try:
            return cls(**tree)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"an option has a wrong value: {error}") from error


def load_options(path: Path) -> dict[str, Any]:
    """Options from a YAML file: a mapping of names to values. Inverse of `save_options`.

    Raises:
        ConfigError: no such file, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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


def check_whole(config: object, *names: str) -> None:
    """Raise ConfigError unless each of these fields is a whole number or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"`{name}` is {value!r}, expected a whole number")


def check_positive(config: object, *names: str) -> None:
    """Raise ConfigError unless each of these fields is a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ConfigError(f"`{name}` is {value!r}, expected a number above 0")


def check_share(config: object, *names: str) -> None:
    """Raise ConfigError unless each of these fields is a share below 1."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"`{name}` is {value}, expected a share in [0, 1)")


def given(config: object, *names: str) -> list[str]:
    """Those of `names` that are not None."""
    return [name for name in names if getattr(config, name) is not None]
