"""Rounding that training simulates, beside what ONNX Runtime computes with the exported int8 graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.numpy_helper import to_array
import onnx

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.fit import loss_of, masked_model_of
from maskpack.compressor.prepare import prepare
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.graph.builder import GraphBuilder
from maskpack.exporters.options import Compute
from maskpack.exporters.session import make_session
from maskpack.formats import open_artifact
from maskpack.formats.channels import encode_divisors
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.peaks import measure_divisors

QUICK = {
    "steps": 3,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "teacher": "none",
    "margin": 0.5,
    "refine": 0,
}


def uneven(backbone, config, preprocessor):
    """Divisors where a tiny random model has no outliers: of every second linear, in turn 1 and more."""
    del config, preprocessor
    rng = np.random.default_rng(0)
    names = sorted(backbone.linears)[::2]
    widths = {name: backbone.linears[name].shape[1] for name in names}
    return {n: rng.uniform(1.0, 4.0, w).astype(np.float32) for n, w in widths.items()}


@pytest.fixture
def request_for(tmp_path, family_models, sentiment, monkeypatch):
    """`request_for(kind, **options)`: a request over a tiny model whose divisors are `uneven`."""
    monkeypatch.setattr("maskpack.compressor.quantization.backbone.measure_divisors", uneven)

    def make(kind="bert", out="artifact", **options):
        config = FitConfig(**{**QUICK, "simulate": "int8", **options})
        model = str(family_models(kind))
        return FitRequest(model, find_task("sst2"), tmp_path / out, config, data=sentiment)

    return make


def exported(artifact, out):
    """The int8 graph of `sst2`, after it was compared with torch."""
    tolerance = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=0.5)
    report = export_onnx(ExportRequest(artifact, "sst2", out, Compute.INT8, tolerance))
    assert report is not None
    assert report.ok, report.findings
    return out / "model.onnx"


def simulated_model(request):
    """The classifier of the task that the artifact holds, in evaluation mode, with rounding turned on."""
    again = replace(request, start=(request.out, "sst2"), out=Path(f"{request.out}-again"))
    run = prepare(again)
    masked = masked_model_of(run, loss_of(run, None))
    masked.rounding.on_step_begin(masked.rounding.first)
    return masked.model.eval()


def answers(model, feeds):
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits


IDS = np.random.default_rng(0).integers(5, 50, (8, 12), dtype=np.int64)
TOKENS = {
    "input_ids": IDS,
    "attention_mask": np.ones_like(IDS),
    "token_type_ids": np.zeros_like(IDS),
}
import logging

@pytest.mark.parametrize("kind", ["bert", "albert", "gpt2", "roberta", "electra", "distilbert","llama", "modernbert", "xlnet", "deberta-v2"])
def test_try(kind, request_for, tmp_path):
    for options in ({"bits": 8}, {"bits": 4, "group": 16}, {"bits":8, "train_scales": True, "train_bias": True},{"bits":8,"layers":"1"}, {"bits":8, "units":"heads,neurons","keep_units":0.5}):
      try:
        request = request_for(kind, out="a"+"".join(options), **options)
        fit_task(request)
        session = make_session(exported(request.out, tmp_path / ("o"+"".join(options))), threads=1)
        feeds = {each.name: TOKENS[each.name] for each in session.get_inputs()}
        graph = session.run(None, feeds)[0]
        exact = answers(restore_task(open_artifact(request.out), "sst2"), feeds).numpy()
        simulated = answers(simulated_model(request), feeds).numpy()
        print(kind, options, np.abs(graph).max(), np.abs(exact - graph).max(), np.abs(simulated - graph).max())
      except Exception as e:
        print(kind, options, repr(e)[:300])
