"""Rewrites for speed: they must not change a bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from export_kit import ROW_KINDS
from onnx import TensorProto, helper, numpy_helper

from maskpack.exporters.graph.passes import GeluInFusedOrder, ResidualAsSum

PASSES = [GeluInFusedOrder, ResidualAsSum]


def run_plain(proto, feeds):
    """All outputs of a graph, computed operator by operator as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def apply(rewriter, proto):
    result = rewriter()(ir.serde.deserialize_model(proto))
    return ir.serde.serialize_model(result.model), result.modified


def kinds_of(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("rewriter", PASSES)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_rewrite_changes_the_graph_and_no_bit_of_its_output(traced, tokens, kind, rewriter):
    before = traced(kind)
    after, modified = apply(rewriter, before)
    assert modified
    assert after.SerializeToString() != before.SerializeToString()
    names = [value.name for value in before.graph.input]
    for batch, sequence in ((1, 1), (4, 19)):
        feeds = tokens(names, batch, sequence, padded=True)
        (left,), (right,) = run_plain(before, feeds), run_plain(after, feeds)
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_residual_before_a_layer_norm_becomes_a_sum(traced, kind):
    proto, _ = apply(ResidualAsSum, traced(kind))
    makers = {name: node.op_type for node in proto.graph.node for name in node.output}
    norms = [node for node in proto.graph.node if node.op_type == "LayerNormalization"]
    assert "Add" not in {makers[node.input[0]] for node in norms}
    assert kinds_of(proto).count("Sum") >= 4  # two a layer


@pytest.mark.parametrize("rewriter", PASSES)
def test_a_second_time_there_is_nothing_to_rewrite(traced, rewriter):
    once, _ = apply(rewriter, traced("bert"))
    twice, modified = apply(rewriter, once)
    assert not modified
    assert twice.SerializeToString() == once.SerializeToString()


def gelu(*, half=0.5, swapped=False, read_twice=False):
    """`x * (half * (1 + erf x))`, with the factors the other way round at will."""
    factors = ["plus", "half"] if swapped else ["half", "plus"]
    nodes = [
        helper.make_node("Erf", ["x"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["plus"]),
        helper.make_node("Mul", factors, ["halved"]),
        helper.make_node("Mul", ["halved", "x"] if swapped else ["x", "halved"], ["y"]),
    ]
    outputs = ["y", "halved"] if read_twice else ["y"]
    if read_twice:
        nodes.append(helper.make_node("Neg", ["halved"], ["z"]))
        outputs = ["y", "z"]
    constants = {"one": 1.0, "half": half}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
        [numpy_helper.from_array(np.float32(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_gelu_comes_out_in_the_order_the_runtime_fuses(swapped):
    proto, modified = apply(GeluInFusedOrder, gelu(swapped=swapped))
    assert modified
    inner, outer = [node for node in proto.graph.node if node.op_type == "Mul"]
    assert set(inner.input) == {"x", "plus"}
    assert set(outer.input) == {inner.output[0], "half"}
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    left, right = (run_plain(p, {"x": x})[0] for p in (gelu(swapped=swapped), proto))
    assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("changes", [{"half": 0.25}, {"read_twice": True}])
def test_what_only_looks_like_a_gelu_is_left_alone(changes):
    before = gelu(**changes)
    after, modified = apply(GeluInFusedOrder, before)
    assert not modified
    assert after.graph.node == before.graph.node


def test_an_add_that_no_layer_norm_reads_stays_an_add():
    after, modified = apply(ResidualAsSum, gelu())
    assert not modified
    assert kinds_of(after).count("Add") == 1
