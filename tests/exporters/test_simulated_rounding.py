"""Rounding that training simulates, beside what ONNX Runtime computes with the exported int8 graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.fit import loss_of, masked_model_of
from maskpack.compressor.prepare import prepare, with_divisors
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.options import Compute
from maskpack.exporters.session import make_session
from maskpack.formats import open_artifact
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task

QUICK = {
    "steps": 3,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "teacher": "none",
    "margin": 0.5,
    "refine": 0,
}
ROWS, GROUPS = {"bits": 8}, {"bits": 4, "group": 16}
TRAINED = {"bits": 8, "train_scales": True, "train_bias": True}
SOME = {"bits": 8, "layers": "1"}
UNITS = {"bits": 8, "units": "heads,neurons", "keep_units": 0.5}
CASES = [
    *(("bert", options) for options in (ROWS, GROUPS, TRAINED, SOME, UNITS)),
    *(("albert", ROWS), ("gpt2", TRAINED)),
    *(
        pytest.param(kind, options, marks=pytest.mark.slow)
        for kind in ("roberta", "electra", "distilbert", "llama", "modernbert", "xlnet")
        for options in (ROWS, UNITS)
    ),
    pytest.param("deberta-v2", SOME, marks=pytest.mark.slow),
]


def uneven(backbone, config, preprocessor):
    """Divisors of every second linear, 1 to 4: a tiny random model has no outliers."""
    del config, preprocessor
    rng = np.random.default_rng(0)
    names = sorted(backbone.linears)[::2]
    widths = {name: backbone.linears[name].shape[1] for name in names}
    return {name: rng.uniform(1.0, 4.0, width).astype("f4") for name, width in widths.items()}


@pytest.fixture
def request_for(tmp_path, family_models, sentiment, monkeypatch):
    """`request_for(kind, **options)`: a request over a tiny model whose divisors are `uneven`."""
    monkeypatch.setattr("maskpack.compressor.quantization.backbone.measure_divisors", uneven)

    def make(kind="bert", **options):
        config = FitConfig(**{**QUICK, "simulate": "int8", **options})
        model, out = str(family_models(kind)), tmp_path / "artifact"
        return FitRequest(model, find_task("sst2"), out, config, data=sentiment)

    return make


def exported(artifact, out):
    """The int8 graph of `sst2`, after it was compared with torch."""
    tolerance = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=0.5)
    report = export_onnx(ExportRequest(artifact, "sst2", out, Compute.INT8, tolerance))
    assert report is not None
    assert report.ok, report.findings
    return out / "model.onnx"


def simulated_model(request):
    """The classifier of the task that is in the artifact, in evaluation mode, with rounding turned on."""
    run = with_divisors(prepare(replace(request, start=(request.out, "sst2"), name="again")))
    masked = masked_model_of(run, loss_of(run, None))
    assert masked.rounding is not None
    masked.rounding.on_step_begin(masked.rounding.first)
    return masked.model.eval()


def answers(model, feeds):
    with torch.inference_mode():
        return model(**{n: torch.from_numpy(value) for n, value in feeds.items()}).logits.numpy()


IDS = np.random.default_rng(0).integers(5, 50, (8, 12), dtype=np.int64)
TOKENS = {
    "input_ids": IDS,
    "attention_mask": np.ones_like(IDS),
    "token_type_ids": np.zeros_like(IDS),
}


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_simulated_model_computes_what_the_graph_does(kind, options, request_for, tmp_path):
    """All but the order of sums is the same: masked and unmasked linears, groups, divisors, removed units."""
    request = request_for(kind, **options)
    fit_task(request)
    session = make_session(exported(request.out, tmp_path / "out"), threads=1)
    feeds = {each.name: TOKENS[each.name] for each in session.get_inputs()}
    graph = session.run(None, feeds)[0]
    rounded, plain = simulated_model(request), restore_task(open_artifact(request.out), "sst2")
    apart = np.abs(answers(rounded, feeds) - graph).max()
    assert apart <= 1e-5
    assert np.abs(answers(plain, feeds) - graph).max() > 100 * apart, "rounding is to be seen"


def test_a_graph_has_the_divisors_that_the_artifact_holds(request_for, tmp_path):
    request = request_for(**ROWS)
    fit_task(request)
    artifact = open_artifact(request.out)
    wanted = uneven(artifact.backbone, None, None)
    assert artifact.divisors is not None
    assert set(artifact.divisors) == set(wanted)
    model = onnx.load(str(exported(request.out, tmp_path / "out")))
    found = {each.name: to_array(each) for each in model.graph.initializer}
    factors = {name: each for name, each in found.items() if name.endswith(".factor")}
    assert factors
    for name, factor in factors.items():
        parameter = name.removeprefix("bert.").removesuffix(".factor") + ".weight"
        np.testing.assert_array_equal(factor, np.float32(1) / wanted[parameter])


def test_a_graph_of_an_artifact_without_divisors_measures_them(request_for, tmp_path):
    request = request_for(**ROWS, simulate=None)
    fit_task(request)
    assert open_artifact(request.out).divisors is None
    assert not (request.out / "divisors.safetensors").exists()
    model = onnx.load(str(exported(request.out, tmp_path / "out")))
    assert not [each.name for each in model.graph.initializer if each.name.endswith(".factor")]


def test_a_second_task_learns_with_the_divisors_that_are_there(request_for, monkeypatch):
    first = request_for(**ROWS)
    fit_task(first)
    before = (first.out / "divisors.safetensors").read_bytes()
    never = "maskpack.compressor.quantization.backbone.measure_divisors"
    monkeypatch.setattr(never, lambda *_: pytest.fail("measured again"))
    fit_task(replace(first, name="second"))
    assert (first.out / "divisors.safetensors").read_bytes() == before
