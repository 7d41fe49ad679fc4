"""Graphs of every family, in every layout, at every width, in int8 and fp32, against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from matrix import matrix

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.trace import PREFIX, trace
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.exporters.verify import SHAPES
from maskpack.formats import open_artifact
from maskpack.models.families import family_of
from maskpack.runtime import Session
from maskpack.tasks import find_task
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.data.splits import Split

FIVE = ("bert", "roberta", "electra", "distilbert", "albert")
MORE = ("deberta-v2", "deberta-v2-own", "modernbert", "xlnet", "gpt2", "llama")
BITS = (8, 4, 2, 1)
EXACT = 1e-4  # of a logit; what fp32 graphs promise

LAYOUTS, COMPUTES = ("folded", "shared", "swap"), ("fp32", "int8")


def meets_every_three(kind, bits, layout, compute):
    """Whether a case is of the half in which every three of the four axes meet with all of their values."""
    places = ([*FIVE, *MORE].index(kind), BITS.index(bits), LAYOUTS.index(layout))
    return COMPUTES.index(compute) == sum(places) % 2


CASES = [  # pairs at once, threes with the slow ones; all four together need twice as many and told no more
    case
    for case in matrix([*FIVE, *MORE], BITS, LAYOUTS, COMPUTES)
    if not case.marks or meets_every_three(*case.values)
]

every_new_kind = pytest.mark.parametrize("kind", MORE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, family_models, sentiment):
    """`learned(kind, bits)`: an artifact of three steps, enough for masks that remove something."""
    made: dict[tuple[str, int], Path] = {}

    def make(kind, bits):
        if (kind, bits) not in made:
            out = tmp_path_factory.mktemp("learned") / "artifact"
            config = FitConfig(
                bits=bits,
                group=0 if bits == 8 else 16,
                refine=0,
                steps=3,
                batch_size=16,
                max_length=16,
                precision="fp32",
                teacher="none",
                margin=0.5,
            )
            fit_task(
                FitRequest(str(family_models(kind)), find_task("sst2"), out, config, data=sentiment)
            )
            made[kind, bits] = out
        return made[kind, bits]

    return make


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """`exported(kind, bits, layout, compute)`: folder and verdict, made on first use."""
    made = {}

    def make(kind, bits, layout, compute):
        key = (kind, bits, layout, compute)
        if key not in made:
            out, way = tmp_path_factory.mktemp("graphs") / "out", Compute(compute)
            artifact, tolerance = trained(kind, bits), Tolerance.of(way)
            if layout == "folded":
                report = export_onnx(ExportRequest(artifact, "sst2", out, way, tolerance))
            else:
                request = SharedRequest(artifact, (), out, way, tolerance, layout=Layout(layout))
                report = export_shared(request)["sst2"]
            made[key] = (out, report)
        return made[key]

    return make


@pytest.mark.parametrize(("kind", "bits", "layout", "compute"), CASES)
def test_a_graph_computes_what_the_masked_torch_model_does(exported, kind, bits, layout, compute):
    _, report = exported(kind, bits, layout, compute)
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > 0
    assert len(report.values) == len(SHAPES)
    if compute == "fp32":
        assert max(check.max_diff for check in report.values) <= EXACT


def test_every_shape_is_looked_at_with_padding_and_without():
    assert {(1, 1, False), (1, 7, False), (5, 33, True), (3, 128, True)} <= set(SHAPES)


TEXTS = ["the good film", "bad", "", "we were very happy and the food was great " * 3, "nice bad"]


@every_new_kind
@pytest.mark.parametrize("layout", ["folded", "shared", "swap"])
def test_the_runtime_answers_as_torch_does(exported, trained, kind, layout):
    """Fed by `tokenizers` alone: padding, its side, token types, an empty text, one too long."""
    artifact = open_artifact(trained(kind, 8))
    model, entry = restore_task(artifact, "sst2"), artifact.entry("sst2")
    rows = (
        ModelContext.of_artifact(artifact)
        .preprocessor()
        .encode(
            Split(tuple((text,) for text in TEXTS), np.zeros(len(TEXTS), dtype=np.int64)),
            max_length=entry.max_length,
        )
    )
    predict = torch_predict(model)
    logits = np.concatenate([predict(rows.feeds(np.array([row]))) for row in range(len(TEXTS))])
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    session = Session(exported(kind, 8, layout, "fp32")[0])
    for size in (1, 5):
        answers = session.predict(TEXTS, batch_size=size)
        found = [[answer.scores[label] for label in entry.labels] for answer in answers]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "albert", "deberta-v2-own", "gpt2"])
def test_a_kept_graph_with_other_values_is_that_of_a_fresh_trace(trained, kind):
    def traced(bits, **options):
        model = restore_task(open_artifact(trained(kind, bits)), "sst2", attention="eager")
        model.config.update(options)
        graph = trace(model, family_of(model.config.model_type))
        return ir.serde.serialize_model(graph).SerializeToString(deterministic=True)

    first, kept = traced(8), traced(4)
    assert kept != first
    assert kept == traced(4, note="a configuration that was never traced")


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("deberta-v2", []),
        ("deberta-v2-own", ["token_type_ids"]),
        ("modernbert", []),
        ("xlnet", ["token_type_ids"]),
        ("gpt2", []),
        ("llama", []),
    ],
)
def test_a_graph_asks_for_what_its_family_reads(exported, kind, extra):
    graph = onnx.load(str(exported(kind, 8, "folded", "fp32")[0] / "model.onnx")).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", *extra]


@every_new_kind
def test_no_float_weight_is_left_but_what_is_no_linear(exported, trained, kind):
    backbone = open_artifact(trained(kind, 8)).backbone
    taken = {tensor.shape for tensor in backbone.linears.values()}
    graph = onnx.load(str(exported(kind, 8, "folded", "int8")[0] / "model.onnx")).graph
    heads = {f"{PREFIX}{name}" for name in open_artifact(trained(kind, 8)).patch("sst2").head}
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in heads:
            shape = tuple(tensor.dims)
            assert shape not in taken | {shape[::-1] for shape in taken}, tensor.name


def test_a_head_is_never_among_what_tasks_share(exported, trained):
    """The base of Llama and ModernBERT is called `model`, as what the tracer puts before all names."""
    folder, _ = exported("modernbert", 8, "shared", "fp32")
    graph = onnx.load(str(folder / "sst2.onnx"), load_external_data=False).graph
    outside = {tensor.name for tensor in graph.initializer if tensor.external_data}
    heads = {
        f"{PREFIX}{name}" for name in open_artifact(trained("modernbert", 8)).patch("sst2").head
    }
    assert outside
    assert not outside & heads
    assert (folder / "backbone.bin").stat().st_size < 80_000 * 4


def test_gpt2s_triangle_is_stored_once(exported):
    graph = onnx.load(str(exported("gpt2", 8, "folded", "fp32")[0] / "model.onnx")).graph
    flags = [t for t in graph.initializer if t.data_type == onnx.TensorProto.BOOL]
    assert sum(len(t.dims) == 4 for t in flags) <= 1  # none with release 5 of transformers
