"""Architectures by rule, and those with a short entry: each is learned on, exported in every layout and compared with torch."""

from __future__ import annotations

from functools import cache

import pytest
from unit_kit import units_removed

from maskpack.compressor import FitConfig, FitRequest, family_support, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.formats import open_artifact
from maskpack.models.families import FAMILIES
from maskpack.models.tested import TESTED
from maskpack.models.units import STRUCTURES
from maskpack.tasks import find_task

EXACT = 1e-4  # of a logit; what fp32 graphs promise
AT_ONCE = ("mpnet", "mobilebert", "gemma2", "qwen3")
"""Positions from 2; a narrow body and several feed-forward layers; capped logits; norms of heads."""


def slow_but(some, kinds):
    """All kinds, slow but for some of them."""
    others = sorted({*kinds} - {*some})
    return [*some, *(pytest.param(kind, marks=pytest.mark.slow) for kind in others)]


@pytest.fixture(scope="module")
def learned(tmp_path_factory, family_models, sentiment):
    """`learned(kind)`: an artifact of three steps, enough for masks that remove something."""

    @cache
    def make(kind):
        out = tmp_path_factory.mktemp("learned") / "artifact"
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
        model = str(family_models(kind))
        fit_task(FitRequest(model, find_task("sst2"), out, config, data=sentiment))
        return out

    def make_if_there(kind):
        if family_support(kind).support == "none":
            pytest.skip("the installed transformers does not have it")
        return make(kind)

    return make_if_there


def export(artifact, out, layout="folded", compute="fp32"):
    way, tolerance = Compute(compute), Tolerance.of(Compute(compute), max_drop=100.0)
    if layout == "folded":
        return export_onnx(ExportRequest(artifact, "sst2", out, way, tolerance))
    request = SharedRequest(artifact, (), out, way, tolerance, layout=Layout(layout))
    return export_shared(request)["sst2"]


@pytest.mark.parametrize("kind", slow_but(AT_ONCE, TESTED))
def test_an_architecture_is_learned_on_exported_in_every_layout_and_compared(
    kind, learned, tmp_path
):
    artifact = learned(kind)
    opened = open_artifact(artifact)
    assert opened.patch("sst2").masks.keys() == opened.backbone.linears.keys()
    for layout in ("folded", "shared", "swap"):
        report = export(artifact, tmp_path / layout, layout)
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > 0
        assert max(check.max_diff for check in report.values) <= EXACT


# a text of one token gives random weights of `hunyuan_v1_dense` logits near 0, of which any error is a large share
@pytest.mark.parametrize("kind", slow_but(("mpnet",), {*AT_ONCE, *TESTED} - {"hunyuan_v1_dense"}))
def test_its_int8_graph_is_within_its_tolerance(kind, learned, tmp_path):
    report = export(learned(kind), tmp_path / "out", compute="int8")
    assert report.ok, report.findings


@pytest.mark.parametrize("kind", slow_but(("qwen3",), STRUCTURES.keys() - FAMILIES.keys()))
def test_its_graph_is_small_without_units(kind, learned, tmp_path):
    """Two groups lost all of their units, the others half."""
    with units_removed():
        report = export(learned(kind), tmp_path / "out")
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > report.graph.left_out > 0
    assert max(check.max_diff for check in report.values) <= EXACT
