"""`compress doctor`: everything is tried, the first fault is said with a hint, and torch is not needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from maskpack.tasks import diagnose


@pytest.fixture(scope="module")
def graph(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("doctor") / "graph"
    tolerance = Tolerance.of("fp32")
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, "fp32", tolerance, verify=False))
    return out


@pytest.fixture
def place(work, tiny_artifact, graph):
    """The current folder with an artifact and an export to spoil."""
    shutil.copytree(tiny_artifact, work / "art")
    shutil.copytree(graph, work / "graph")
    return work


def state(outcome):
    return {check["what"]: (check["ok"], check["found"]) for check in outcome.json["checks"]}


@pytest.mark.parametrize(("path", "said"), [("art", "answers in torch"), ("graph", "answers `")])
def test_what_works_is_said_to_work(main, place, snapshot, path, said):
    before = snapshot(place)
    found = main("doctor", path, "--json")
    assert found.code == 0, found.out + found.err
    checks = state(found)
    assert checks["maskpack"] == (True, version("maskpack"))
    assert checks["torch"] == (True, version("torch"))
    assert said in checks["task sst2"][1]
    assert {"python", "onnxruntime", "system", "processor", "free disk"} < set(checks)
    assert snapshot(place) == before
    shown = main("doctor", path)
    assert shown.code == 0
    assert "task sst2" in shown.out


def test_the_installation_alone_is_looked_at(main, work):
    found = main("doctor", "--json")
    assert (found.code, found.json["path"]) == (0, None)


def spoil(place, file):
    path = place / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize(
    ("file", "what", "hint"),
    [
        ("art/backbone.safetensors", "digests", "`compress check` lists all that is wrong"),
        ("art/maskpack.json", "manifest", "restore the artifact"),
        ("graph/model.onnx", "task sst2", "export the task again"),
        ("graph/tokenizer.json", "task sst2", "export the task again"),
        ("graph/task.json", "exported tasks", "give the folder"),
    ],
)
def test_the_first_fault_is_said_with_a_hint(main, place, file, what, hint):
    spoil(place, file)
    found = main("doctor", file.partition("/")[0])
    assert found.code == 1
    assert found.err.startswith(f"error: {what}: ")
    assert hint in found.err
    assert "Traceback" not in found.err
    told = main("doctor", file.partition("/")[0], "--json").json
    first = next(check for check in told["checks"] if check["ok"] is False)
    assert (first["what"], told["ok"]) == (what, False)
    assert hint in first["hint"]


def test_a_feature_of_a_later_release_is_named(main, place):
    path = place / "art" / "maskpack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "requires": ["telepathy"]}))
    found = main("doctor", "art")
    assert found.code == 1
    assert "telepathy" in found.err


def test_what_is_neither_is_named(main, place):
    (place / "void").mkdir()
    found = main("doctor", "void")
    assert (found.code, "no exported task at `void`" in found.err) == (1, True)


def test_a_full_disk_is_a_fault(place, monkeypatch):
    usage = SimpleNamespace(total=9e9, used=9e9, free=1e6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    wrong = diagnose(place / "art").first_wrong
    assert (wrong.what, wrong.found, str(wrong.hint)) == ("free disk", "0.0 GB", "free some space")


def test_an_error_that_nobody_expected_is_reported_and_not_raised(place, monkeypatch):
    def broken(*_args, **_options):
        raise ZeroDivisionError("a library's")

    monkeypatch.setattr("maskpack.tasks.context.restore_task", broken)
    wrong = diagnose(place / "art").first_wrong
    assert (wrong.what, wrong.found) == ("task sst2", "ZeroDivisionError: a library's")
    assert "report it" in str(wrong.hint)


BARE = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from pathlib import Path
from maskpack.tasks import diagnose
for path in sys.argv[1:]:
    print(diagnose(Path(path)).to_json())
"""


def test_it_works_without_torch(place, environment):
    done = subprocess.run(
        [sys.executable, "-c", BARE, "art", "graph"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    artifact, graph = (json.loads(line) for line in done.stdout.splitlines())
    assert artifact["ok"]
    assert graph["ok"]
    last = artifact["checks"][-1]
    assert (last["ok"], last["found"]) == (None, "not tried: torch is not installed")
    assert graph["checks"][-1]["ok"] is True
