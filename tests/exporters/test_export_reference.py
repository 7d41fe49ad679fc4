"""The dense graph that an exported one is measured against: the same weights, as floats."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import onnx
import pytest
from export_kit import KINDS

from maskpack.exporters import Compute, Tolerance, make_session, ort_predict
from maskpack.exporters.bench import reference as twin_module
from maskpack.exporters.bench.reference import PEERS, float_graph, masked_graph, write_peers
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.dequantize import Constants
from maskpack.exporters.graph.trace import input_names
from maskpack.exporters.options import SharedRequest
from maskpack.formats import ExportError
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import ModelContext, restore_task

COMPUTES = ("fp32", "int8")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, artifacts):
    """`shared(kind, compute)`: the graph of `sst2` over a shared file, made on first use."""
    made = {}

    def make(kind, compute):
        if (kind, compute) not in made:
            out = tmp_path_factory.mktemp("shared") / f"{kind}-{compute}"
            tolerance = Tolerance.of(Compute(compute))
            export_shared(
                SharedRequest(artifacts[kind], (), out, Compute(compute), tolerance, verify=False)
            )
            made[kind, compute] = out / "sst2.onnx"
        return made[kind, compute]

    return make


def feeds_of(artifact, tokens):
    """Padded tokens for what the architecture reads."""
    context = ModelContext.of_artifact(artifact)
    return tokens(input_names(context.family, context.config), 3, 11, padded=True)


def graph_of(layout, kind, compute, exported, shared):
    return exported(kind, compute).graph if layout == "folded" else shared(kind, compute)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_the_twin_of_an_exact_graph_answers_as_torch_does(exported, shared, tokens, kind, layout):
    one = exported(kind, "fp32")
    twin = ort_predict(make_session(float_graph(graph_of(layout, kind, "fp32", exported, shared))))
    feeds = feeds_of(one.artifact, tokens)
    wanted = torch_predict(restore_task(one.artifact, "sst2"))(feeds)
    np.testing.assert_allclose(twin(feeds), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_the_twin_of_an_integer_graph_holds_the_masked_weights(exported, shared, kind, layout):
    """Up to what requantising rounds: half a step of the largest weight over 127, and no mask's zero."""
    one = exported(kind, "int8")
    graph = onnx.load_from_string(float_graph(graph_of(layout, kind, "int8", exported, shared)))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    linears = one.artifact.patch("sst2").over(one.artifact.backbone).linears
    keeps = one.keeps()
    assert sum(not keep.all() for keep in keeps.values()) > 2
    for name, tensor in linears.items():
        found, wanted = arrays[f"{one.base}.{name}"].T, tensor.dequantize()
        # a divided channel is rounded in smaller steps; its divisor is at least 1
        step = np.abs(wanted).max(axis=1, keepdims=True) / 127
        assert (np.abs(found - wanted) <= 8 * step).all(), name
        assert np.abs(found - wanted).mean() < step.mean(), name
        if name in keeps:
            assert (found[~keeps[name]] == 0).all()


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_the_twin_is_an_ordinary_graph(exported, shared, compute, layout):
    graph = onnx.load_from_string(float_graph(graph_of(layout, "bert", compute, exported, shared)))
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "ScatterElements", "Sum"} & set(kinds)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    heavy = [t for t in graph.graph.initializer if np.prod(t.dims) > 64]
    assert len(heavy) > 12
    assert {tensor.data_type for tensor in heavy} <= floats
    assert not graph.graph.value_info


def test_an_integer_product_of_another_form_is_an_error(exported, tmp_path):
    graph = exported("bert", "int8").proto()
    for node in graph.graph.node:
        if node.op_type == "MatMulInteger":
            between = onnx.helper.make_node("Identity", [node.output[0]], ["between"])
            for user in graph.graph.node:
                for place, name in enumerate(user.input):
                    if name == node.output[0]:
                        user.input[place] = "between"
            graph.graph.node.insert(list(graph.graph.node).index(node) + 1, between)
            break
    onnx.save(graph, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match="of a form that cannot be widened") as error:
        float_graph(tmp_path / "odd.onnx")
    assert "`artifact`" in error.value.hint


def test_a_graph_without_its_weights_is_an_error(shared, tmp_path):
    shutil.copy(shared("bert", "int8"), tmp_path)
    with pytest.raises(ExportError, match="cannot read the graph"):
        float_graph(tmp_path / "sst2.onnx")
    (tmp_path / "no.onnx").write_text("nothing")
    with pytest.raises(ExportError, match="cannot read the graph"):
        float_graph(tmp_path / "no.onnx")


def test_a_graph_beyond_what_protobuf_holds_is_an_error(exported, monkeypatch):
    graph = exported("bert", "int8").graph
    monkeypatch.setattr(twin_module, "_MOST_BYTES", graph.stat().st_size)
    with pytest.raises(ExportError, match=f"has {graph.stat().st_size} bytes, too many"):
        float_graph(graph)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_task_is_traced_as_it_is(exported, tokens, kind):
    artifact = exported(kind, "fp32").artifact
    graph = masked_graph(artifact, "sst2")
    feeds = feeds_of(artifact, tokens)
    wanted = torch_predict(restore_task(artifact, "sst2"))(feeds)
    found = ort_predict(make_session(graph))(feeds)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert"])
def test_quantize_dynamic_sees_every_linear(exported, kind, tmp_path):
    artifact = exported(kind, "fp32").artifact
    (tmp_path / "dense.onnx").write_bytes(masked_graph(artifact, "sst2"))
    peers = write_peers(tmp_path / "dense.onnx", tmp_path)
    assert list(peers) == list(PEERS)
    for path in peers.values():
        graph = onnx.load(path)
        held = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8}
        wanted = len(artifact.backbone.linears)
        assert sum(name.endswith("_quantized") for name in held) >= wanted
    left, right = (path.read_bytes() for path in peers.values())
    assert left != right


def test_what_a_graph_computes_from_its_initialisers_is_constant():
    helper = onnx.helper
    nodes = [
        helper.make_node("Add", ["a", "a"], ["twice"]),
        helper.make_node("Neg", ["twice"], ["less"]),
        helper.make_node("Mul", ["x", "less"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "xy"]
    stored = onnx.numpy_helper.from_array(np.array([1, 2], "f4"), "a")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [stored])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    constants = Constants(model)
    assert [name for name in ("a", "twice", "less", "x", "y", None) if name in constants] == [
        "a",
        "twice",
        "less",
    ]
    found = constants.read(["less", "a"])
    assert {name: array.tolist() for name, array in found.items()} == {
        "less": [-2.0, -4.0],
        "a": [1.0, 2.0],
    }
    with pytest.raises(KeyError):
        constants.read(["y"])
