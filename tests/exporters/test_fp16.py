"""Graphs in half precision: every family against torch, what is stored, what stays float32, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.bench.reference import float_graph
from maskpack.exporters.export import export_onnx
from maskpack.exporters.options import Compute, ExportRequest, Layout, SharedRequest
from maskpack.exporters.session import make_session, ort_predict
from maskpack.exporters.verify import SHAPES, compute_of
from maskpack.formats import ConfigError, open_artifact
from maskpack.runtime import Session
from maskpack.tasks import find_task

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
KINDS = ("bert", "llama", "gpt2", "deberta-v2")
SLOW = ("roberta", "electra", "distilbert", "albert", "deberta-v2-own", "modernbert", "xlnet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, family_models, sentiment):
    """`trained(kind)`: an artifact of three steps, enough for masks that remove something."""
    made: dict[str, Path] = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("learned") / "artifact"
            short = {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"}
            config = FitConfig(bits=8, group=0, teacher="none", margin=0.5, **short)
            model, task = str(family_models(kind)), find_task("sst2")
            fit_task(FitRequest(model, task, made[kind], config, data=sentiment))
        return made[kind]

    return make


@pytest.fixture(scope="module")
def halved(trained, tmp_path_factory, sentiment):
    """`halved(kind)`: folder and verdict, made on first use."""
    made = {}

    def make(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp("graphs") / "out"
            tolerance = Tolerance.of("fp16", max_drop=100)
            request = ExportRequest(
                trained(kind), "sst2", out, Compute.FP16, tolerance, data=sentiment
            )
            made[kind] = (out, export_onnx(request))
        return made[kind]

    return make


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def test_a_graph_of_every_family_is_near_the_masked_torch_model(halved, kind):
    folder, report = halved(kind)
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > 0
    assert len(report.values) == len(SHAPES)
    assert compute_of(folder / "model.onnx") == "fp16"


def test_weights_and_tables_are_stored_as_halves(halved, trained):
    graph = onnx.load(str(halved("bert")[0] / "model.onnx")).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    backbone = open_artifact(trained("bert")).backbone
    for name in backbone.linears:
        assert kinds[f"bert.{name}"] == HALF
    sizes = [np.prod(t.dims) for t in graph.initializer if t.data_type == FLOAT]
    assert sum(sizes) < 200, "the last product alone is float32"
    assert not any(t.data_type == onnx.TensorProto.INT8 for t in graph.initializer)
    assert [one.type.tensor_type.elem_type for one in graph.output] == [FLOAT]
    assert {one.type.tensor_type.elem_type for one in graph.input} == {onnx.TensorProto.INT64}


def test_a_weight_is_code_times_scale_rounded_once_and_zero_where_it_is_removed(halved, trained):
    graph = onnx.load(str(halved("bert")[0] / "model.onnx")).graph
    arrays = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    artifact = open_artifact(trained("bert"))
    masks = artifact.patch("sst2").masks
    for name, tensor in artifact.backbone.linears.items():
        kept = masks[name].to_bool() if name in masks else True
        wanted = np.where(kept, tensor.dequantize(), 0).astype(np.float16)
        np.testing.assert_array_equal(arrays[f"bert.{name}"], wanted.T)


def test_squares_and_angles_of_positions_stay_float32(halved):
    model = onnx.shape_inference.infer_shapes(
        onnx.load(str(halved("llama")[0] / "model.onnx")), strict_mode=True
    )
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for kind in ("Pow", "ReduceMean", "Cos", "Sin"):
        found = [kinds[node.output[0]] for node in model.graph.node if node.op_type == kind]
        assert found
        assert set(found) == {FLOAT}, kind
    products = [kinds.get(n.output[0]) for n in model.graph.node if n.op_type == "MatMul"]
    assert products.count(HALF) > 10


def test_a_row_that_is_masked_whole_is_no_nan(halved):
    """Constants of masks are clamped so that two of them added are finite."""
    predict = ort_predict(make_session(halved("gpt2")[0] / "model.onnx"))
    ids = np.full((2, 6), 7, dtype=np.int64)
    attention = np.array([[1] * 6, [0] * 5 + [1]])
    assert np.isfinite(predict({"input_ids": ids, "attention_mask": attention})).all()


def test_the_float_graph_of_a_benchmark_has_the_same_weights(halved, tokens):
    path = halved("bert")[0] / "model.onnx"
    session, dense = make_session(path), make_session(float_graph(path))
    feeds = tokens([value.name for value in session.get_inputs()], 2, 9)
    left, right = ort_predict(session)(feeds), ort_predict(dense)(feeds)
    assert 0 < np.abs(left - right).max() < 0.01


def test_the_runtime_answers_from_such_a_folder(halved):
    answers = Session(halved("bert")[0]).predict(["the good film", "bad"])
    assert {answer.label for answer in answers} <= {"negative", "positive"}


@pytest.mark.parametrize("layout", [Layout.SHARED, Layout.SWAP])
def test_layouts_that_share_weights_are_refused(layout, tmp_path):
    tolerance = Tolerance.of("fp16")
    with pytest.raises(ConfigError, match=f"the {layout} layout masks shared ones") as caught:
        SharedRequest(tmp_path / "a", (), tmp_path / "b", "fp16", tolerance, layout=layout)
    assert "`folded`" in caught.value.hint


def test_another_opset_holds_the_same(halved, trained, tmp_path, sentiment):
    request = ExportRequest(
        trained("bert"),
        "sst2",
        tmp_path / "out",
        Compute.FP16,
        Tolerance.of("fp16", max_drop=100),
        data=sentiment,
    )
    assert export_onnx(replace(request, opset=20)).ok
