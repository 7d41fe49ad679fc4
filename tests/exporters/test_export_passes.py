"""The rewrites on graphs of a handful of nodes, written down here."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from maskpack.exporters.arithmetic.fp32 import emit_fp32
from maskpack.exporters.arithmetic.int8 import emit_int8
from maskpack.exporters.graph import builder
from maskpack.exporters.graph.builder import serialize
from maskpack.exporters.graph.external_masks import ExternalBits, ExternalFlips, FoldedMasks
from maskpack.exporters.graph.passes import MaskLinears, QuantizeEmbeddings, RewriteContext
from maskpack.exporters.session import make_session
from maskpack.formats import BitMask, ExportError, QuantTensor

RNG = np.random.default_rng(3)
WIDTH, OUTPUTS = 8, 5
KEEP = RNG.random((OUTPUTS, WIDTH)) < 0.7
MASK = BitMask.from_bool(KEEP)
X = RNG.standard_normal((3, WIDTH)).astype(np.float32)
BIAS = RNG.standard_normal(OUTPUTS).astype(np.float32)
TRANSPOSE = helper.make_node("Transpose", ["model.fc.weight"], ["wt"], perm=[1, 0])


CODES = {
    8: np.arange(-127, 128),
    4: np.arange(-7, 8),
    2: np.array([-3, -1, 1, 3]),
    1: np.array([-1, 1]),
}


def make_tensor(group=WIDTH, *, bits=8):
    rng = np.random.default_rng(group)
    codes = rng.choice(CODES[bits], (OUTPUTS, WIDTH)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, (OUTPUTS, -(-WIDTH // group))).astype(np.float16)
    return QuantTensor(codes, scales, bits, group, zero_free=bits < 4)


def graph(*nodes, name="model.fc.weight", integer=False, width=OUTPUTS):
    """A model of `nodes` from `x` to `y` with one weight and one bias."""
    weight = np.zeros((OUTPUTS, WIDTH), dtype=np.float32)
    kind = TensorProto.INT64 if integer else TensorProto.FLOAT
    last = helper.make_node("Identity", ["y"], ["out"])  # a head follows every masked linear
    proto = helper.make_graph(
        [*nodes, last],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n"] if integer else ["n", WIDTH])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(weight, name), numpy_helper.from_array(BIAS, "bias")],
    )
    opset = [helper.make_opsetid("", 18)]
    return ir.serde.deserialize_model(helper.make_model(proto, opset_imports=opset, ir_version=8))


def linear(form):
    """A linear with bias as the tracer may write it."""
    if form == "gemm":
        node = helper.make_node("Gemm", ["x", "model.fc.weight", "bias"], ["y"], transB=1)
        return graph(node)
    product = helper.make_node("MatMul", ["x", "wt"], ["product"])
    return graph(TRANSPOSE, product, helper.make_node("Add", ["product", "bias"], ["y"]))


def insert(proto, *nodes):
    """Put nodes before the last one."""
    last = proto.graph.node.pop()
    proto.graph.node.extend([*nodes, last])


def run(model, x=X):
    return make_session(serialize(model)).run(None, {"x": x})[0]


def removed(tensor):
    """What the mask removes, flat in a graph's order."""
    return MASK.removed(tensor).T.reshape(-1)


def rewrite(model, emit, tensor, masks=FoldedMasks, **shared):
    how = RewriteContext(masks({"fc": removed(tensor)}), **shared)
    return MaskLinears({"fc.weight": tensor}, emit, how)(model)


