"""Graphs in another opset: the same answers, a verdict as always, and a refusal where there is no such form."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.opset import in_opset
from maskpack.exporters.options import GraphOptions, SharedRequest
from maskpack.formats import ConfigError, ExportError
from maskpack.runtime import Session


def export(artifact, out, data, **options):
    compute = options.pop("compute", "fp32")
    return export_onnx(
        ExportRequest(artifact, "sst2", out, compute, Tolerance.of(compute), data=data, **options)
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory, tiny_artifact):
    """The graph of opset 18."""
    out = tmp_path_factory.mktemp("opset") / "usual"
    export(tiny_artifact, out, None, verify=False)
    return out


@pytest.mark.parametrize(("opset", "version"), [(17, 8), (19, 9), (21, 10), (24, 12)])
def test_a_graph_of_another_opset_answers_alike(
    tiny_artifact, sentiment, usual, tmp_path, opset, version
):
    report = export(tiny_artifact, tmp_path / "out", sentiment, opset=opset)
    assert report.ok, report.findings
    assert (report.graph.opset, report.graph.ir_version) == (opset, version)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    texts = ["good film", "bad story", "the"]
    assert Session(tmp_path / "out").predict(texts) == Session(usual).predict(texts)


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_every_layout_takes_it(tiny_artifact, sentiment, tmp_path, layout):
    request = SharedRequest(
        tiny_artifact,
        (),
        tmp_path / "out",
        "int8",
        Tolerance.of("int8"),
        {"sst2": sentiment},
        layout=layout,
        opset=20,
    )
    (report,) = export_shared(request).values()
    assert report.ok, report.findings
    assert report.graph.opset == 20


def test_what_has_no_form_in_an_opset_is_refused(usual):
    model = ir.load(usual / "model.onnx")
    with pytest.raises(ExportError, match="cannot be written in opset 16: .*LayerNormalization"):
        in_opset(model, 16)


def test_the_usual_opset_changes_nothing(usual):
    model = ir.load(usual / "model.onnx")
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    assert in_opset(model, 18) is model
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [16, 25])
def test_an_opset_that_is_not_written_is_refused(opset):
    with pytest.raises(ConfigError, match=f"`opset` is {opset}"):
        GraphOptions(opset=opset)
