"""Writes that fail or are killed: the old artifact or the new one, never half of either."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest
from formats_kit import (
    assert_same_backbone,
    assert_same_patch,
    make_artifact,
    make_backbone,
    make_entry,
    make_patch,
    run,
    start,
    tree,
)

from maskpack.formats import ArtifactError, add_task, check_artifact, open_artifact
from maskpack.formats.writer import new_folder, write_bytes

OPERATIONS = {
    "add": lambda folder: add(folder, "second"),
    "replace": lambda folder: add(folder, "first", replacing=True),
}


@pytest.fixture
def folder(tmp_path):
    """An artifact with the task `first`."""
    return make_artifact(tmp_path / "artifact").path


def add(folder, name, seed=2, **options):
    patch = make_patch(seed)
    return add_task(folder, make_entry(name, patch), patch, **options)


def leftovers(folder):
    """Names of temporary files and folders in and beside an artifact."""
    return [path.name for path in folder.parent.rglob("*") if path.name.startswith(".")]


def assert_sound(folder, old):
    """The artifact is sound and is the old one, or the new one as a whole."""
    assert check_artifact(folder) == []
    artifact = open_artifact(folder)
    assert_same_backbone(artifact.backbone, make_backbone())
    if (folder / "maskpack.json").read_bytes() == old["maskpack.json"]:
        assert list(artifact.manifest.tasks) == ["first"]
        assert_same_patch(artifact.patch("first"), make_patch(0))
        kept = {name: data for name, data in tree(folder).items() if name in old}
        assert {**kept, "README.md": old["README.md"]} == old  # the card may run ahead
    elif "second" in artifact.manifest.tasks:
        assert sorted(artifact.manifest.tasks) == ["first", "second"]
        assert_same_patch(artifact.patch("first"), make_patch(0))
        assert_same_patch(artifact.patch("second"), make_patch(2))
    else:
        assert_same_patch(artifact.patch("first"), make_patch(2))


def fail_at(monkeypatch, name, nth, number=errno.ENOSPC):
    """Let the nth call of an `os` function fail; returns the list of calls."""
    real, calls = getattr(os, name), []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == nth:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, failing)
    return calls


@pytest.mark.parametrize("nth", [1, 3, 5])  # patch, card, manifest; between them the folder
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_leaves_a_sound_artifact_and_no_temporary_file(
    folder, monkeypatch, operation, nth
):
    old = tree(folder)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, "fsync", nth)
        with pytest.raises(ArtifactError, match=r"cannot write .*No space left on device") as got:
            OPERATIONS[operation](folder)
    assert len(calls) == nth
    assert "free space" in got.value.hint
    assert leftovers(folder) == []
    assert_sound(folder, old)
    add(folder, "first" if operation == "replace" else "second", replacing=True)
    assert check_artifact(folder) == []


@pytest.mark.parametrize("nth", [2, 4, 6])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_rename_that_happened_counts_even_if_the_folder_cannot_be_synced(
    folder, monkeypatch, operation, nth
):
    with monkeypatch.context() as patch:
        calls = fail_at(patch, "fsync", nth)
        OPERATIONS[operation](folder)
    assert len(calls) >= nth
    assert check_artifact(folder) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_is_full_at_the_first_byte_changes_nothing(folder, monkeypatch, operation):
    old = tree(folder)
    fail_at(monkeypatch, "fsync", 1)
    with pytest.raises(ArtifactError, match="No space left on device"):
        OPERATIONS[operation](folder)
    assert tree(folder) == old


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refused_rename_leaves_the_old_artifact(folder, monkeypatch, operation, nth):
    old = tree(folder)
    fail_at(monkeypatch, "replace", nth, errno.EACCES)
    with pytest.raises(ArtifactError, match="Permission denied"):
        OPERATIONS[operation](folder)
    assert leftovers(folder) == []
    assert (folder / "maskpack.json").read_bytes() == old["maskpack.json"]
    assert_sound(folder, old)


@pytest.mark.parametrize("nth", [1, 3, 5, 7, 9])
def test_a_disk_full_while_an_artifact_is_made_leaves_nothing(tmp_path, monkeypatch, nth):
    calls = fail_at(monkeypatch, "fsync", nth)
    with pytest.raises(ArtifactError, match=r"cannot write .*No space left on device"):
        make_artifact(tmp_path / "a")
    assert len(calls) == nth
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_folder_whose_making_is_stopped_never_appears(tmp_path, stop):
    def make():
        with new_folder(tmp_path / "a") as build:
            write_bytes(build / "half", b"half")
            raise stop

    with pytest.raises(stop):
        make()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            fail_at(patch, name, 1)
            with pytest.raises(ArtifactError, match=r"cannot write .*file`: No space left"):
                write_bytes(path, b"new")
        assert tree(tmp_path) == {"file": b"old"}
    write_bytes(path, b"new")
    assert tree(tmp_path) == {"file": b"new"}


LIMITED = """
import resource, sys
from pathlib import Path
from formats_kit import make_entry, make_patch, make_artifact
from maskpack.formats import ArtifactError, add_task
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
patch = make_patch(2)
try:
    add_task(folder, make_entry("second", patch), patch)
except ArtifactError as error:
    print(error)
try:
    make_artifact(folder.with_name("new"))
except ArtifactError as error:
    print(error)