def dynamic(x):
    """DynamicQuantizeLinear as the ONNX operator's page defines it."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    return codes.astype(np.int64), scale, zero


@pytest.mark.parametrize("form", ["gemm", "matmul"])
@pytest.mark.parametrize("group", [WIDTH, 4, 3])
def test_an_fp32_linear_equals_masked_weights_in_float(form, group):
    tensor = make_tensor(group)
    result = rewrite(linear(form), emit_fp32, tensor)
    weight = np.where(KEEP, tensor.dequantize(), 0)
    np.testing.assert_allclose(run(result.model), X @ weight.T + BIAS, rtol=1e-5, atol=1e-5)
    assert result.modified


@pytest.mark.parametrize("form", ["gemm", "matmul"])
def test_an_int8_linear_equals_integer_arithmetic_done_by_hand(form):
    tensor = make_tensor()
    found = run(rewrite(linear(form), emit_int8, tensor).model)
    codes, scale, zero = dynamic(X)
    weights = np.where(KEEP, tensor.codes, 0).astype(np.int64)
    wanted = ((codes - zero) @ weights.T) * (scale * tensor.scales[:, 0].astype(np.float64)) + BIAS
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("emit", [emit_int8, emit_fp32])
def test_only_integers_are_stored_where_groups_are_even(emit):
    model = rewrite(linear("matmul"), emit, make_tensor(4)).model
    assert "model.fc.weight" not in model.graph.initializers
    assert model.graph.initializers["fc.codes"].const_value.dtype == ir.DataType.INT8
    floats = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert {value.name for value in floats} == {"bias", "fc.scales"}
    assert not [node for node in model.graph if node.op_type == "Transpose"]


def test_uneven_groups_are_stored_as_masked_codes_too():
    tensor = make_tensor(3)
    model = rewrite(linear("matmul"), emit_fp32, tensor).model
    stored = model.graph.initializers["fc.codes"].const_value.numpy()
    np.testing.assert_array_equal(stored, np.where(KEEP, tensor.codes, 0).T)


@pytest.mark.parametrize("masks", [FoldedMasks, ExternalFlips, ExternalBits])
@pytest.mark.parametrize("emit", [emit_int8, emit_fp32])
@pytest.mark.parametrize("group", [WIDTH, 4, 3])
@pytest.mark.parametrize("bits", [4, 2, 1])
@pytest.mark.parametrize("divided", [False, True])
def test_wherever_the_mask_is_and_however_narrow_the_codes_the_product_is_the_same(
    masks, emit, group, bits, divided
):
    tensor = make_tensor(group, bits=bits)
    divisors = {"fc.weight": np.linspace(1, 3, WIDTH, dtype=np.float32)} if divided else {}
    wanted = run(rewrite(linear("gemm"), emit, tensor, divisors=divisors).model)
    model = rewrite(linear("gemm"), emit, tensor, masks, divisors=divisors, narrow=True).model
    assert ("fc.fields" in model.graph.initializers) == (masks is not FoldedMasks)
    np.testing.assert_array_equal(run(model), wanted)


@pytest.mark.parametrize("masks", [ExternalFlips, ExternalBits])
def test_a_mask_that_removes_nothing_or_everything_is_fine(masks):
    tensor = make_tensor(bits=4)
    for gone in (np.zeros(tensor.codes.size, bool), np.ones(tensor.codes.size, bool)):
        how = RewriteContext(masks({"fc": gone}))
        found = run(MaskLinears({"fc.weight": tensor}, emit_fp32, how)(linear("gemm")).model)
        weight = np.where(gone.all(), 0, tensor.dequantize())
        np.testing.assert_allclose(found, X @ weight.T + BIAS, rtol=1e-5, atol=1e-5)


def test_linears_that_read_the_same_activation_share_its_quantisation():
    proto = ir.serde.serialize_model(linear("gemm"))
    proto.graph.node[0].output[0] = "first"
    second = helper.make_node("Gemm", ["x", "model.gc.weight", "bias"], ["second"], transB=1)
    insert(proto, second, helper.make_node("Add", ["first", "second"], ["y"]))
    weight = proto.graph.initializer.add()
    weight.CopyFrom(next(t for t in proto.graph.initializer if t.name == "model.fc.weight"))
    weight.name = "model.gc.weight"
    tensors = {"fc.weight": make_tensor(), "gc.weight": make_tensor(4)}
    model = MaskLinears(tensors, emit_int8)(ir.serde.deserialize_model(proto)).model
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 2


@pytest.mark.parametrize("emit", [emit_int8, emit_fp32])
def test_a_renamed_linear_is_an_error_and_not_a_float_leftover(emit):
    node = helper.make_node("Gemm", ["x", "model.fc.w", "bias"], ["y"], transB=1)
    with pytest.raises(ExportError, match=r"does not hold the parameter `fc\.weight`"):
        rewrite(graph(node, name="model.fc.w"), emit, make_tensor())


@pytest.mark.parametrize(
    "nodes",
    [
        [TRANSPOSE, helper.make_node("Add", ["x", "wt"], ["y"])],
        [
            TRANSPOSE,
            helper.make_node("MatMul", ["x", "wt"], ["y"]),
            helper.make_node("Neg", ["wt"], ["other"]),
        ],
        [helper.make_node("Gemm", ["x", "model.fc.weight"], ["y"], transB=0)],
        [helper.make_node("Gemm", ["x", "model.fc.weight"], ["y"])],
        [helper.make_node("Mul", ["x", "model.fc.weight"], ["y"])],
    ],
    ids=["sum", "read-twice", "gemm-not-transposed", "gemm-plain", "product"],
)
def test_a_weight_that_is_not_used_as_a_linear_is_an_error(nodes):
    with pytest.raises(ExportError, match=r"`fc\.weight` is not used as a linear"):
        rewrite(graph(*nodes), emit_int8, make_tensor())


def test_an_embedding_is_looked_up_as_codes_and_widened_exactly():
    node = helper.make_node("Gather", ["model.fc.weight", "x"], ["y"])
    tensor = make_tensor()
    model = graph(node, integer=True, width=WIDTH)
    result = QuantizeEmbeddings({"fc.weight": tensor})(model)
    ids = np.array([4, 0, 0, 2])
    np.testing.assert_array_equal(run(result.model, ids), tensor.dequantize()[ids])
    assert result.modified
    assert "model.fc.weight" not in result.model.graph.initializers


def test_a_table_that_is_read_as_a_whole_is_widened_as_a_whole():
    node = helper.make_node("Gemm", ["x", "model.fc.weight"], ["y"], transB=1)
    tensor = make_tensor()
    result = QuantizeEmbeddings({"fc.weight": tensor})(graph(node))
    assert result.modified
    assert set(result.model.graph.initializers) == {"fc.codes", "fc.scales", "bias"}
    (found,) = make_session(serialize(result.model)).run(None, {"x": X})
    np.testing.assert_allclose(found, X @ tensor.dequantize().T, rtol=1e-5, atol=1e-5)


def test_linears_with_one_input_and_two_divisors_do_not_share_its_rounding():
    """DeBERTa-v3's key also reads positions, its value does not: their peaks differ."""
    names = ("fc", "fd")
    nodes = [
        helper.make_node("Gemm", ["x", f"model.{name}.weight"], [name], transB=1) for name in names
    ]
    proto = ir.serde.serialize_model(graph(*nodes, helper.make_node("Add", [*names], ["y"])))
    weight = np.zeros((OUTPUTS, WIDTH), dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "model.fd.weight"))
    tensor = make_tensor()
    divisor = np.linspace(1, 4, WIDTH, dtype=np.float32)
    tensors = {f"{name}.weight": tensor for name in names}
    passed = MaskLinears(tensors, emit_int8, RewriteContext(divisors={"fd.weight": divisor}))
    model = passed(ir.serde.deserialize_model(proto)).model
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in model.graph) == 2
    (found,) = make_session(serialize(model)).run(None, {"x": X})
    wanted = 2 * X @ tensor.dequantize().T
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_a_renamed_embedding_is_an_error():
    node = helper.make_node("Gather", ["model.e.weight", "x"], ["y"])
    with pytest.raises(ExportError, match=r"does not hold the parameter `fc\.weight`"):
        QuantizeEmbeddings({"fc.weight": make_tensor()})(
            graph(node, name="model.e.weight", integer=True)
        )


