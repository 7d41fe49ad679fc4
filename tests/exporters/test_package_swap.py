"""Tasks over one graph as a package: adapters, their example, and verdicts on what lies in a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from maskpack.cli.app import app
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.verify import exported as find_exported
from maskpack.formats import ConfigError, ExportError
from maskpack.runtime import Session

TEXTS = ["the good film", "bad", "we were very happy and the food was great " * 3]
OWN = {"onnx_adapter", "safetensors", "json", "maskpack_report.json"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory, swapped):
    source = swapped("bert", "int8")[0]
    out = tmp_path_factory.mktemp("packed") / "x"
    return source, write_package(PackageRequest(source, out, Target.ORT))


def test_a_package_holds_one_graph_and_an_adapter_a_task(packed):
    found = set(packed[1].files)
    assert {"base.onnx", "backbone.bin", "predict.py", "tokenizer.json", "SHA256SUMS"} <= found
    for task in ("sst2", "other"):
        assert {f"{task}.{ending}" for ending in OWN} <= found
    assert packed[1].differences == {"other": 0.0, "sst2": 0.0}


def test_the_example_answers_as_the_source_does(packed, tmp_path):
    source, package = packed
    moved = shutil.copytree(package.out, tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, str(moved / "predict.py"), *TEXTS],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    session, lines = Session(source), [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["task"] for line in lines} == {"other", "sst2"}
    assert len(lines) == 2 * len(TEXTS)
    for line in lines:
        (want,) = session.predict([line["text"]], task=line["task"], batch_size=1)
        assert line["scores"] == pytest.approx(want.scores, abs=1e-5)


def test_a_package_is_an_exported_folder_still(packed):
    before, after = Session(packed[0]), Session(packed[1].out)
    for task in ("sst2", "other"):
        assert after.predict(TEXTS, task=task) == before.predict(TEXTS, task=task)


def test_one_task_brings_the_graph_of_all(swapped, tmp_path):
    request = PackageRequest(swapped("bert", "int8")[0], tmp_path / "x", Target.ORT, ("sst2",))
    assert "other.onnx_adapter" not in write_package(request).files
    assert Session(tmp_path / "x").tasks == ("sst2",)


def test_a_target_that_feeds_no_masks_is_refused(swapped, tmp_path):
    request = PackageRequest(swapped("bert", "int8")[0], tmp_path / "x", Target.MOBILE)
    with pytest.raises(ExportError, match="packages for mobile are of graphs that take tokens"):
        write_package(request)
    assert not (tmp_path / "x").exists()


def verify(folder, artifact, task):
    arguments = ["verify", str(folder), "-a", str(artifact), "-t", task, "--max-drop", "100"]
    return CliRunner().invoke(app, [*arguments, "--json"])


@pytest.mark.parametrize("layout", ["shared", "swap"])
@pytest.mark.parametrize("task", ["sst2", "other"])
def test_a_folder_of_several_tasks_is_verified_task_by_task(laid_out, artifacts, layout, task):
    folder, reports = laid_out("bert", "int8", layout)
    result = verify(folder, artifacts["bert"], task)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(reports[task].to_json())


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_a_task_that_is_another_is_not_within_its_tolerance(laid_out, artifacts, tmp_path, layout):
    folder = shutil.copytree(laid_out("bert", "int8", layout)[0], tmp_path / "x")
    config = json.loads((folder / "sst2.json").read_text())
    other = json.loads((folder / "other.json").read_text())
    ending = "onnx" if layout == "shared" else "onnx_adapter"
    shutil.copy(folder / f"other.{ending}", folder / f"sst2.{ending}")
    if layout == "swap":
        shutil.copy(folder / "other.safetensors", folder / "sst2.safetensors")
        (folder / "sst2.json").write_text(json.dumps({**other, "name": config["name"]}))
    result = verify(folder, artifacts["bert"], "sst2")
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["findings"]


def test_an_adapter_that_the_card_does_not_tell_of_is_refused(swapped, tmp_path):
    folder = shutil.copytree(swapped("bert", "int8")[0], tmp_path / "x")
    shutil.copy(folder / "other.onnx_adapter", folder / "sst2.onnx_adapter")
    with pytest.raises(ExportError, match="is not what `sst2` was made for"):
        find_exported(folder, "sst2")
    with pytest.raises(ConfigError, match="no task `third`"):
        find_exported(folder, "third")
