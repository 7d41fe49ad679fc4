"""Public names of a package that are loaded on first use, so that reading an option imports no framework."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Moved = Mapping[str, tuple[str, str]]
"""Old name -> module and name that replace it."""


def lazy_names(package: str, homes: Mapping[str, str], moved: Moved) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        homes: public name -> module of the package that defines it.
        moved: names that other packages have now; they warn for one release, then they go.
    """

    def look_up(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in moved:
            module, now = moved[name]
            said = f"`{package}.{name}` is `{module}.{now}` now; the old name goes in release 0.3"
            warnings.warn(said, DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(module), now)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up
