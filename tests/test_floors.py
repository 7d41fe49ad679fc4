"""Guards over the source folders: who imports whom, how long, who prints."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sources import FLOORS, MODULES, PROJECT, ROOT, tree_of

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 40
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]


def lint_imports(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_only_point_down_the_floors():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout


DOWN = "imports only point down the floors"
PLANTED = {
    "exporters/graph/weights.py": ("maskpack.cli.render", DOWN),
    "exporters/session.py": ("maskpack.compressor.types", DOWN),  # siblings: neither sees the other
    "compressor/options.py": ("maskpack.exporters.graph.weights", DOWN),
    "models/linears.py": ("maskpack.hub.remote", DOWN),
    "tasks/batches.py": ("maskpack.compressor.options", DOWN),
    "report/table.py": ("maskpack.cli.render", DOWN),
    "compressor/training/loss.py": (
        "maskpack.compressor.masking.linear",
        "learning has floors too",
    ),
    "formats/bits.py": ("torch", "formats reads with numpy and safetensors alone"),
    "compressor/masking/linear.py": (
        "onnxruntime",
        "training never sees ONNX or the command line",
    ),
    "exporters/hf.py": ("typer", "graphs never see the command line"),
    "runtime/session.py": ("transformers", "runtime and hub need no extra"),
    "hub/remote.py": ("torch", "runtime and hub need no extra"),
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Contract -> what the linter finds in a copy of the sources in which every import is planted."""
    copy = tmp_path_factory.mktemp("planted")
    for floor in FLOORS:
        shutil.copytree(ROOT / floor, copy / "maskpack" / floor)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for module, (target, _) in PLANTED.items():
        path = copy / "maskpack" / module
        path.write_text(f"{path.read_text()}\n\nimport {target}\n")
    done = lint_imports(copy, PYTHONPATH=str(copy))
    assert done.returncode == 1
    assert f"Contracts: 0 kept, {len(CONTRACTS)} broken." in done.stdout
    _, *sections = re.split(
        rf"^({'|'.join(map(re.escape, CONTRACTS))})\n-+$", done.stdout, flags=re.MULTILINE
    )
    return dict(zip(sections[::2], sections[1::2], strict=True))


@pytest.mark.parametrize("module", PLANTED)
def test_an_import_against_the_floors_is_caught(findings, module):
    target, contract = PLANTED[module]
    name = "maskpack." + module.removesuffix(".py").replace("/", ".")
    assert f"- {name} -> {target}" in findings[contract].replace("-   ", "- ")


def test_the_guards_see_the_sources():
    assert len(MODULES) > 40
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FLOORS)


def test_no_file_is_longer_than_400_lines():
    long = {
        path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_function_is_longer_than_40_lines():
    """Decorators and docstring count; a command is as long as its list of options."""
    from maskpack.cli.app import app

    commands = {
        (Path(inspect.unwrap(info.callback).__code__.co_filename).name, info.callback.__name__)
        for info in app.registered_commands
    }
    long = {}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            lines = node.end_lineno - first + 1
            command = path.parent.name == "cli" and (path.name, node.name) in commands
            if lines > MOST_LINES_OF_A_FUNCTION and not command:
                long[f"{path.relative_to(ROOT)}: {node.name}"] = lines
    assert long == {}


def uses(tree: ast.AST) -> set[str]:
    """Ways to write to the terminal that a module uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in {"print", "pprint"}:
            found.add(node.id)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "sys.stdout",
            "sys.stderr.write",
            "typer.echo",
            "typer.secho",
        }:
            found.add(ast.unparse(node))
    return found


def test_only_one_file_prints():
    printing = {
        str(path.relative_to(ROOT)): found for path in MODULES if (found := uses(tree_of(path)))
    }
    # the second prints nothing: it takes from stdout what threads of Ray print
    assert list(printing) == ["cli/render.py", "compressor/sweep/ray_cluster.py"], printing


def test_a_print_would_be_seen():
    assert uses(ast.parse("def f():\n    print(1)\n    sys.stdout.write('')")) == {
        "print",
        "sys.stdout",
    }
