"""Tables of 4, 3 and 2 bits: what graphs hold of them, and that all layouts and arithmetics compute with them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.quantization.quantize import quantize_model, token_table
from maskpack.compressor.quantization.rounding import quantize_minmax, quantize_mse
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.bench.reference import float_graph
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.look_ups import row_look_up
from maskpack.exporters.graph.weights import narrow_table
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.formats import (
    ArtifactError,
    ConfigError,
    QuantTensor,
    Scheme,
    check_artifact,
    open_artifact,
)
from maskpack.formats.mixed_rows import MixedRows
from maskpack.runtime import Session
from maskpack.tasks import TrimRequest, find_task, trim_vocabulary


def table_of(bits, rows=7, width=21, seed=0):
    weight = np.random.default_rng(seed).normal(0, 1, (rows, width)).astype("f4")
    return (quantize_minmax if bits == 8 else quantize_mse)(weight, bits, None)


def looked_up(tensor, ids, *, alone=True):
    """Rows of a graph that holds the table alone, and its initialisers."""
    asked = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(ids.shape))
    last = ir.node("Identity", [asked])
    graph = ir.Graph([asked], [], nodes=[last], opset_imports={"": 18}, name="table")
    editor = GraphEditor(graph, last, "words")
    result = row_look_up(tensor, alone=alone)(editor, asked)
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * (ids.ndim + 1))
    graph.outputs.append(result)
    graph.remove(last)
    data = ir.serde.serialize_model(ir.Model(graph, ir_version=8)).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    stored = {name: each.const_value.numpy() for name, each in graph.initializers.items()}
    return session.run(None, {"ids": ids})[0], stored


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([8, 4, 3, 2]), st.integers(1, 40), st.integers(0, 99))
def test_rows_of_every_width_are_the_tensors_to_the_last_bit(bits, width, seed):
    tensor = table_of(bits, width=width, seed=seed)
    ids = np.array([[0, 3, 6], [3, 3, 1]])
    rows, _ = looked_up(tensor, ids)
    np.testing.assert_array_equal(rows, tensor.dequantize()[ids])


def mixed_table(bits, marks, width=21, seed=0):
    is_wide = np.array(marks, dtype=bool)
    wide = table_of(bits, int(is_wide.sum()), width, seed)
    return MixedRows(wide, table_of(2, int((~is_wide).sum()), width, seed + 1), is_wide)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([8, 4, 3]), st.integers(1, 40), st.integers(0, 99), st.integers(1, 126))
def test_rows_of_two_widths_are_the_tensors_to_the_last_bit(bits, width, seed, marks):
    tensor = mixed_table(bits, [marks >> row & 1 for row in range(7)], width, seed)
    ids = np.array([[0, 3, 6, 1], [5, 2, 4, 4]])
    rows, _ = looked_up(tensor, ids)
    np.testing.assert_array_equal(rows, tensor.dequantize()[ids])


def test_a_graph_holds_rare_rows_in_two_bits_and_a_place_for_each_row():
    table = mixed_table(4, [1, 0, 0, 1, 0, 0, 0], width=384)
    _, stored = looked_up(table, np.array([0, 1]))
    assert stored["words.fields.wide"].nbytes == 2 * 192
    assert stored["words.fields.rare"].nbytes == 5 * 96
    assert stored["words.places"].dtype == np.int16
    _, stored = looked_up(table, np.array([0]), alone=False)
    assert set(stored) == {"words.codes", "words.scales"}, "a decoder multiplies with whole rows"


@pytest.mark.parametrize(("bits", "bytes_a_row"), [(8, 384), (4, 192), (3, 144), (2, 96)])
def test_a_graph_holds_a_row_in_its_own_width(bits, bytes_a_row):
    _, stored = looked_up(table_of(bits, width=384), np.array([0, 1]))
    held = [each for name, each in stored.items() if name.startswith(("words.codes", "words.f"))]
    assert sum(each.nbytes for each in held) == 7 * bytes_a_row
    assert all(each.itemsize == 1 for each in held)


def test_a_table_that_is_multiplied_too_is_held_once():
    _, stored = looked_up(table_of(4), np.array([0]), alone=False)
    assert set(stored) == {"words.codes", "words.scales"}


def test_a_row_of_zeros_stays_zero():
    weight = np.zeros((2, 16), dtype="f4")
    weight[1] = np.linspace(-1, 1, 16)
    for bits in (4, 3, 2):
        tensor = quantize_mse(weight, bits, None)
        rows, _ = looked_up(tensor, np.array([0]))
        assert not rows.any(), bits


def test_planes_are_the_fields():
    codes = np.array([[-7, -5, -3, -1, 1, 3, 5, 7, 7]], dtype="i1")
    narrow = narrow_table(QuantTensor(codes, np.ones((1, 1), dtype="f2"), 3, 9, True))
    low, high = narrow.planes
    assert (low.bits, low.shift, high.bits, high.shift) == (2, 0, 1, 2)
    # fields 0 ... 7 7: low bits 0 1 2 3 0 1 2 3 3, three columns apart; high bits 0 0 0 0 1 1 1 1 1, two apart
    assert low.packed.tolist() == [[0 | 3 << 2 | 2 << 4, 1 | 0 << 2 | 3 << 4, 2 | 1 << 2 | 3 << 4]]
    assert high.packed.tolist() == [[0b11100, 0b01100]]
    assert (narrow.middle, narrow.scales.item()) == (3.5, 2.0)


class Encoder(nn.Module):
    """Two tables, as BERT's words and positions."""

    def __init__(self):
        super().__init__()
        self.positions, self.words = nn.Embedding(64, 8), nn.Embedding(64, 8)

    def get_input_embeddings(self):
        return self.words


