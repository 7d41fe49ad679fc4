"""Every layout in every opset: graphs that onnx's checker accepts with all shapes, and the logits of the usual opset."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_kit import shared_request
from matrix import matrix
from onnx import TensorProto, helper

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.opset import in_opset
from maskpack.exporters.session import make_session, token_feeds
from maskpack.formats import ExportError
from maskpack.tasks import find_task

LAYOUTS = ("folded", "shared", "swap", "trunk")
OPSETS = (17, 19, 20, 21, 22, 23, 24)


@pytest.fixture(scope="module")
def artifacts_by_bits(tmp_path_factory, family_models, sentiment):
    """Bits -> an artifact of one task whose mask lies on the last layer, so that it fits on a trunk."""
    made = {}
    for bits, group in ((8, 0), (4, 16)):
        made[bits] = tmp_path_factory.mktemp("bits") / "artifact"
        plan = {"steps": 4, "batch_size": 16, "max_length": 16, "precision": "fp32"}
        config = FitConfig(bits=bits, group=group, teacher="none", margin=0.3, layers="1", **plan)
        model, task = str(family_models("bert")), find_task("sst2")
        fit_task(FitRequest(model, task, made[bits], config, data=sentiment))
    return made


@pytest.fixture(scope="module")
def exported_in(tmp_path_factory, artifacts_by_bits):
    """`exported_in(layout, compute, bits, opset)`: the folder, made on first use. Read only."""
    root = tmp_path_factory.mktemp("opsets")

    @cache
    def make(layout, compute, bits, opset):
        out, how = root / f"{layout}-{compute}-{bits}-{opset}", {"opset": opset, "verify": False}
        artifact = artifacts_by_bits[bits]
        if layout == "folded":
            export_onnx(ExportRequest(artifact, "sst2", out, compute, Tolerance.of(compute), **how))
            return out
        request = shared_request(artifact, out, compute, layout=layout, packed=bits == 4, **how)
        export_shared(request)
        return out

    return make


def logits(folder):
    names = ("sst2.onnx_adapter", "sst2.onnx", "model.onnx")
    path = next(folder / name for name in names if (folder / name).exists())
    session, found = make_session(path, threads=1), []
    for batch, length in ((1, 7), (3, 12)):
        feeds = token_feeds(session, batch=batch, length=length, vocabulary=40)
        feeds["attention_mask"][-1, -2:] = 0
        found.append(session.run(["logits"], feeds)[0])
    return found


@pytest.mark.parametrize(
    ("layout", "opset", "compute", "bits"), matrix(LAYOUTS, OPSETS, ["int8", "fp32"], [8, 4])
)
def test_a_layout_in_an_opset_is_sound_and_answers_alike(exported_in, layout, opset, compute, bits):
    folder, usual = (exported_in(layout, compute, bits, number) for number in (opset, 18))
    graphs = sorted(folder.glob("*.onnx"))
    assert [path.name for path in graphs] == sorted(path.name for path in usual.glob("*.onnx"))
    for path in graphs:
        model = onnx.load(path)
        assert {each.domain: each.version for each in model.opset_import}[""] == opset
        onnx.checker.check_model(path, full_check=True)
    for ours, theirs in zip(logits(folder), logits(usual), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_numbers_of_a_mask_are_numbers_and_no_lists(exported_in):
    path = exported_in("shared", "int8", 8, 17) / "sst2.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    (sums,) = (node for node in graph.node if node.op_type == "CumSum")
    (axis,) = (each for each in graph.initializer if each.name == sums.input[1])
    assert list(axis.dims) == []  # the standard's axis; some tools refuse another


def test_a_mask_that_is_smaller_as_bits_is_written_as_flips_where_there_is_no_bitwise_and(
    tmp_path, family_models, sentiment
):
    out = tmp_path / "artifact"
    plan = {"steps": 2, "batch_size": 16, "max_length": 16, "precision": "fp32", "teacher": "none"}
    config = FitConfig(bits=8, sparsity=0.5, estimator="topk", **plan)
    model, task = str(family_models("bert")), find_task("sst2")
    fit_task(FitRequest(model, task, out, config, data=sentiment))
    folders, kinds = {}, {}
    for opset in (17, 18):
        folders[opset] = tmp_path / str(opset)
        request = shared_request(out, folders[opset], layout="shared", opset=opset, verify=False)
        export_shared(request)
        graph = onnx.load(folders[opset] / "sst2.onnx", load_external_data=False).graph
        kinds[opset] = {node.op_type for node in graph.node}
    assert "BitwiseAnd" in kinds[18]
    assert "BitwiseAnd" not in kinds[17]
    for ours, theirs in zip(logits(folders[17]), logits(folders[18]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def lowered(node, shape=(4, 6), more=()):
    """A graph of one node, in opset 17."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    dims = [] if any(each.name == "keepdims" for each in node.attribute) else [None, None]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in node.output]
    graph = helper.make_graph([node], "one", inputs, outputs, initializer=list(more))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = ir.serde.serialize_model(in_opset(ir.serde.deserialize_model(model), 17))
    onnx.checker.check_model(found, full_check=True)
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    return [
        make_session(each.SerializeToString(), threads=1).run(None, {"x": x})
        for each in (model, found)
    ]


AXES = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
SIZES = helper.make_tensor("sizes", TensorProto.INT64, [2], [1, 3])
ENDS = helper.make_tensor("ends", TensorProto.INT64, [4], [0, 0, 1, 2])


@pytest.mark.parametrize(
    ("node", "more"),
    [
        (helper.make_node("ReduceMean", ["x", "axes"], ["y"]), [AXES]),
        (helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0), []),
        (helper.make_node("Split", ["x"], ["y", "z"], num_outputs=2), []),
        (helper.make_node("Split", ["x", "sizes"], ["y", "z"]), [SIZES]),
        (helper.make_node("Pad", ["x", "ends"], ["y"]), [ENDS]),
    ],
)
def test_what_18_writes_otherwise_is_written_as_17_has_it(node, more):
    before, after = lowered(node, more=more)
    assert len(before) == len(node.output)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Split", ["x"], ["y", "z", "u", "v"], num_outputs=4, axis=1),
        helper.make_node("Mish", ["x"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1),
    ],
)
def test_what_17_does_not_have_is_refused_by_name(node):
    with pytest.raises(ExportError, match=f"in opset 17: `{node.op_type}` of"):
        lowered(node)
