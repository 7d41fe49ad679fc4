"""What Windows and macOS do otherwise with files, simulated: renames, locks, names, maps."""

from __future__ import annotations

import ast
import fcntl
import mmap
import os
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from formats_kit import make_artifact, make_entry, make_patch

from maskpack.formats import ArtifactError, add_task, check_artifact, files, open_artifact, reader
from maskpack.formats.algebra import merge_tasks, pack_task, remove_task, rename_task, unpack_task
from maskpack.formats.files import lock, name_key, name_problem, rename, scratch_folder
from maskpack.formats.schema import check_new_name, check_task_name
from maskpack.formats.writer import locked, new_folder, write_bytes

ROOT = Path(__file__).parents[2]
FLOORS = (
    *("formats", "models", "hub", "runtime", "tasks"),
    *("compressor", "exporters", "report", "cli"),
)


class Msvcrt:
    """Windows's lock of a byte, by flock: it never waits and refuses with EACCES."""

    LK_NBLCK = 2

    def __init__(self):
        self.places = []

    def locking(self, file, mode, count):
        assert (mode, count) == (self.LK_NBLCK, 1)
        self.places.append(os.lseek(file, 0, os.SEEK_CUR))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None


@pytest.fixture
def windows(monkeypatch):
    """Windows as far as `files.py` asks for it; its lock."""
    msvcrt = Msvcrt()
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(files, "msvcrt", msvcrt, raising=False)
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(files, "_POLL", 0.01)
    return msvcrt


def refusing(monkeypatch, refuse):
    """Let renames fail, as Windows does, while `refuse(target)`; the targets that were tried."""
    real, tried = os.replace, []

    def replaced(source, target):
        tried.append(Path(target))
        if refuse(Path(target)):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    return tried


@pytest.mark.usefixtures("windows")
def test_a_rename_that_is_refused_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    tried = refusing(monkeypatch, lambda _: len(tried) < 3)
    write_bytes(path, b"new")
    assert (path.read_bytes(), len(tried)) == (b"new", 3)


@pytest.mark.usefixtures("windows")
def test_a_rename_that_stays_refused_is_an_error_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    refusing(monkeypatch, lambda _: True)
    with pytest.raises(ArtifactError, match="cannot write .* Permission denied"):
        write_bytes(path, b"new")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("x", b"old")]


def test_elsewhere_a_refusal_is_final(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"new")
    tried = refusing(monkeypatch, lambda _: True)
    with pytest.raises(PermissionError):
        rename(tmp_path / "x", tmp_path / "y")
    assert len(tried) == 1


