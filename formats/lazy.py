"""Public names and entries of registries, loaded on first use: reading an option imports no framework.

An old name warns for one release, then it goes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from maskpack.formats.errors import ConfigError
from maskpack.formats.extras import needed_for

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
            return _load(f"{package}.{homes[name]}", name, f"`{package}.{name}`")
        if name in moved:
            module, now = moved[name]
            _warn(f"{package}.{name}", f"{module}.{now}")
            return _load(module, now, f"`{module}.{now}`")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


class LazyTable(MutableMapping[str, Entry]):
    """A registry whose entries may be given as `module:name`; such an entry is loaded on first use.

    Args:
        **entries: name -> where its entry is defined.
    """

    def __init__(self, **entries: str) -> None:
        self._entries: dict[str, Entry | str] = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name."""
        value = self._entries[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            self._entries[name] = value = _load(module, attribute, f"`{name}`")
        return cast("Entry", value)

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without loading it


class NamesAfter(Collection[str]):
    """A name, and then those of a registry, which may grow.

    >>> table = LazyTable(a="x:A")
    >>> names = NamesAfter("auto", table)
    >>> table["b"] = 1
    >>> list(names), "b" in names, len(names)
    (['auto', 'a', 'b'], True, 3)
    """

    def __init__(self, first: str, table: Mapping[str, Any]) -> None:
        self._first, self._table = first, table

    def __contains__(self, name: object) -> bool:
        return name == self._first or name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter((self._first, *self._table))

    def __len__(self) -> int:
        return 1 + len(self._table)


def find_entry(table: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry of a registry.

    Args:
        table: the registry.
        name: of the entry.
        what: word for an entry in messages, such as `layout`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in table:
        raise ConfigError(f"no {what} `{name}`", f"{what}s: {', '.join(table)}")
    return table[name]


def _load(module: str, attribute: str, what: str) -> Any:
    with needed_for(what):
        return getattr(importlib.import_module(module), attribute)


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