def test_a_table_that_no_node_reads_is_passed_over():
    node = helper.make_node("Gather", ["model.e.weight", "x"], ["y"])
    model = graph(node, name="model.e.weight", integer=True)
    unread = QuantTensor(np.ones((3, 2), np.int8), np.ones((3, 1), np.float32), 8, 2)
    before = serialize(model)
    assert not QuantizeEmbeddings({"unread.weight": unread})(model).modified
    assert serialize(model) == before


@pytest.mark.parametrize("rewriter", [MaskLinears({}, emit_int8), QuantizeEmbeddings({})])
def test_a_pass_with_nothing_to_do_says_that_it_changed_nothing(rewriter):
    model = linear("matmul")
    before = serialize(model)
    result = rewriter(model)
    assert not result.modified
    assert serialize(result.model) == before


def test_a_graph_that_the_checker_refuses_is_an_error():
    model = linear("matmul")
    proto = ir.serde.serialize_model(model)
    proto.graph.node[1].op_type = "MatMull"
    with pytest.raises(ExportError, match="not valid ONNX"):
        serialize(ir.serde.deserialize_model(proto))


def test_a_graph_as_large_as_a_protobuf_may_not_be_is_an_error(monkeypatch):
    model = linear("matmul")
    held = sum(each.const_value.nbytes for each in model.graph.initializers.values())
    monkeypatch.setattr(builder, "MOST_BYTES", held + 1)
    serialize(model)
    monkeypatch.setattr(builder, "MOST_BYTES", held)
    with pytest.raises(ExportError, match=f"{held} bytes of weights"):
        serialize(model)