def test_the_table_of_tokens_is_found():
    assert token_table(Encoder()) == "words.weight"
    assert token_table(nn.Linear(2, 2)) is None
    assert torch.is_tensor(Encoder().words.weight)


def test_narrow_embeddings_of_a_model_without_tokens_are_refused():
    with pytest.raises(ConfigError, match="`embedding_bits` is 3, and the model has no embeddings"):
        quantize_model(nn.Sequential(nn.Linear(8, 8)), Scheme(8, None, "minmax", 3))
    assert quantize_model(nn.Sequential(nn.Linear(8, 8)), Scheme(8, None, "minmax", 8)).linears


QUICK = {
    "bits": 4,
    "group": 16,
    "steps": 3,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "teacher": "none",
    "margin": 0.5,
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory, family_models, sentiment):
    """`learned(kind, width)`: an artifact whose token embeddings have that width; `layers` that its mask covers."""
    made = {}

    def make(kind, width, layers=None):
        if (kind, width, layers) not in made:
            out = tmp_path_factory.mktemp("narrow") / "artifact"
            config = FitConfig(**QUICK, embedding_bits=width, layers=layers)
            model = str(family_models(kind))
            fit_task(FitRequest(model, find_task("sst2"), out, config, data=sentiment))
            made[kind, width, layers] = out
        return made[kind, width, layers]

    return make


KINDS = ("bert", "gpt2", "albert", "deberta-v2", "modernbert")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [4, 3, 2])
def test_only_tokens_are_narrow(kind, width, learned):
    artifact = open_artifact(learned(kind, width))
    widths = sorted(each.bits for each in artifact.backbone.embeddings.values())
    assert widths.count(width) == 1
    assert set(widths) <= {width, 8}
    assert artifact.manifest.requires == (("embedding-3",) if width == 3 else ())


def test_a_table_of_three_bits_that_the_manifest_does_not_name_is_refused(learned, tmp_path):
    folder = shutil.copytree(learned("bert", 3), tmp_path / "copy")
    manifest = folder / "maskpack.json"
    tree = json.loads(manifest.read_text())
    del tree["requires"]
    manifest.write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="`embedding-3`, which `requires` does not name"):
        _ = open_artifact(folder).backbone


def test_the_name_without_a_table_of_three_bits_is_refused(learned, tmp_path):
    folder = shutil.copytree(learned("bert", 4), tmp_path / "copy")
    manifest = folder / "maskpack.json"
    tree = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**tree, "requires": ["embedding-3"]}))
    with pytest.raises(ArtifactError, match="`embedding-3`, and no table of the backbone has 3"):
        _ = open_artifact(folder).backbone
    assert any("`embedding-3`" in finding for finding in check_artifact(folder))


WAYS = [("folded", way) for way in ("fp32", "int8", "fp16", "nbits")]
WAYS += [("shared", "fp32"), ("shared", "int8"), ("swap", "int8"), ("trunk", "int8")]


