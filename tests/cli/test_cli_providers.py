"""`--provider` of `predict`, `bench` and `verify`."""

from __future__ import annotations

import json

import onnxruntime
import pytest

AZURE, CPU = "AzureExecutionProvider", "CPUExecutionProvider"
SMALL = ["--batch", "1", "--length", "8", "--threads", "1", "--runs", "3"]

pytestmark = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="ONNX Runtime has the CPU alone"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("providers") / "sst2"
    tolerance = Tolerance.of(Compute.FP32)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.FP32, tolerance, verify=False))
    return out


def test_predict_answers_the_same_and_says_where_it_ran(main, folder, tmp_path):
    texts = tmp_path / "texts"
    texts.write_text("the good film\nbad\n", encoding="utf-8")
    usual = main("predict", folder, "--texts", texts)
    other = main("-v", "predict", folder, "--texts", texts, "--provider", "azure")
    assert (usual.code, other.code) == (0, 0), other.err
    assert [json.loads(line) for line in usual.out.splitlines()] == [
        json.loads(line) for line in other.out.splitlines()
    ]
    assert f"ONNX Runtime runs on {AZURE}, {CPU}" in other.err


@pytest.mark.parametrize("command", ["predict", "bench"])
def test_what_is_not_installed_is_refused_with_the_package_that_has_it(
    main, folder, command, monkeypatch
):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    found = main(command, folder, "--provider", "cuda")
    assert (found.code, found.out) == (1, "")
    assert "no execution provider `cuda` is installed, there are: cpu" in found.err
    assert "hint: `pip uninstall onnxruntime`, then `pip install onnxruntime-gpu`" in found.err


def test_a_verdict_names_what_ran(main, folder, tiny_artifact):
    asked = ["verify", folder, "--artifact", tiny_artifact, "--task", "sst2", "--json"]
    found = main(*asked, "--provider", "azure", "--provider", "cpu")
    assert found.code == 0, found.err
    assert found.json["session"]["providers"] == f"{AZURE}, {CPU}"


def test_a_benchmark_names_what_ran(main, folder, monkeypatch):
    from maskpack.exporters.bench import run as benching

    monkeypatch.setattr(benching, "_LOADS", 1)
    found = main("bench", folder, *SMALL, "--provider", "Azure")
    assert found.code == 0, found.err
    assert f"onnxruntime {onnxruntime.__version__} on {AZURE}, {CPU}; load" in found.out