"""


def test_a_file_size_limit_leaves_the_old_artifact(folder):
    pytest.importorskip("resource")
    old = tree(folder)
    patch, manifest = len(old["tasks/first.safetensors"]), len(old["maskpack.json"])
    assert patch + 50 < manifest
    for limit, name in ((100, "second.safetensors"), (patch + 50, "README.md")):
        added, made = run(LIMITED, folder, limit).splitlines()
        assert f"{name}`: File too large" in added
        assert "backbone.safetensors`: File too large" in made
        assert leftovers(folder) == []
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
        assert_sound(folder, old)
        assert (folder / "maskpack.json").read_bytes() == old["maskpack.json"]


FORBIDDEN = """
import os, sys
from pathlib import Path
from formats_kit import make_artifact, make_entry, make_patch
from maskpack.formats import ArtifactError, add_task, check_artifact
folder, patch = Path(sys.argv[1]), make_patch(2)
if os.geteuid() == 0:
    try:
        os.setgid(65534)
        os.setuid(65534)
    except OSError:
        sys.exit("cannot become an ordinary user")
for work in (
    lambda: add_task(folder, make_entry("second", patch), patch),
    lambda: add_task(folder, make_entry("first", patch), patch, replacing=True),
    lambda: make_artifact(folder.with_name("new")),
):
    try:
        work()
        print("done")
    except ArtifactError as error:
        print(error)
print(check_artifact(folder))
"""


@pytest.fixture
def open_place():
    """A folder that every user may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_place_without_write_permission_is_left_as_it_is(open_place):
    folder = make_artifact(open_place / "artifact").path
    old, places = tree(open_place), (folder / "tasks", folder, open_place)
    for place in places:
        place.chmod(0o555)
    try:
        process = start(FORBIDDEN, folder)
        out, err = process.communicate(timeout=300)
    finally:
        for place in places:
            place.chmod(0o755)
    if "cannot become an ordinary user" in err:
        pytest.skip("root that cannot change its user")
    assert process.returncode == 0, err
    *refused, findings = out.splitlines()
    assert len(refused) == 3
    assert all("cannot write" in line and "Permission denied" in line for line in refused)
    assert findings == "[]"
    assert tree(open_place) == old


WRITER = """
import sys
from pathlib import Path
from formats_kit import make_entry, make_patch
from maskpack.formats import add_task
folder, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for number in range(8):
    patch = make_patch(number)
    add_task(folder, make_entry(f"{name}{number}", patch), patch)
"""


def test_two_writers_at_once_lose_no_task(folder):
    pytest.importorskip("fcntl")
    writers = [start(WRITER, folder, name) for name in ("a", "b")]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, err = writer.communicate(timeout=300)
        assert writer.returncode == 0, err
    assert check_artifact(folder) == []
    names = {f"{name}{number}" for name in "ab" for number in range(8)}
    assert set(open_artifact(folder).manifest.tasks) == {"first", *names}


# Forks one child a step; a child kills itself before the nth line of writer.py that it runs.
STEPS = """
import json, os, shutil, signal, sys
from pathlib import Path
from formats_kit import make_entry, make_patch
from maskpack.formats import add_task, check_artifact, open_artifact, writer

sound, name, patch = Path(sys.argv[1]), sys.argv[2], make_patch(2)
os.fsync = lambda handle: None  # a kill loses nothing that the system holds; only the order counts

def tasks(folder):
    artifact = open_artifact(folder)
    return {task: artifact.patch(task).count.zeros for task in artifact.manifest.tasks}

def die_at(nth):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename != writer.__file__:
            return None
        if event == "line":
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

for step in range(1, 1000):
    folder = sound.with_name(f"step{step}")
    shutil.copytree(sound, folder)
    child = os.fork()
    if child == 0:
        die_at(step)
        add_task(folder, make_entry(name, patch), patch, replacing=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = [check_artifact(folder), tasks(folder)]
    add_task(folder, make_entry(name, patch), patch, replacing=True)
    print(json.dumps([*found, check_artifact(folder), tasks(folder)]))
    shutil.rmtree(folder)
    if status == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["second", "first"])
def test_a_kill_before_any_line_of_the_writer_leaves_the_old_or_the_new(folder, name):
    old = {"first": make_patch(0).count.zeros}
    new = {**old, name: make_patch(2).count.zeros}
    assert old != new
    states = [json.loads(line) for line in run(STEPS, folder, name).splitlines()]
    assert len(states) > 40
    for findings, tasks, findings_later, tasks_later in states:
        assert findings == findings_later == []
        assert tasks in (old, new)
        assert tasks_later == new
    turns = [one[1] != two[1] for one, two in pairwise(states)]
    assert sum(turns) == 1  # one line makes the new artifact visible


ENDLESS = """
import sys
from pathlib import Path
from formats_kit import make_entry, make_patch
from maskpack.formats import add_task
folder, number = Path(sys.argv[1]), int(sys.argv[2])
while True:
    patch = make_patch(number)
    add_task(folder, make_entry(f"t{number % 3}", patch, value=number), patch, replacing=True)
    print(number, flush=True)
    number += 1
"""


def state_after(number):
    """Task -> seed of its patch, when the endless writer has done `number`."""
    return {"first": 0.5} | {f"t{done % 3}": done for done in range(1, number + 1)}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_at_a_random_moment_leaves_the_old_or_the_new(folder):
    rng, number = random.Random(11), 0
    backbone = (folder / "backbone.safetensors").read_bytes()
    for _ in range(15):
        before = number
        process = start(ENDLESS, folder, number + 1)
        number = int(process.stdout.readline())  # it has done one
        time.sleep(rng.uniform(0.0, 0.06))
        process.kill()
        out, err = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, err
        number = int((out.split() or [number])[-1])
        assert check_artifact(folder) == []
        artifact = open_artifact(folder)
        tasks = artifact.manifest.tasks.items()
        found = {task: entry.scores["accuracy"] for task, entry in tasks}
        assert found in (state_after(number), state_after(number + 1))
        for task, seed in found.items():
            assert_same_patch(artifact.patch(task), make_patch(int(seed)))
        number += found != state_after(number)
        assert (folder / "backbone.safetensors").read_bytes() == backbone
        assert number > before
