"""What the packages promise: every public name is there, and lives where it is said to live."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["maskpack.formats", "maskpack.tasks", "maskpack.compressor", "maskpack.exporters"]
LAZY = ["maskpack.tasks", "maskpack.compressor", "maskpack.exporters"]


def package(name):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_resolves_and_is_listed_once(name):
    found = package(name)
    assert len(set(found.__all__)) == len(found.__all__) > 5
    for public in found.__all__:
        assert getattr(found, public) is not None, public


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_has_a_home_and_is_defined_there(name):
    found = package(name)
    assert found._HOME.keys() == set(found.__all__)
    for public, home in found._HOME.items():
        module = importlib.import_module(f"{name}.{home}")
        value = getattr(module, public)
        if public != home:  # see the test below
            assert getattr(found, public) is value
        if inspect.isclass(value) or inspect.isfunction(value):
            own = value.__module__ == module.__name__
            assert own or public in getattr(module, "__all__", ()), f"{public} is not of {home}"


@pytest.mark.parametrize("name", ["maskpack.compressor"])
def test_no_submodule_takes_the_place_of_a_public_name(name):
    found = package(name)
    for public, home in found._HOME.items():
        importlib.import_module(f"{name}.{home}")
        assert not inspect.ismodule(getattr(found, public)), public


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_see_the_names_in_the_same_homes(name):
    found = package(name)
    tree = ast.parse(Path(found.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix(f"{name}.")
        for node in block.body
        for alias in node.names
    }
    assert seen == found._HOME


@pytest.mark.parametrize("name", PACKAGES)
def test_public_functions_and_classes_say_what_they_do(name):
    found = package(name)
    for public in found.__all__:
        value = getattr(found, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, public
            assert not value.__doc__.startswith(f"{public}("), f"{public} has no words of its own"


@pytest.mark.parametrize("name", LAZY)
def test_a_name_that_is_not_public_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        package(name).nope  # noqa: B018 - reading it is the test


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_a_package_imports_no_framework(name):
    heavy = ["torch", "transformers", "onnx", "onnxruntime"]
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_error_is_one_of_ours_and_carries_a_hint():
    from maskpack import formats
    from maskpack.formats import errors

    members = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    classes = [value for value in members if issubclass(value, Exception)]
    assert len(classes) == 9
    for kind in classes:
        assert issubclass(kind, formats.MaskpackError)
        assert getattr(formats, kind.__name__) is kind
        problem = kind("fact", "next step")
        assert (str(problem), problem.hint) == ("fact", "next step")
        assert kind("fact").hint is None


def test_an_old_name_gives_the_new_ones_value_and_warns():
    from maskpack.compressor import FitConfig
    from maskpack.tasks import find_task

    with pytest.warns(DeprecationWarning, match="`start` is `score_init` now"):
        assert FitConfig(init="magnitude", sparsity=0.1).start == "magnitude"
    with pytest.warns(DeprecationWarning, match="`judged_by` is `with_metric` now"):
        task = find_task("sst2").judged_by("macro_f1")
    assert task.metric == "macro_f1"


def test_an_old_argument_reaches_the_new_one_and_warns():
    from maskpack.formats.lazy import renamed_argument

    @renamed_argument("observe", "on_progress")
    def run(request: int, *, on_progress: str = "none") -> tuple[int, str]:
        return request, on_progress

    assert run(1) == (1, "none")
    with pytest.warns(DeprecationWarning, match="`observe` is `on_progress` now"):
        assert run(1, observe="told") == (1, "told")


@pytest.mark.parametrize("old", package("maskpack.compressor")._TASKS)
def test_a_name_that_moved_is_found_in_its_old_package_and_warns(old):
    with pytest.warns(DeprecationWarning, match=f"`maskpack.tasks.{old}` now"):
        value = getattr(package("maskpack.compressor"), old)
    assert value is getattr(package("maskpack.tasks"), old)


def test_a_registry_loads_an_entry_however_it_is_asked_for():
    import math

    from maskpack.formats import ConfigError
    from maskpack.formats.lazy import LazyTable, find_entry

    for ask in (lambda t: t["pi"], lambda t: t.get("pi"), lambda t: next(iter(t.values()))):
        assert ask(LazyTable(pi="math:pi")) == math.pi
    table = LazyTable(pi="math:pi", other="no.such.module:name")
    assert (list(table), "other" in table, len(table)) == (["pi", "other"], True, 2)
    with pytest.raises(ConfigError, match="no number `e`") as caught:
        find_entry(table, "e", "number")
    assert caught.value.hint == "numbers: pi, other"
