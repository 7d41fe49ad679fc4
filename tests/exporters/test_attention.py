"""Attention by one operator where there is no padding: the same answers, and the plain nodes where there is some."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers
from export_kit import ROW_KINDS, shared_request

from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.attention import DOMAIN, OPERATOR, FuseAttention, find_attention
from maskpack.exporters.graph.trace import trace
from maskpack.models.families import family_of

every_kind = pytest.mark.parametrize("kind", ROW_KINDS)


def fused(proto):
    return ir.serde.serialize_model(FuseAttention()(ir.serde.deserialize_model(proto)).model)


def choices(proto):
    return [node for node in proto.graph.node if node.op_type == "If"]


def branch(node, name):
    return next(one.g for one in node.attribute if one.name == name)


def run(proto, feeds, *, optimise=True):
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


@every_kind
def test_every_layer_gets_a_branch_and_no_constant_is_left_over(traced, kind):
    before = traced(kind)
    after = fused(before)
    layers = sum(node.op_type == "Softmax" for node in before.graph.node)
    assert len(choices(after)) == layers > 0
    assert not any(node.op_type == "Softmax" for node in after.graph.node)
    for each in choices(after):
        (own,) = branch(each, "then_branch").node
        assert (own.domain, own.op_type) == (DOMAIN, OPERATOR)
        assert [node.op_type for node in branch(each, "else_branch").node].count("Softmax") == 1
    read = {name for node in after.graph.node for name in node.input}
    inner = [node for each in choices(after) for side in each.attribute for node in side.g.node]
    read |= {name for node in inner for name in node.input}
    ends = {value.name for value in after.graph.output}
    assert {name for node in after.graph.node for name in node.output} <= read | ends


@every_kind
def test_with_padding_the_bits_are_those_of_the_plain_nodes(traced, tokens, kind):
    before = traced(kind)
    names = [value.name for value in before.graph.input]
    feeds = tokens(names, 4, 19, padded=True)
    left, right = (run(one, feeds, optimise=False) for one in (before, fused(before)))
    assert left.tobytes() == right.tobytes()


@every_kind
@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (3, 7)])
def test_without_padding_the_answers_are_the_same_up_to_rounding(traced, tokens, kind, shape):
    before = traced(kind)
    names = [value.name for value in before.graph.input]
    feeds = tokens(names, *shape)
    np.testing.assert_allclose(run(fused(before), feeds), run(before, feeds), atol=2e-6)


def small(**options):
    return {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
        **options,
    }


def float_graph(config):
    torch.manual_seed(0)
    make = transformers.AutoModelForSequenceClassification.from_config
    return trace(make(config, attn_implementation="eager").eval(), family_of(config.model_type))


@pytest.mark.parametrize(
    "config",
    [transformers.LlamaConfig(**small()), transformers.ModernBertConfig(**small())],
    ids=lambda config: config.model_type,
)
def test_an_attention_with_rotated_positions_stays_as_it_is(config):
    model = float_graph(config)
    before = ir.serde.serialize_model(model).SerializeToString()
    assert not FuseAttention()(model).modified
    assert ir.serde.serialize_model(model).SerializeToString() == before


@pytest.fixture(scope="module")
def bert():
    return ir.serde.serialize_model(float_graph(transformers.BertConfig(**small())))


def attentions(model):
    return [one for node in model.graph if (one := find_attention(node)) is not None]


def test_heads_and_scale_are_those_of_the_graph(bert):
    found = attentions(ir.serde.deserialize_model(bert))
    assert [(one.heads, one.scale) for one in found] == [(4, pytest.approx(8**-0.5))] * 2


def test_an_attention_whose_weights_are_read_elsewhere_stays(bert):
    model = ir.serde.deserialize_model(bert)
    first = attentions(model)[0]
    softmax = next(node for node in first.nodes if node.op_type == "Softmax")
    model.graph.outputs.append(softmax.outputs[0])
    assert len(attentions(model)) == 1


def test_an_attention_with_scaled_values_stays(bert):
    model = ir.serde.deserialize_model(bert)
    product = next(node for node in attentions(model)[0].nodes if node.op_type == "Softmax")
    product = next(iter(product.outputs[0].consumers()))
    value = product.inputs[1]
    half = ir.node("Constant", [], {"value": ir.tensor(np.array(0.5, np.float32), name="half")})
    scaled = ir.node("Mul", [value, half.outputs[0]])
    for node in (half, scaled):
        model.graph.insert_before(product, node)
    product.replace_input_with(1, scaled.outputs[0])
    assert len(attentions(model)) == 1


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_an_export_is_fused_unless_told_otherwise(artifacts, tmp_path, layout):
    artifact = artifacts["bert"]
    counts = {}
    for name, options in (("fused", {}), ("plain", {"fused": False})):
        request = shared_request(artifact, tmp_path / name, layout=layout, packed=False, **options)
        assert all(report.ok for report in export_shared(request).values())
        graph = next((tmp_path / name).glob("*.onnx"))
        proto = ir.serde.serialize_model(ir.load(graph))
        counts[name] = len(choices(proto))
    assert counts == {"fused": 2, "plain": 0}
