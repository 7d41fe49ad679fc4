"""Packages that only an extra brings: an import of one that is missing becomes an error that names the extra.

Which extra brings a package is read from the metadata of the installed maskpack: no table repeats pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires

from maskpack.formats.errors import MissingPackageError

_OWN = "maskpack"
_DEVELOPERS = "dev"  # repeats what other extras bring
_REQUIREMENT = re.compile(r"([\w.-]+)(?:.*\bextra\s*==\s*['\"]([\w-]+)['\"])?")


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Name the extra where the import of a package fails.

    Args:
        what: needs the package, such as "`lora`".

    Raises:
        MissingPackageError: a package that maskpack or an extra asks for is not installed. Any other
            module that is missing is no choice of the user's, and its error passes.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_package(what, error.name or "")
        if missing is None:
            raise
        raise missing from error


def missing_package(what: str, module: str) -> MissingPackageError | None:
    """The error for a module that `what` needs; None if neither maskpack nor an extra asks for its package."""
    found = _requirement(module)
    if found is None:
        return None
    package, install = found
    missing = MissingPackageError(
        f"{what} needs the package {package}, which is not installed", f"pip install {install}"
    )
    missing.add_note(f"hint: {missing.hint}")  # a traceback shows it too
    return missing


def check_package(module: str, what: str, *, package: str | None = None) -> None:
    """Raise MissingPackageError before a run, where the import would fail at its end.

    Args:
        module: that is imported.
        what: needs it.
        package: that brings it, if it has another name.
    """
    with needed_for(what):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=package or module)


def _requirement(module: str) -> tuple[str, str] | None:
    """The package that brings a module, and what to install; None if maskpack does not ask for it.

    A module inside a package (`torch.new`) is never missing for want of the package. Every shell knows double quotes, cmd.exe no others.
    """
    for line in requires(_OWN) or ():
        match = _REQUIREMENT.match(line)
        assert match is not None, line
        package, extra = match.groups()
        if _normal(package) == _normal(module) and package != _OWN and extra != _DEVELOPERS:
            return package, _OWN if extra is None else f'"{_OWN}[{extra}]"'
    return None


def _normal(name: str) -> str:
    """As package indexes compare names; a module's name is its package's with `_` for `-`."""
    return re.sub(r"[-_]+", "-", name).lower()
