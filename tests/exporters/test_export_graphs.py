"""Exported graphs of all four architectures: what lies in the file, and what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_kit import KINDS, ROW_KINDS, shared_request

from maskpack.exporters import (
    ExportRequest,
    Tolerance,
    export_onnx,
    export_shared,
    make_session,
    ort_predict,
)
from maskpack.exporters.graph.builder import GraphBuilder, serialize
from maskpack.exporters.options import Compute
from maskpack.formats import ExportError
from maskpack.formats.channels import channel_weights
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import ModelContext, restore_task

COMPUTES = ("int8", "fp32")
# Activations that masked linears read: four a layer, and the pooler's or the projection's.
DISTINCT_INPUTS = {"bert": 9, "roberta": 8, "electra": 9, "distilbert": 8, "albert": 10}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_row_kind = pytest.mark.parametrize("kind", ROW_KINDS)
every_compute = pytest.mark.parametrize("compute", COMPUTES)


@every_kind
@every_compute
def test_the_checker_passes_the_graph_at_opset_18_and_ir_8(exported, kind, compute):
    model = exported(kind, compute).proto()
    onnx.checker.check_model(model, full_check=True)
    own = [("com.microsoft", 1)] if compute == "int8" else []
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18), *own]
    assert model.ir_version == 8


@every_kind
@every_compute
def test_every_operator_is_a_standard_one_but_attention_without_padding(exported, kind, compute):
    model = exported(kind, compute).proto()
    assert {node.domain for node in model.graph.node} == {""}
    inner = [
        node for choice in model.graph.node for side in choice.attribute for node in side.g.node
    ]
    assert bool(inner) == (compute == "int8")
    assert {node.op_type for node in inner if node.domain} == {"MultiHeadAttention"} & {
        node.op_type for node in inner
    }
    assert not model.functions


@every_kind
@every_compute
def test_axes_are_named_batch_and_sequence_and_the_width_is_fixed(exported, kind, compute):
    one = exported(kind, compute)
    graph = one.proto().graph
    names = ["input_ids", "attention_mask"]
    if kind not in {"roberta", "distilbert"}:
        names.append("token_type_ids")
    assert [value.name for value in graph.input] == names
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param for dim in dims] == ["batch", "sequence"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    (logits,) = graph.output
    batch, width = logits.type.tensor_type.shape.dim
    assert (logits.name, batch.dim_param, width.dim_value) == ("logits", "batch", 2)


@every_kind
@every_compute
def test_no_metadata_no_docs_and_no_local_path_is_in_the_file(exported, kind, compute):
    one = exported(kind, compute)
    model, data = one.proto(), one.graph.read_bytes()
    for part in [
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.value_info,
    ]:
        assert not part.metadata_props, part
        assert not part.doc_string, part
    repository = str(Path(__file__).resolve().parents[2])
    for path in ("/tmp", "site-packages", repository, str(one.artifact_path), ".py"):
        assert path.encode() not in data, path


@every_compute
def test_no_metadata_is_on_inputs_and_outputs(exported, compute):
    graph = exported("bert", compute).proto().graph
    for value in [*graph.input, *graph.output]:
        assert not value.metadata_props, value
        assert not value.doc_string, value


@every_kind
def test_no_other_file_of_the_folder_tells_a_local_path(exported, kind):
    folder = exported(kind, "int8").folder
    for file in folder.iterdir():
        data = file.read_bytes()
        for path in (b"/tmp", b"site-packages", str(folder).encode()):
            assert path not in data, (file.name, path)


@every_kind
@every_compute
def test_no_float_copy_of_a_masked_weight_is_left(exported, kind, compute):
    one = exported(kind, compute)
    arrays, head = one.arrays(), one.artifact.patch("sst2").head
    floats = {
        name: array
        for name, array in arrays.items()
        if array.dtype.kind == "f" and name.removeprefix("model.") not in head
    }
    shapes = {keep.shape for keep in one.keeps().values()}
    for name, array in floats.items():
        assert array.shape not in shapes | {shape[::-1] for shape in shapes}, name
    for name, tensor in one.artifact.backbone.linears.items():
        assert f"model.{one.base}.{name}" not in arrays
        assert arrays[f"{one.stem(name)}.codes"].dtype == np.int8
        masked = one.artifact.patch("sst2").masks[name].apply(tensor).dequantize()
        for array in floats.values():
            assert array.size != masked.size or not np.isin(array, masked).all()


@every_kind
@every_compute
def test_embeddings_are_stored_as_codes_alone(exported, kind, compute):
    one = exported(kind, compute)
    arrays = one.arrays()
    for name, tensor in one.artifact.backbone.embeddings.items():
        np.testing.assert_array_equal(arrays[f"{one.stem(name)}.codes"], tensor.codes)
        assert f"model.{one.base}.{name}" not in arrays


def divisors_of(one):
    return GraphBuilder(one.artifact, ModelContext.of_artifact(one.artifact), Compute.INT8).divisors


@every_row_kind
@every_compute
def test_codes_are_the_backbones_with_a_zero_wherever_the_mask_has_one(exported, kind, compute):
    one = exported(kind, compute)
    arrays, zeros = one.arrays(), 0
    divisors = divisors_of(one) if compute == "int8" else {}
    for name, keep in one.keeps().items():
        codes = arrays[f"{one.stem(name)}.codes"].reshape(keep.shape[::-1]).T
        tensor = one.artifact.backbone.linears[name]
        divisor = divisors.get(f"{one.base}.{name}")
        whole = tensor.codes if divisor is None else channel_weights(tensor, divisor).codes.T
        np.testing.assert_array_equal(codes, whole * keep)
        assert not codes[~keep].any()
        zeros += int((~keep).sum())
    assert zeros > 500  # the test means something: about a weight in ten


def test_grouped_codes_are_requantised_with_a_zero_wherever_the_mask_has_one(exported):
    one = exported("grouped", "int8")
    arrays, divisors = one.arrays(), divisors_of(one)
    for name, keep in one.keeps().items():
        codes = arrays[f"{one.stem(name)}.codes"]
        assert not codes.T[~keep].any()
        tensor = one.artifact.backbone.linears[name]
        weights = channel_weights(tensor, divisors.get(f"{one.base}.{name}"))
        np.testing.assert_array_equal(codes, weights.codes * keep.T)
        np.testing.assert_array_equal(arrays[f"{one.stem(name)}.scales"], weights.scales)


def test_grouped_codes_are_the_backbones_in_the_float_graph(exported):
    one = exported("grouped", "fp32")
    arrays, zeros = one.arrays(), 0
    for name, keep in one.keeps().items():
        groups = arrays[f"{one.stem(name)}.codes"]
        assert groups.shape[1] == 16
        codes = groups.reshape(keep.shape[::-1]).T
        np.testing.assert_array_equal(codes, one.artifact.backbone.linears[name].codes * keep)
        zeros += int((~keep).sum())
    assert zeros > 0


@every_row_kind
def test_each_distinct_activation_is_quantised_once(exported, kind):
    graph = exported(kind, "int8").proto().graph
    quantized = [node for node in graph.node if node.op_type == "DynamicQuantizeLinear"]
    inputs = [node.input[0] for node in quantized]
    assert len(set(inputs)) == len(inputs) == DISTINCT_INPUTS[kind]
    by_codes = {node.output[0]: node.output for node in quantized}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    repeats = 6 if kind == "albert" else 0  # the second round of its one layer
    assert len(products) == len(exported(kind, "int8").keeps()) + repeats
    for product in products:
        assert len(product.input) == 3  # a zero point for the weights would slow it down
        assert product.input[2] == by_codes[product.input[0]][2]


@every_row_kind
@every_compute
def test_the_runtime_finds_nothing_to_fuse_badly(exported, kind, compute, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    graph = str(exported(kind, compute).graph)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    # ELECTRA's head has a GELU of its own.
    assert sum(name in {"Gelu", "BiasGelu"} for name in kinds) == (3 if kind == "electra" else 2)
    assert "Erf" not in kinds
    assert "SkipLayerNormalization" not in kinds
    if compute == "int8":
        assert "MatMulIntegerToFloat" in kinds or "DynamicQuantizeMatMul" in kinds
        assert "MatMulInteger" not in kinds


@every_kind
@pytest.mark.parametrize(
    ("batch", "sequence", "padded"),
    [(1, 1, False), (1, 7, False), (4, 16, True), (2, 64, False), (7, 33, True)],
)
def test_the_float_graph_equals_torch(exported, tokens, kind, batch, sequence, padded):
    one = exported(kind, "fp32")
    session = make_session(one.graph, threads=1)
    feeds = tokens([v.name for v in session.get_inputs()], batch, sequence, padded=padded)
    wanted = torch_predict(restore_task(one.artifact, "sst2"))(feeds)
    found = ort_predict(session)(feeds)
    assert found.shape == (batch, 2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@every_kind
def test_the_integer_graph_is_near_torch_and_padding_changes_little(exported, tokens, kind):
    one = exported(kind, "int8")
    session = make_session(one.graph, threads=1)
    names = [value.name for value in session.get_inputs()]
    masked, graph = torch_predict(restore_task(one.artifact, "sst2")), ort_predict(session)
    for batch, sequence in ((1, 1), (5, 24)):
        feeds = tokens(names, batch, sequence, padded=True)
        # activations have 8 bits: hundredths of the logits' range
        np.testing.assert_allclose(graph(feeds), masked(feeds), rtol=0, atol=0.3)


def test_other_tokens_give_other_logits(exported, tokens):
    for compute in COMPUTES:
        graph = ort_predict(make_session(exported("bert", compute).graph))
        feeds = tokens(["input_ids", "attention_mask", "token_type_ids"], 4, 9)
        logits = graph(feeds)
        for name in feeds:
            changed = {**feeds, name: np.where(feeds[name] == 0, 1, feeds[name] - 1)}
            assert np.abs(graph(changed) - logits).max() > 1e-3, name


@pytest.mark.parametrize(("kind", "compute"), [("bert", "int8"), ("grouped", "fp32")])
def test_the_same_task_gives_the_same_bytes_twice(exported, tmp_path, kind, compute):
    one = exported(kind, compute)
    tolerance = Tolerance(None, 0.0)
    request = ExportRequest(
        one.artifact_path, "sst2", tmp_path / "again", one.compute, tolerance, verify=False
    )
    assert export_onnx(request) is None
    again = {path.name: path.read_bytes() for path in request.out.iterdir()}
    first = {path.name: path.read_bytes() for path in one.folder.iterdir()}
    assert again == {name: data for name, data in first.items() if "report" not in name}


def test_tasks_of_one_backbone_differ_in_their_masks_and_heads_alone(exported):
    left, right = exported("bert", "int8").arrays(), exported("bert", "int8", "other").arrays()
    # peaks differ a little with the mask, and with them factors and scales
    follows = (".factor", ".scales")
    left = {name: array for name, array in left.items() if not name.endswith(follows)}
    right = {name: array for name, array in right.items() if not name.endswith(follows)}
    assert left.keys() == right.keys()
    changed = {name for name in left if not np.array_equal(left[name], right[name])}
    one = exported("bert", "int8")
    codes = {f"{one.stem(name)}.codes" for name in one.keeps()}
    assert changed - codes == {"model.classifier.weight", "model.classifier.bias"}
    assert changed & codes


@pytest.mark.parametrize("compute", COMPUTES)
def test_a_shared_layer_s_weights_are_stored_once(exported, compute):
    graph = exported("albert", compute).proto().graph
    names = [tensor.name for tensor in graph.initializer]
    stored = [name for name in names if ".query." in name and name.endswith(".codes")]
    used = [node for node in graph.node for name in node.input if name in stored]
    assert len(stored) == 1
    assert len(used) == (2 if compute == "int8" else 1)  # floats are widened once for both
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_weights_past_what_a_file_holds_lie_beside_it_or_are_refused_before_it_is_written(
    exported, tmp_path, monkeypatch
):
    one = exported("bert", "int8")
    artifact = one.artifact.path
    monkeypatch.setattr("maskpack.exporters.graph.builder.MOST_BYTES", 10_000)
    request = ExportRequest(artifact, "sst2", tmp_path / "out", "int8", Tolerance.of("int8"))
    assert export_onnx(request).ok
    assert (tmp_path / "out" / "model.onnx_data").stat().st_size > 10_000
    builder = GraphBuilder(one.artifact, ModelContext.of_artifact(one.artifact), "int8")
    with pytest.raises(ExportError, match=r"a file of ONNX holds less than 10,000") as caught:
        serialize(builder.folded(one.artifact.entry("sst2")))
    assert "`shared` layout" in str(caught.value.hint)
    monkeypatch.setattr("maskpack.exporters.graph.builder.MOST_BYTES", 15_000)
    report = export_shared(shared_request(artifact, tmp_path / "shared"))
    assert (tmp_path / "shared" / "backbone.bin").stat().st_size > 15_000
    assert all(one.ok for one in report.values())
