"""The product's folders and modules, as pyproject.toml maps them to packages."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FLOORS = tuple(PROJECT["tool"]["setuptools"]["package-dir"].values())
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """A module's syntax tree. Parsing all of them takes a second, and several tests look at each."""
    return ast.parse(path.read_text(encoding="utf-8"))
