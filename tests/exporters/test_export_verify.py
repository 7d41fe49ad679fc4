"""The judge must refuse every graph that is not the one it is said to be."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from maskpack.exporters import Compute, Subject, Tolerance
from maskpack.exporters.verify import SHAPES, compute_of, verify, without_padding
from maskpack.formats import ArtifactError, DataError, ExportError, VerifyError
from maskpack.models.load import load_classifier

STRICT = Tolerance(1e-4, 100.0)
LOOSE = Tolerance(1e6, 100.0)


@pytest.fixture
def verified(exported, tmp_path):
    """`judged(change, ...)`: the verdict on the float graph of the BERT after `change(proto)`."""

    def run(change, *, compute="fp32", tolerance=STRICT, task="sst2", data=None, reference=None):
        one = exported("bert", compute)
        proto = one.proto()
        change(proto)
        path = tmp_path / "model.onnx"
        onnx.save(proto, str(path))
        return verify(
            Subject(path, one.artifact, task, Compute(compute), tolerance, data, reference)
        )

    return run


def unchanged(_):
    pass


def edit(proto, name, change):
    """Replace the initialiser `name` by `change(array)`."""
    (held,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()), name))


def finding(zeros, found):
    """What is said of a graph that does not hold every zero of the mask."""
    return f"the mask removes {zeros} weights, the graph has {found} zeros in their places"


def test_the_graph_itself_passes_with_every_figure(verified, sentiment):
    report = verified(unchanged, data=sentiment)
    assert report.ok
    assert len(report.values) == len(SHAPES)
    assert [(v.batch, v.argmax) for v in report.values] == [(b, b) for b, _, _ in SHAPES]
    assert max(check.sequence for check in report.values) == 64  # as long as the encoder can
    assert report.accuracy.rows == 32
    assert report.accuracy.metric == "accuracy"
    assert report.accuracy.graph == report.accuracy.torch
    assert report.accuracy.agreement == 1.0
    assert report.session["graph_optimization_level"] == "ORT_ENABLE_ALL"
    assert report.session["providers"] == "CPUExecutionProvider"


def test_the_facts_are_those_of_the_file(exported):
    one = exported("bert", "int8")
    facts, count = one.report.graph, one.artifact.patch("sst2").count
    assert facts.bytes == one.graph.stat().st_size
    nodes = one.proto().graph.node
    branches = [side.g.node for node in nodes for side in node.attribute]
    assert facts.nodes == len(nodes) + sum(map(len, branches)) > len(nodes)
    assert (facts.opset, facts.ir_version) == (18, 8)
    assert (facts.masked_weights, facts.mask_zeros) == (count.weights, count.zeros)
    arrays = one.arrays()
    codes = [arrays[f"{one.stem(name)}.codes"] for name in one.keeps()]
    assert facts.code_zeros == sum(int((array == 0).sum()) for array in codes)
    assert facts.code_zeros >= facts.removed == facts.mask_zeros > 0


@pytest.mark.parametrize("layer", ["layer.0.attention.self.query", "layer.1.output.dense"])
def test_one_flipped_code_is_found(verified, layer):
    def flip(codes):
        place = np.unravel_index(int(np.abs(codes.astype(int)).argmax()), codes.shape)
        codes[place] = -codes[place]
        return codes

    report = verified(lambda proto: edit(proto, f"bert.encoder.{layer}.codes", flip))
    assert any("differ by" in line for line in report.findings)


def test_one_weight_that_the_mask_removed_and_the_graph_kept_is_found(verified, exported):
    keep = exported("bert", "fp32").keeps()["encoder.layer.0.output.dense.weight"]
    o, i = np.argwhere(~keep)[0]

    def restore_weight(codes):
        assert codes[0, i, o] == 0
        codes[0, i, o] = 127
        return codes

    report = verified(
        lambda proto: edit(proto, "bert.encoder.layer.0.output.dense.codes", restore_weight)
    )
    assert any("differ by" in line for line in report.findings)


def test_a_graph_with_fewer_zeros_than_the_mask_is_found_whatever_the_tolerance(verified, exported):
    stems = [exported("bert", "int8").stem(name) for name in exported("bert", "int8").keeps()]

    def forget(proto):
        for stem in stems:
            edit(proto, f"{stem}.codes", lambda codes: np.where(codes == 0, np.int8(1), codes))

    report = verified(forget, compute="int8", tolerance=LOOSE)
    assert (report.graph.code_zeros, report.graph.removed) == (0, 0)
    assert report.findings == (finding(report.graph.mask_zeros, 0),)
    assert len(report.values) == len(SHAPES)  # nothing hides behind a finding


def test_zeros_in_other_places_do_not_make_up_for_those_the_mask_wants(verified, exported):
    one = exported("bert", "int8")
    name, keep = next(iter(one.keeps().items()))

    def turn(codes):
        return np.where(keep.T, np.int8(0), np.where(codes == 0, np.int8(1), codes))

    report = verified(
        lambda proto: edit(proto, f"{one.stem(name)}.codes", turn), compute="int8", tolerance=LOOSE
    )
    facts = report.graph
    lost = int((~keep).sum())
    assert lost > 0
    assert facts.code_zeros > one.report.graph.code_zeros > facts.mask_zeros
    assert report.findings == (finding(facts.mask_zeros, facts.mask_zeros - lost),)


def test_a_masked_linear_that_is_not_in_the_graph_is_found(verified, exported):
    one = exported("bert", "fp32")
    name, keep = next(iter(one.keeps().items()))

    def rename(proto):
        for held in proto.graph.initializer:
            held.name = held.name.replace(f"{one.stem(name)}.codes", "elsewhere")
        for node in proto.graph.node:
            for place, read in enumerate(node.input):
                node.input[place] = read.replace(f"{one.stem(name)}.codes", "elsewhere")

    report = verified(rename)
    zeros = report.graph.mask_zeros
    assert report.findings == (finding(zeros, zeros - int((~keep).sum())),)


def test_swapped_labels_are_found(verified, sentiment):
    def swap(proto):
        for name in ("model.classifier.weight", "model.classifier.bias"):
            edit(proto, name, lambda array: np.ascontiguousarray(array[::-1]))

    report = verified(swap, data=sentiment)
    assert any("values at" in line for line in report.findings)
    assert any("evaluation data differ" in line for line in report.findings)


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_a_graph_of_another_task_is_found(verified, exported, sentiment, compute):
    other = exported("bert", compute, "other").proto()
    tolerance = Tolerance.of(Compute(compute), max_drop=100.0)  # the metric does not help here
    report = verified(
        lambda proto: proto.CopyFrom(other), compute=compute, tolerance=tolerance, data=sentiment
    )
    assert any("values at" in line for line in report.findings)
    assert any("evaluation data differ" in line for line in report.findings)


def test_a_float_graph_in_place_of_an_integer_one_is_still_the_same_task(exported):
    one = exported("bert", "fp32")
    assert verify(Subject(one.graph, one.artifact, "sst2", Compute.INT8, STRICT)).ok


@pytest.mark.parametrize("kind", ["bert", "grouped"])
@pytest.mark.parametrize("compute", list(Compute))
def test_the_arithmetic_of_a_graph_is_read_from_its_operators(exported, kind, compute):
    assert compute_of(exported(kind, str(compute)).graph) == compute


def test_the_arithmetic_of_what_is_no_graph_is_an_error(tmp_path):
    with pytest.raises(VerifyError, match="no graph at") as error:
        compute_of(tmp_path / "model.onnx")
    assert "export the task" in error.value.hint
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(VerifyError, match="is not an ONNX graph"):
        compute_of(tmp_path / "model.onnx")


def test_a_missing_input_is_found(verified):
    def drop(proto):
        values = [value for value in proto.graph.input if value.name != "token_type_ids"]
        del proto.graph.input[:]
        proto.graph.input.extend(values)
        zeros = helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"])
        proto.graph.node.insert(0, zeros)

    (line,) = verified(drop).findings
    assert line == (
        "inputs are ['input_ids', 'attention_mask'], "
        "expected ['input_ids', 'attention_mask', 'token_type_ids']"
    )


def test_inputs_in_another_order_are_found(verified):
    def turn(proto):
        values = list(proto.graph.input)[::-1]
        del proto.graph.input[:]
        proto.graph.input.extend(values)

    assert "inputs are ['token_type_ids'" in verified(turn).findings[0]


@pytest.mark.parametrize("axis", [0, 1])
def test_fixed_axes_are_found(verified, axis):
    def fix(proto):
        for value in proto.graph.input:
            value.type.tensor_type.shape.dim[axis].dim_value = 7

    report = verified(fix)
    shape = [7, "sequence"] if axis == 0 else ["batch", 7]
    assert f"input `input_ids` is tensor(int64) {shape}" in report.findings
    assert len([line for line in report.findings if line.startswith("input ")]) == 3


def test_logits_of_another_width_are_found(verified):
    def widen(proto):
        (node,) = [node for node in proto.graph.node if "logits" in node.output]
        node.output[list(node.output).index("logits")] = "narrow"
        proto.graph.node.append(
            helper.make_node("Concat", ["narrow", "narrow"], ["logits"], axis=1)
        )
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4

    (line,) = verified(widen).findings
    assert line == "outputs are [('logits', ['batch', 4])], expected logits of 2"


def test_a_renamed_output_is_found(verified):
    def rename(proto):
        (node,) = [node for node in proto.graph.node if "logits" in node.output]
        node.output[list(node.output).index("logits")] = "scores"
        proto.graph.output[0].name = "scores"

    assert verified(rename).findings == (
        "outputs are [('scores', ['batch', 2])], expected logits of 2",
    )


def test_a_logit_that_is_not_a_number_is_found_everywhere(verified, sentiment):
    def poison(proto):
        edit(proto, "model.classifier.bias", lambda bias: np.full_like(bias, np.nan))

    report = verified(poison, tolerance=LOOSE, data=sentiment)
    assert all(math.isnan(check.max_diff) for check in report.values)
    assert len([line for line in report.findings if "differ by nan" in line]) == len(SHAPES) + 1
    usual = verified(poison, compute="int8", tolerance=Tolerance.of(Compute.INT8))
    assert len([line for line in usual.findings if "differ by nan%" in line]) == len(SHAPES)


def test_a_length_that_was_baked_in_is_an_error_that_names_the_shape(verified):
    def bake(proto):
        for node in proto.graph.node:
            for place, name in enumerate(node.input):
                if name == "input_ids":
                    node.input[place] = "baked"
        zeros = numpy_helper.from_array(np.zeros((1, 7), dtype=np.int64), "zeros")
        proto.graph.initializer.append(zeros)
        proto.graph.node.insert(0, helper.make_node("Add", ["input_ids", "zeros"], ["baked"]))

    with pytest.raises(ExportError, match=r"fails on an input of \((2, 16|1, 1)\)"):
        verified(bake)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 100])
def test_bytes_that_are_no_graph_are_an_error(exported, tmp_path, data):
    one = exported("bert", "int8")
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ExportError, match="refuses the graph"):
        verify(Subject(path, one.artifact, "sst2", Compute.INT8, LOOSE))


def test_a_truncated_graph_is_an_error(exported, tmp_path):
    one = exported("bert", "int8")
    path = tmp_path / "model.onnx"
    path.write_bytes(one.graph.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="refuses the graph"):
        verify(Subject(path, one.artifact, "sst2", Compute.INT8, LOOSE))


def test_a_graph_that_is_not_there_is_an_error_with_the_command_that_makes_it(exported, tmp_path):
    one = exported("bert", "int8")
    with pytest.raises(VerifyError, match="no graph at") as error:
        verify(Subject(tmp_path / "model.onnx", one.artifact, "sst2", Compute.INT8, LOOSE))
    assert "export the task" in error.value.hint


def test_a_task_that_the_artifact_does_not_hold_is_an_error(verified):
    with pytest.raises(ArtifactError, match="has no task `nope`") as error:
        verified(unchanged, task="nope")
    assert "other, sst2" in error.value.hint


def test_without_data_nothing_is_said_about_accuracy(verified):
    report = verified(unchanged)
    assert report.ok
    assert report.accuracy is None


def test_evaluation_data_that_is_not_there_is_an_error(verified, tmp_path):
    with pytest.raises(DataError):
        verified(unchanged, data=tmp_path / "nowhere")


def reference_of(model, outputs, folder):
    load_classifier(str(model), outputs=outputs).save_pretrained(folder)
    return str(folder)


def test_a_reference_is_scored_on_the_same_rows(verified, tiny_models, sentiment, tmp_path):
    reference = reference_of(tiny_models["bert"], 2, tmp_path / "reference")
    report = verified(unchanged, data=sentiment, reference=reference)
    assert report.ok
    assert 0.0 <= report.accuracy.reference <= 1.0
    assert verified(unchanged, data=sentiment).accuracy.reference is None


def test_a_reference_with_another_number_of_labels_is_refused(
    verified, tiny_models, sentiment, tmp_path
):
    reference = reference_of(tiny_models["bert"], 3, tmp_path / "reference")
    with pytest.raises(VerifyError, match="has 3 outputs, the task has 2"):
        verified(unchanged, data=sentiment, reference=reference)


def test_a_reference_of_an_architecture_without_token_types_is_scored(
    verified, tiny_models, sentiment, tmp_path
):
    reference = reference_of(tiny_models["distilbert"], 2, tmp_path / "reference")
    report = verified(unchanged, data=sentiment, reference=reference)
    assert report.accuracy.reference is not None


def test_a_reference_that_cannot_be_scored_is_not_passed_over_in_silence(verified, tmp_path):
    with pytest.raises((VerifyError, DataError)):
        verified(unchanged, reference=str(tmp_path / "nowhere"))


def test_wrong_token_types_are_found_without_data(verified):
    def shuffle(proto):
        edit(
            proto,
            "bert.embeddings.token_type_embeddings.codes",
            lambda codes: np.stack([codes[0], -codes[1]]),
        )

    assert not verified(shuffle).ok


def test_values_are_the_same_in_every_run(verified):
    left, right = verified(unchanged), verified(unchanged)
    assert left == right
    assert left.to_json() == right.to_json()


def test_values_at_padding_are_not_compared_where_each_token_has_some():
    """A token whose window holds padding alone has other values in every arithmetic."""
    feeds = {"attention_mask": np.array([[1, 1, 1], [1, 0, 0]])}
    of_tokens = np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2)
    found = without_padding(of_tokens, feeds)
    assert found.tolist() == [[[1, 2], [3, 4], [5, 6]], [[7, 8], [0, 0], [0, 0]]]
    of_rows, of_texts = np.ones((2, 3), dtype=np.float32), np.ones((2, 4, 2), dtype=np.float32)
    assert without_padding(of_rows, feeds) is of_rows
    assert without_padding(of_texts, feeds) is of_texts
    assert without_padding(of_tokens, {"pixel_values": of_rows}) is of_tokens