@pytest.mark.usefixtures("windows")
def test_a_map_that_only_a_cycle_holds_is_let_go(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with path.open("rb") as file:
        held = SimpleNamespace(map=mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    held.itself, alive = held, weakref.ref(held.map)
    del held
    refusing(monkeypatch, lambda _: alive() is not None)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_new_folder_takes_the_place_of_an_empty_one_where_a_rename_does_not(
    tmp_path, monkeypatch
):
    refusing(monkeypatch, Path.is_dir)
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as build:
        (build / "x").write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/x").read_bytes() == b"1"


@pytest.fixture(params=["here", "windows"])
def system(request):
    return request.param == "windows" and request.getfixturevalue("windows")


def test_a_lock_keeps_others_off_until_the_file_is_closed(tmp_path, system):
    first, second = (os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert lock(first, wait=False)
    assert not lock(second, wait=False)
    os.close(first)
    assert lock(second, wait=True)
    os.close(second)
    if system:
        assert min(system.places) == 1 << 30  # behind what others read


def test_a_lock_is_waited_for(tmp_path, windows, monkeypatch):
    first, second = (os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert lock(first, wait=True)
    monkeypatch.setattr(files, "time", SimpleNamespace(sleep=lambda _: os.close(first)))
    assert lock(second, wait=True)
    os.close(second)
    assert len(windows.places) == 3


def test_an_artifact_is_locked_by_a_file_where_folders_cannot_be_opened(tmp_path, windows):
    folder = make_artifact(tmp_path / "artifact").path
    with locked(folder):
        other = os.open(folder / ".lock", os.O_RDWR)
        assert not lock(other, wait=False)
        os.close(other)
    patch = make_patch(1)
    add_task(folder, make_entry("second", patch), patch)
    assert windows.places
    assert check_artifact(folder) == []


def test_patches_are_read_and_not_mapped_where_a_map_keeps_a_file(tmp_path, monkeypatch):
    folder = make_artifact(tmp_path / "artifact").path
    mapped = []
    real = mmap.mmap
    monkeypatch.setattr(
        reader.mmap, "mmap", lambda *args, **kwargs: mapped.append(1) or real(*args, **kwargs)
    )
    here = open_artifact(folder).patch("first").count
    assert len(mapped) == 2
    monkeypatch.setattr(reader, "sys", SimpleNamespace(platform="win32"))
    assert open_artifact(folder).patch("first").count == here
    assert len(mapped) == 3  # the backbone, once more


def test_a_scratch_folder_goes_even_if_a_file_in_it_does_not(tmp_path, monkeypatch):
    real = os.unlink

    def kept(path, **kwargs):
        if Path(path).name == "mapped":
            raise PermissionError(13, "Permission denied")
        real(path, **kwargs)

    with scratch_folder("x-", tmp_path) as folder:
        (Path(folder) / "mapped").write_bytes(b"1")
        monkeypatch.setattr(os, "unlink", kept)
    assert [path.name[:2] for path in tmp_path.iterdir()] == ["x-"]


@pytest.mark.parametrize("name", ["con", "nul.tsv", "aux.safetensors", "com1", "lpt9.x", "x."])
def test_a_task_that_is_no_file_on_windows_is_not_written(tmp_path, name, monkeypatch):
    assert check_task_name(name) == name  # what is there already is read
    patch, entry = make_patch(1), make_entry(name, make_patch(1))
    folder = make_artifact(tmp_path / "artifact").path
    packed = pack_task(open_artifact(folder), "first")
    for write in (
        lambda: check_new_name(name),
        lambda: add_task(folder, entry, patch),
        lambda: rename_task(folder, "first", name),
        lambda: unpack_task(folder, packed, name=name),
        lambda: make_artifact(tmp_path / "other", name),
    ):
        with pytest.raises(ArtifactError, match=f"`{name}` cannot name a task: Windows takes no"):
            write()
    assert set(open_artifact(folder).manifest.tasks) == {"first"}
    assert not (tmp_path / "other").exists()


def test_an_older_artifact_with_such_a_task_is_read_renamed_and_not_merged(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("maskpack.formats.schema.name_problem", lambda _: None)
        folder = make_artifact(tmp_path / "old", "con").path
    assert check_artifact(folder) == []
    other = remove_task(make_artifact(tmp_path / "new").path, "first").path
    with pytest.raises(ArtifactError, match="`con` cannot name a task"):
        merge_tasks(other, open_artifact(folder))
    rename_task(folder, "con", "console")
    assert set(merge_tasks(other, open_artifact(folder)).manifest.tasks) == {"console"}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", "b", "a/b", "console", "com10", "prn-x", "a.b"], None),
        (["same", "same"], None),
        (["A", "a"], "`A` and `a` are one file on macOS and Windows"),
        (["x/É", "x/e\u0301"], "are one file on macOS and Windows"),
        (["stra\u00dfe", "STRASSE"], "are one file on macOS and Windows"),
        (["x/NUL"], "Windows takes no file `NUL`"),
        (["aux/x"], "Windows takes no file `aux`"),
        (["COM1 .txt"], "Windows takes no file"),
        (["x /y"], "Windows takes no file `x `"),
        (["a:b"], "Windows takes no file `a:b`"),
        (["a\\b"], "Windows takes no file"),
        (["a\nb"], "Windows takes no file"),
    ],
)
def test_names_that_cannot_lie_side_by_side_everywhere(names, problem):
    found = name_problem(names)
    assert found is problem is None or problem in found


def test_one_key_for_names_that_are_one_file():
    assert name_key("Ärger") == name_key("a\u0308RGER") != name_key("arger")


def test_a_name_in_a_manifest_uses_no_separator_of_this_system(tmp_path):
    artifact = make_artifact(tmp_path / "a")
    assert artifact.entry("first").file == "tasks/first.safetensors"
    with pytest.raises(ArtifactError):
        replace(artifact.entry("first"), file="tasks\\first.safetensors")


def calls():
    """Every call of a method in the product, with its file."""
    for path in (path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", name, node


def test_no_text_of_the_product_depends_on_the_systems_encoding_or_line_ends():
    wrong = []
    for place, name, node in calls():
        given = {keyword.arg for keyword in node.keywords}
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        text = not any(isinstance(mode, str) and "b" in mode for mode in modes)
        writes = any(isinstance(mode, str) and mode in {"w", "a", "x"} for mode in modes)
        if name == "read_text" and node.args == [] and "encoding" not in given:
            wrong.append(place)
        if name == "write_text" and not place.startswith("exporters/bench/result.py"):  # to /proc
            wrong.append(place)
        if (
            name == "open"
            and node.args
            and text
            and writes
            and not {"encoding", "newline"} <= given
        ):
            wrong.append(place)
        if name == "run" and {"text", "universal_newlines"} & given and "encoding" not in given:
            wrong.append(place)
    assert wrong == []


def test_renames_of_the_product_go_through_one_function():
    wrong = [
        place
        for place, name, node in calls()
        if name in {"rename", "replace"}
        and isinstance(node.func, ast.Attribute)
        and len(node.args) == 1
        and not node.keywords
        and not place.startswith("formats/files.py")
    ]
    assert wrong == []
