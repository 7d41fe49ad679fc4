"""Public names: loaded on first use, so that reading an option imports no framework; and old ones that warn.

An old name warns for one release, then it goes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")
Entry = TypeVar("Entry")


def lazy_names(
    package: str, homes: Mapping[str, str], moved: Mapping[str, tuple[str, str]]
) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        homes: public name -> module of the package that defines it.
        moved: name that another package has now -> its module and name there; it warns for one
            release, then it goes.
    """

    def look_up(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in moved:
            module, now = moved[name]
            _warn(f"{package}.{name}", f"{module}.{now}")
            return getattr(importlib.import_module(module), now)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


class LazyTable(dict[str, Any], Generic[Entry]):
    """A registry whose entries may be named as `module:name`; such an entry is loaded when it is asked for."""

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name."""
        value: Entry | str = super().__getitem__(name)
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            self[name] = getattr(importlib.import_module(module), attribute)
        entry: Entry = super().__getitem__(name)
        return entry


def renamed(old: str, new: str) -> Any:
    """A property that gives the attribute or method of the new name, and warns."""

    def look_up(self: object) -> Any:
        _warn(old, new)
        return getattr(self, new)

    return property(look_up)  # without a docstring: the page of the API leaves it out


def renamed_argument(
    old: str, new: str
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Lets a function take an argument under its old name as well, with a warning."""

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        @wraps(function)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            if old in kwargs:
                _warn(old, new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def _warn(old: str, new: str) -> None:
    said = f"`{old}` is `{new}` now; the old name goes in release 0.3"
    warnings.warn(said, DeprecationWarning, stacklevel=3)
