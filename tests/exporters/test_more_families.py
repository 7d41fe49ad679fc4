"""Architectures by rule, and those with a short entry: each is learned on, exported in every layout and compared with torch."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.formats import open_artifact
from maskpack.models.tested import TESTED
from maskpack.tasks import find_task

EXACT = 1e-4  # of a logit; what fp32 graphs promise
AT_ONCE = ("mpnet", "mobilebert", "gemma2", "qwen3", "phi3")
"""Positions from 2; a narrow body and four feed-forward layers; capped logits; norms of heads; fused projections."""

KINDS = [
    *AT_ONCE,
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(TESTED - {*AT_ONCE})),
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_is_learned_on_exported_in_every_layout_and_compared(
    kind, family_models, sentiment, tmp_path, record_property
):
    if kind not in CONFIG_MAPPING:
        pytest.skip("the installed transformers does not have it")
    model, artifact = family_models(kind), tmp_path / "artifact"
    config = FitConfig(
        bits=8,
        refine=0,
        steps=3,
        batch_size=16,
        max_length=16,
        precision="fp32",
        teacher="none",
        margin=0.5,
    )
    fit_task(FitRequest(str(model), find_task("sst2"), artifact, config, data=sentiment))
    assert open_artifact(artifact).backbone.linears.keys() == open_artifact(artifact).patch("sst2").masks.keys()
    way = Compute.FP32
    tolerance = Tolerance.of(way)
    reports = [export_onnx(ExportRequest(artifact, "sst2", tmp_path / "folded", way, tolerance))]
    for layout in (Layout.SHARED, Layout.SWAP):
        out = tmp_path / str(layout)
        request = SharedRequest(artifact, (), out, way, tolerance, layout=layout)
        reports.append(export_shared(request)["sst2"])
    record_property(kind, max(check.max_diff for each in reports for check in each.values))
    for report in reports:
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > 0
        assert max(check.max_diff for check in report.values) <= EXACT
