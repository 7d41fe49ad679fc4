"""A place that cannot be written, and a disk that is full: said before the work, not after it."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest

from maskpack.formats import MaskpackError
from maskpack.formats import writer as formats_writer


class Usage(NamedTuple):
    total: float
    used: float
    free: float


@pytest.fixture
def place(work, tiny_model, sentiment, tiny_artifact):
    """The current folder with a model, data, an artifact and an export of it."""
    shutil.copytree(tiny_model, work / "model")
    shutil.copytree(sentiment, work / "data")
    shutil.copytree(tiny_artifact, work / "art")
    (work / "sweep.yaml").write_text(
        "models: [model]\ntasks: {sst2: {data: data}}\nseeds: [0]\nmethods: {m: {bits: 4}}\n"
    )
    return work


@pytest.fixture
def idle(monkeypatch):
    """Whatever takes long is our bug from now on: it must not be reached."""

    def reached(*_args, **_options):
        raise AssertionError("the work began")

    for name in (
        "compressor.prepare.load_splits",
        "compressor.baseline.load_splits",
        "compressor.quantization.backbone.load_pretrained",
        "compressor.sweep.run.do_run",
        "exporters.export.ModelContext.of_artifact",
        "exporters.hf.restore_task",
        "exporters.package.write.find_sources",
        "hub.transfer.find_remote",
        "cli.artifact.pack_task",
        "cli.demo._run_task",
        "report.view.view_artifact",
    ):
        monkeypatch.setattr(f"maskpack.{name}", reached)


WRITERS = {
    "fit": ["fit", "model", "-t", "sst2", "--data", "data", "-o", "OUT"],
    "baseline": [
        "baseline",
        "model",
        "--method",
        "head",
        "-t",
        "sst2",
        "--data",
        "data",
        "-o",
        "OUT",
    ],
    "quantize": ["quantize", "model", "-o", "OUT"],
    "sweep": ["sweep", "sweep.yaml", "-o", "OUT"],
    "plots": ["sweep", "sweep.yaml", "--plots", "OUT"],
    "export": ["export", "art", "--onnx", "-t", "sst2", "-o", "OUT"],
    "export shared": ["export", "art", "--onnx", "--layout", "shared", "-o", "OUT"],
    "export hf": ["export", "art", "--hf", "-t", "sst2", "-o", "OUT"],
    "package": ["package", "graph", "--target", "ort", "-o", "OUT.zip"],
    "pull": ["pull", "me/tickets", "-o", "OUT"],
    "pack": ["pack", "art", "-t", "sst2", "-o", "OUT"],
    "demo": ["demo", "-o", "OUT"],
    "report": ["report", "art", "-o", "OUT.html"],
    "pictures": ["report", "art", "--png", "OUT", "-o", "page.html"],
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_takes_no_file_is_refused_before_the_work(
    main, place, idle, snapshot, monkeypatch, command
):
    (place / "locked").mkdir()
    (place / "locked" / "old").write_text("")
    real = type(place).write_bytes

    def write_bytes(path, data):
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path, data)

    monkeypatch.setattr(type(place), "write_bytes", write_bytes)
    before = snapshot(place)
    args = [word.replace("OUT", "locked/new") for word in WRITERS[command]]
    found = main(*args)
    assert (found.code, found.out) == (1, ""), found.err
    assert "error: cannot write `locked/" in found.err
    assert "Permission denied" in found.err
    assert snapshot(place) == before


def test_an_artifact_that_takes_no_task_is_refused_before_the_run(main, place, idle, monkeypatch):
    real = type(place).write_bytes

    def write_bytes(path, data):
        if path.parent.name == "tasks":
            raise OSError(30, "Read-only file system")
        return real(path, data)

    monkeypatch.setattr(type(place), "write_bytes", write_bytes)
    found = main(*WRITERS["fit"][:-1], "art", "--name", "other")
    assert found.code == 1
    assert "cannot write `art`: Read-only file system" in found.err


def test_a_file_system_that_takes_nothing_is_found_for_real(main, place, idle):
    found = main(*WRITERS["fit"][:-1], "/proc/new")
    assert found.code == 1
    assert "error: cannot write `/proc/new`" in found.err


@pytest.mark.parametrize("command", ["fit", "baseline", "quantize", "export", "export hf"])
def test_a_disk_with_too_little_space_is_refused_with_both_numbers(
    main, place, snapshot, monkeypatch, command
):
    def never(*_args, **_options):
        raise AssertionError("the work began")

    monkeypatch.setattr(formats_writer.shutil, "disk_usage", lambda _: Usage(9e9, 9e9, 1000))
    for work in ("compressor.prepare.load_or_quantize", "compressor.baseline._start"):
        monkeypatch.setattr(f"maskpack.{work}", never)
    monkeypatch.setattr("maskpack.compressor.quantization.backbone.prepare_backbone", never)
    before = snapshot(place)
    args = [word.replace("OUT", "new") for word in WRITERS[command]]
    found = main(*args, *(["--max-length", "16"] if command in {"fit", "baseline"} else []))
    assert found.code == 1, found.err
    assert "error: `new` needs 0." in found.err
    assert "MB of disk, 0.0 MB are free there" in found.err
    assert "hint: free some space, or choose another place with `-o`" in found.err
    assert snapshot(place) == before


@pytest.mark.parametrize("teacher", ["none", "peer"])
def test_what_a_run_needs_is_at_most_what_it_writes(place, quick, monkeypatch, sentiment, teacher):
    from maskpack.compressor import FitRequest, fit_task
    from maskpack.compressor.training import checkpoint
    from maskpack.tasks import find_task

    needed, sizes = [], []
    real = checkpoint.write_bytes
    monkeypatch.setattr(
        checkpoint, "write_bytes", lambda path, data: (sizes.append(len(data)), real(path, data))
    )
    monkeypatch.setattr(
        "maskpack.compressor.space.check_space", lambda _, amount: needed.append(amount)
    )
    for every, steps in ((0, 2), (1, 1), (1, 2)):
        config = quick(checkpoint_every=every, steps=steps, teacher=teacher)
        out = place / f"new{every}{steps}"
        fit_task(FitRequest("model", find_task("sst2"), out, config, data=sentiment))
        written = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
        state = max(sizes, default=0)
        most = max(min(steps, 2) * state, state + written) if every else written
        assert 0.6 * most < needed[-1] <= most
        sizes.clear()
    with pytest.raises(MaskpackError, match="already has a task"):
        fit_task(FitRequest("model", find_task("sst2"), out, quick(), data=sentiment))
