"""What is said when the package behind an extra is not installed."""

from __future__ import annotations

import sys
import traceback

import pytest

from maskpack.formats import MissingPackageError, extras
from maskpack.formats.extras import check_package, needed_for
from maskpack.formats.lazy import LazyTable, lazy_names

METADATA = [
    "numpy>=2.0",
    'absent-package<3,>=2.9; extra == "fit"',
    'maskpack[fit]; extra == "export"',
    "other_one>=1; python_version < '3.12' and extra == 'some-graphs'",
    'absent-package>=1; extra == "dev"',
    'for_developers>=1; extra == "dev"',
]


@pytest.fixture(autouse=True)
def metadata(monkeypatch):
    monkeypatch.setattr(extras, "requires", lambda name: METADATA if name == "maskpack" else None)


@pytest.mark.parametrize(
    ("module", "package", "install"),
    [
        ("absent_package", "absent-package", '"maskpack[fit]"'),
        ("other_one", "other_one", '"maskpack[some-graphs]"'),
        ("numpy", "numpy", "maskpack"),
    ],
)
def test_the_error_names_package_and_extra_and_is_an_import_error(module, package, install):
    with pytest.raises(MissingPackageError) as caught, needed_for("`this`"):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert str(caught.value) == f"`this` needs the package {package}, which is not installed"
    assert caught.value.hint == f"pip install {install}"
    assert isinstance(caught.value, ImportError)
    assert f"hint: pip install {install}\n" in traceback.format_exception(caught.value)[-1]


@pytest.mark.parametrize("module", ["for_developers", "absent_package.inner", "sympy", "maskpack"])
def test_a_module_that_no_extra_brings_is_somebody_elses_error(module):
    with pytest.raises(ModuleNotFoundError) as caught, needed_for("`this`"):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert not isinstance(caught.value, MissingPackageError)


def test_a_package_is_looked_for_without_importing_it():
    with pytest.raises(MissingPackageError, match="`--log` needs the package absent-package"):
        check_package("absent_package", "`--log`")
    assert "absent_package" not in sys.modules
    check_package("numpy", "`--log`")


def test_a_public_name_and_an_entry_of_a_registry_say_it(tmp_path, monkeypatch):
    (tmp_path / "heavy_home.py").write_text("import absent_package\nname = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = LazyTable(int8="heavy_home:name")
    with pytest.raises(MissingPackageError, match="^`int8` needs the package absent-package"):
        table["int8"]
    look_up = lazy_names("own", {}, {"name": ("heavy_home", "name")})
    with (
        pytest.warns(DeprecationWarning, match="own.name"),
        pytest.raises(MissingPackageError, match=r"^`heavy_home\.name` needs the package"),
    ):
        look_up("name")
