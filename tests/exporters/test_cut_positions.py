"""Tables of positions that end at a task's longest text: the same answers, fewer bytes, and a longer input is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx
from maskpack.exporters.graph.builder import GraphBuilder, serialize
from maskpack.exporters.graph.positions import LEFT_OUT, LONGEST
from maskpack.exporters.options import ExportRequest
from maskpack.exporters.session import make_session
from maskpack.formats import open_artifact
from maskpack.runtime import Session
from maskpack.tasks.context import ModelContext

MOST = 16
"""Tokens of the task's longest text."""
FIRST = {"roberta": 1}
"""Where an architecture begins to count positions, if not at 0: behind its padding token, which is 0 here."""
KINDS = (
    *("bert", "roberta", "grouped"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("albert", "electra", "distilbert")),
)


@pytest.fixture(scope="module")
def graphs(artifacts):
    """`graphs(kind, compute)`: the whole graph of a task and the one that was cut."""

    def make(kind, compute="int8"):
        artifact = open_artifact(artifacts[kind])
        context, entry = ModelContext.of_artifact(artifact), artifact.entry("sst2")
        assert entry.max_length == MOST
        return [
            serialize(GraphBuilder(artifact, context, compute, cut=cut).folded(entry))
            for cut in (False, True)
        ]

    return make


def arrays(graph):
    tensors = onnx.load_from_string(graph).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_positions_are_left_out_and_nothing_else(graphs, kind):
    whole, less = graphs(kind)
    before, after = arrays(whole), arrays(less)
    assert before.keys() == after.keys()
    cut = {name for name, array in after.items() if array.shape != before[name].shape}
    positions = {name for name in cut if "position_embeddings" in name}
    assert positions
    assert all("token_type" in name and len(after[name]) == 1 for name in cut - positions), (
        "RoBERTa's graph has no input for kinds of tokens, and reads the first row alone"
    )
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name][: len(array)] if array.ndim else array)
        if name in positions:
            assert len(array) == MOST + FIRST.get(kind, 0)
    told = {one.key: one.value for one in onnx.load_from_string(less).metadata_props}
    saved = sum(before[name].nbytes - after[name].nbytes for name in cut)
    assert told == {LONGEST: str(MOST), LEFT_OUT: str(saved)}
    assert not onnx.load_from_string(whole).metadata_props


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_answers_stay_and_a_longer_input_is_refused(graphs, tokens, kind, compute):
    whole, less = (make_session(graph) for graph in graphs(kind, compute))
    names = [value.name for value in whole.get_inputs()]
    for batch, length in ((1, 1), (2, 9), (3, MOST)):
        for padded in (False, True):
            feeds = tokens(names, batch, length, padded=padded)
            np.testing.assert_array_equal(less.run(None, feeds)[0], whole.run(None, feeds)[0])
    feeds = tokens(names, 2, MOST + 1)
    assert whole.run(None, feeds)[0].shape[0] == 2
    with pytest.raises((InvalidArgument, RuntimeError), match="out of data bounds"):
        less.run(None, feeds)


def test_every_constant_of_a_folded_graph_is_read(graphs):
    """So that nothing else, such as a pooler without a reader, is worth an option."""
    for graph in graphs("bert"):
        model = onnx.load_from_string(graph).graph
        inner = [one.g for node in model.node for one in node.attribute if one.HasField("g")]
        read = {name for part in (model, *inner) for node in part.node for name in node.input}
        assert {tensor.name for tensor in model.initializer} <= read


@pytest.fixture(scope="module")
def exports(artifacts, sentiment, tmp_path_factory):
    """Exported folders, whole and cut, and the report on the latter."""
    root, reports = tmp_path_factory.mktemp("cut"), []
    for cut in (False, True):
        request = ExportRequest(
            artifacts["bert"],
            "sst2",
            root / str(cut),
            "int8",
            Tolerance.of("int8", max_drop=100.0),
            sentiment,
            cut_positions=cut,
        )
        reports.append(export_onnx(request))
    return root / "False", root / "True", reports[1]


def test_a_cut_graph_is_verified_on_inputs_that_it_reads(exports):
    whole, less, report = exports
    assert report.ok, report.findings
    assert {check.sequence for check in report.values} == {1, 7, MOST}
    assert report.graph.longest == MOST
    saved = (whole / "model.onnx").stat().st_size - (less / "model.onnx").stat().st_size
    assert 0 < saved <= report.graph.cut_bytes
    assert report.graph.cut_bytes - saved < 200


def test_texts_of_any_length_are_answered_as_before(exports):
    whole, less, _ = exports
    texts = ["the good film", "", "we were very happy and the food was great " * 9]
    assert Session(less).predict(texts) == Session(whole).predict(texts)
    (long,) = Session(less).predict(texts[2:], windows=True)
    assert long == Session(whole).predict(texts[2:], windows=True)[0]
