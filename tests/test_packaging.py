"""What a user gets: the package list, and a wheel that works without the heavy dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def folders_with_code(root: Path) -> dict[str, Path]:
    """Import name -> folder, for every package under the mapped roots."""
    found = {}
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (root / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(root / folder).parts
            found[".".join([package, *inner])] = init.parent
    return found


def test_every_package_is_listed_and_every_listed_package_is_there():
    assert sorted(folders_with_code(ROOT)) == sorted(SETUPTOOLS["packages"])


def test_no_module_lies_in_a_folder_that_is_no_package():
    for folder in SETUPTOOLS["package-dir"].values():
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


def test_every_root_says_that_it_is_typed():
    for folder in SETUPTOOLS["package-dir"].values():
        assert (ROOT / folder / "py.typed").is_file(), folder


def test_both_scripts_start_at_a_function_that_is_there():
    from maskpack.cli import app

    scripts = PROJECT["project"]["scripts"]
    assert scripts == dict.fromkeys(["compress", "maskpack"], "maskpack.cli.app:main")
    assert callable(app.main)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that nothing is left beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    unwanted = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    for folder in SETUPTOOLS["package-dir"].values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def in_wheel(package: str, folder: Path, pattern: str) -> set[str]:
    """Where the wheel must hold the files of one package folder."""
    place = package.replace(".", "/")
    return {f"{place}/{path.relative_to(folder)}" for path in folder.glob(pattern)}


def test_the_wheel_holds_every_module_and_type_marker(names):
    for package, folder in folders_with_code(ROOT).items():
        wanted = in_wheel(package, folder, "*.py") | in_wheel(package, folder, "py.typed")
        assert wanted
        assert wanted <= names, wanted - names


def test_the_wheel_holds_the_specification_and_the_sample_tasks(names):
    assert "maskpack/formats/SPEC.md" in names
    samples = in_wheel("maskpack.tasks", ROOT / "tasks", "samples/*/*.tsv")
    assert len(samples) == 4  # two tasks, two splits
    assert samples <= names


def test_the_wheel_holds_the_examples_of_packages(names):
    templates = in_wheel("maskpack.exporters.package", ROOT / "exporters/package", "templates/*")
    assert len(templates) == 7
    assert templates <= names


def test_the_wheel_holds_the_page_of_reports(names):
    templates = in_wheel("maskpack.report", ROOT / "report", "templates/*")
    assert "maskpack/report/templates/report.html" in templates
    assert len(templates) == 14
    assert templates <= names


def test_the_wheel_holds_nothing_else(names):
    allowed = (".py", "/py.typed", "/SPEC.md", ".tsv")
    own = ("maskpack/exporters/package/templates/", "maskpack/report/templates/")
    names = {name for name in names if not name.startswith(own)}
    odd = [n for n in names if ".dist-info/" not in n and not n.endswith(allowed)]
    assert odd == []
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"maskpack"}
    assert "maskpack/__init__.py" not in names  # four roots share the name


def test_the_wheel_names_licence_scripts_and_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {
            n.split("/", 1)[1]: archive.read(n).decode()
            for n in archive.namelist()
            if ".dist-info/" in n
        }
    assert "compress = maskpack.cli.app:main" in held["entry_points.txt"]
    assert "Requires-Python: >=3.11" in held["METADATA"]
    assert "License-Expression: Apache-2.0" in held["METADATA"]
    assert "licenses/LICENSE" in held


WITHOUT_FRAMEWORKS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv.pop(1))
from maskpack.cli import app
print(app.__file__, file=sys.stderr)
app.main()
"""


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"], ["export", "--help"], ["tasks"]])
def test_the_wheels_command_line_answers_without_torch(wheel, tmp_path, args):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, str(tmp_path / "site"), *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == str(tmp_path / "site/maskpack/cli/app.py")
    assert len(done.stdout.splitlines()) > 5