@pytest.mark.parametrize(("layout", "way"), WAYS)
@pytest.mark.parametrize("width", [4, 3, 2, "auto"])
def test_graphs_of_every_layout_compute_with_narrow_rows(width, layout, way, learned, tmp_path):
    artifact = learned("bert", width, "1" if layout == "trunk" else None)
    out, compute = tmp_path / "out", Compute(way)
    tolerance = Tolerance.of(compute, max_drop=100.0)
    if layout == "folded":
        reports = [export_onnx(ExportRequest(artifact, "sst2", out, compute, tolerance))]
    else:
        request = SharedRequest(artifact, (), out, compute, tolerance, layout=Layout(layout))
        reports = list(export_shared(request).values())
    assert [report.ok for report in reports] == [True], [report.findings for report in reports]
    answers = Session(out).predict(["a warm and funny film", "it is a long bore"], task="sst2")
    assert len(answers) == 2


@pytest.mark.parametrize("width", [8, 4, 3, 2, "auto"])
@pytest.mark.parametrize("way", ["fp32", "int8"])
def test_a_float_graph_has_float_tables(width, way, learned, tmp_path):
    """What `bench` compares with, and what fp16 rounds."""
    out, compute = tmp_path / "out", Compute(way)
    tolerance = Tolerance.of(compute, max_drop=100.0)
    export_onnx(ExportRequest(learned("bert", width), "sst2", out, compute, tolerance))
    model = onnx.load_from_string(float_graph(out / "model.onnx"))
    assert not [node.op_type for node in model.graph.node if node.op_type == "BitShift"]
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    backbone = open_artifact(learned("bert", width)).backbone
    for name, table in backbone.embeddings.items():
        np.testing.assert_array_equal(stored[f"bert.{name}"], table.dequantize(), err_msg=name)


@pytest.mark.parametrize("width", [3, "auto"])
def test_an_older_opset_holds_narrow_rows(width, learned, tmp_path):
    out, tolerance = tmp_path / "out", Tolerance.of(Compute.FP32, max_drop=100.0)
    request = ExportRequest(learned("bert", width), "sst2", out, Compute.FP32, tolerance, opset=17)
    assert export_onnx(request).ok


def test_cut_positions_leave_rows_of_tokens_alone(learned, tmp_path):
    """Their index follows from the numbers of tokens, of which some inputs show a few."""
    tolerance = Tolerance.of(Compute.FP32, max_drop=100.0)
    made = {}
    for cut in (False, True):
        out = tmp_path / str(cut)
        request = ExportRequest(
            learned("bert", "auto"), "sst2", out, Compute.FP32, tolerance, cut_positions=cut
        )
        assert export_onnx(request).ok
        model = onnx.load(out / "model.onnx")
        made[cut] = {each.name: list(each.dims) for each in model.graph.initializer}
    changed = {name for name, dims in made[True].items() if dims != made[False][name]}
    assert changed
    assert all("position" in name for name in changed), changed


def test_a_vocabulary_of_fewer_tokens_keeps_both_widths(learned, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("the film was great\nvery quite awful food\n")
    whole = open_artifact(learned("bert", "auto"))
    trim_vocabulary(TrimRequest(str(whole.path), tmp_path / "fewer", (texts,)))
    fewer = open_artifact(tmp_path / "fewer")
    assert check_artifact(fewer.path) == []
    ids = {word: row for row, word in enumerate(whole.file("vocab.txt").decode().split("\n"))}
    kept = [ids[word] for word in fewer.file("vocab.txt").decode().split("\n") if word]
    name = next(n for n, each in whole.backbone.embeddings.items() if isinstance(each, MixedRows))
    before, after = (one.backbone.embeddings[name] for one in (whole, fewer))
    np.testing.assert_array_equal(after.dequantize(), before.dequantize()[kept])
    texts = ["the film was great"]
    first, second = (
        Session(graph_of(one.path, tmp_path)).predict(texts)[0] for one in (whole, fewer)
    )
    assert first.scores == second.scores


def graph_of(artifact, folder):
    out, tolerance = folder / f"{artifact.name} graph", Tolerance.of(Compute.INT8, max_drop=100.0)
    assert export_onnx(ExportRequest(artifact, "sst2", out, Compute.INT8, tolerance)).ok
    return out


@pytest.mark.parametrize("kind", ["gpt2", "albert", "deberta-v2", "modernbert"])
def test_rows_of_two_widths_of_other_families(kind, learned):
    artifact = open_artifact(learned(kind, "auto"))
    assert artifact.manifest.requires == ("embedding-rows",)
    assert artifact.manifest.scheme.embedding_bits == 4
    found = [one for one in artifact.backbone.embeddings.values() if isinstance(one, MixedRows)]
    assert len(found) == 1
