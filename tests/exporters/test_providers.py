"""Execution providers: names as people type them, what is not installed, and what really ran."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import onnxruntime
import pytest

from maskpack.exporters import make_session
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.bench import run as benching
from maskpack.exporters.bench.run import BenchRequest, bench
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Compute, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.report import Report
from maskpack.exporters.verify import Subject, verify
from maskpack.formats import ConfigError
from maskpack.runtime import Session
from maskpack.runtime.providers import CPU, find_providers

AZURE = "AzureExecutionProvider"
CUDA = "CUDAExecutionProvider"
second = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="ONNX Runtime has the CPU alone"
)


def pretend(monkeypatch, *names):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*names])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((), [CPU]),
        (("cpu",), [CPU]),
        (("cuda",), [CUDA, CPU]),
        (("CUDAExecutionProvider",), [CUDA, CPU]),
        (("cudaexecutionprovider", "Cuda"), [CUDA, CPU]),
        (("CoreML", "CUDA"), ["CoreMLExecutionProvider", CUDA, CPU]),
        (("cpu", "cuda"), [CPU, CUDA]),
    ],
)
def test_a_name_is_found_however_it_is_typed(monkeypatch, wanted, found):
    pretend(monkeypatch, CUDA, "CoreMLExecutionProvider", CPU)
    assert find_providers(wanted) == [(name, {}) for name in found]


def test_options_stay_with_their_provider_and_what_is_returned_is_taken(monkeypatch):
    pretend(monkeypatch, CUDA, CPU)
    found = find_providers([("cuda", {"device_id": 1}), "cpu"])
    assert found == [(CUDA, {"device_id": 1}), (CPU, {})]
    assert find_providers(found) == found
    assert (
        find_providers(json.loads(json.dumps(found))) == found
    )  # as a benchmark's child gets them


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cuda", "then `pip install onnxruntime-gpu`"),
        ("TensorrtExecutionProvider", "then `pip install onnxruntime-gpu`"),
        ("dml", "then `pip install onnxruntime-directml`"),
        ("openvino", "then `pip install onnxruntime-openvino`"),
        ("xnnpack", "an ONNX Runtime that has it"),
        ("no-such", "an ONNX Runtime that has it"),
    ],
)
def test_what_is_not_installed_is_refused_with_what_is(monkeypatch, name, hint):
    pretend(monkeypatch, AZURE, CPU)
    with pytest.raises(ConfigError) as caught:
        find_providers([name])
    expected = f"no execution provider `{name}` is installed, there are: azure, cpu"
    assert str(caught.value) == expected
    assert hint in caught.value.hint


def test_every_reader_of_names_refuses_before_it_loads(exported):
    one = exported("bert", "int8")
    for ask in (
        lambda: Session(one.folder, providers=["nowhere"]),
        lambda: make_session(one.graph, providers=["nowhere"]),
        lambda: bench(BenchRequest(one.folder, providers=("nowhere",))),
    ):
        with pytest.raises(ConfigError, match="no execution provider `nowhere`"):
            ask()


@second
def test_a_session_runs_on_the_providers_that_it_was_given(exported):
    folder = exported("bert", "fp32").folder
    usual, other = Session(folder), Session(folder, providers=[("azure", {}), "cpu"])
    assert (usual.providers(), other.providers()) == ((CPU,), (AZURE, CPU))
    texts = ["the good film", "bad"]
    assert other.predict(texts) == usual.predict(texts)


def test_a_provider_that_does_not_start_is_warned_of(exported, monkeypatch, caplog):
    pretend(monkeypatch, CUDA, CPU)  # known by name alone, as without the device's libraries
    with pytest.warns(UserWarning, match="not in available provider names"):
        found = Session(exported("bert", "fp32").folder, providers=["cuda"]).providers()
    assert found == (CPU,)
    expected = f"`{CUDA}` is installed and did not start, `{CPU}` runs in its place"
    assert expected in [r.message for r in caplog.records if r.levelno == logging.WARNING]


def test_a_provider_that_fails_is_an_error_and_prints_nothing(exported, monkeypatch, capsys):
    """ONNX Runtime's own fallback prints to stdout, between the lines of `compress predict`."""
    from maskpack.formats import ExportError

    def fail(*_, **__):
        raise RuntimeError("no such device")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(ExportError, match="no such device"):
        make_session(exported("bert", "fp32").graph)
    assert capsys.readouterr().out == ""


@second
def test_a_verdict_says_what_really_ran(exported):
    one = exported("bert", "fp32")
    tolerance = Tolerance.of(Compute.FP32)
    subject = Subject(one.graph, one.artifact, "sst2", "fp32", tolerance)
    usual, other = (verify(replace(subject, providers=names)) for names in ((), ("azure",)))
    assert usual.session["providers"] == CPU
    assert other.session["providers"] == f"{AZURE}, {CPU}"
    assert Report.from_json(other.to_json()) == other
    assert other.ok


@second
def test_an_adapter_of_the_swap_layout_and_a_package_run_there_too(artifacts, tmp_path):
    tolerance, out = Tolerance.of(Compute.INT8), tmp_path / "swap"
    export_shared(
        SharedRequest(
            artifacts["bert"], (), out, Compute.INT8, tolerance, verify=False, layout="swap"
        )
    )
    session = make_session(out / "sst2.onnx_adapter", providers=["azure"])
    assert session.get_providers() == [AZURE, CPU]
    write_package(PackageRequest(out, tmp_path / "package", Target.ORT))
    packed = Session(tmp_path / "package", providers=["azure"])
    assert packed.providers("sst2") == (AZURE, CPU)
    assert packed.predict(["bad"], task="sst2") == Session(out).predict(["bad"], task="sst2")


@second
def test_a_benchmark_runs_all_graphs_there_and_says_so(exported, monkeypatch):
    monkeypatch.setattr(benching, "_LOADS", 1)
    small = {"batches": (1,), "lengths": (8,), "threads": (1,), "runs": 3}
    request = BenchRequest(exported("bert", "int8").folder, providers=("azure",), **small)
    result = bench(request)
    assert result.providers == (AZURE, CPU)
    assert json.loads(result.to_json())["providers"] == [AZURE, CPU]
