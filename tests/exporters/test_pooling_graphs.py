"""Graphs of tasks that pool in another way than their family's class: the masked torch model's answers in every layout."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoTokenizer

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.formats import ExportError, ModelError, open_artifact
from maskpack.runtime import Session
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task

LOOSE = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=0.5)
FAMILIES = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "deberta-v2",
    "modernbert",
    "xlnet",
)
TEXTS = ["the good film", "we were very sad " * 4, "bad", ""]


def learned(model, data, out, **options):
    config = FitConfig(
        **{
            "bits": 4,
            "group": 16,
            "steps": 3,
            "batch_size": 16,
            "max_length": 16,
            "precision": "fp32",
            "teacher": "none",
            "margin": 0.5,
            **options,
        }
    )
    fit_task(
        FitRequest(str(model), find_task("sst2"), out, config, data=data, name=options["pooling"])
    )
    return out


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [*((kind, "mean") for kind in (*FAMILIES, "gpt2", "llama")), ("bert", "cls"), ("bert", "last")],
)
def test_a_folded_graph_is_the_masked_model(family_models, sentiment, tmp_path, kind, pooling):
    artifact = learned(family_models(kind), sentiment, tmp_path / "a", pooling=pooling)
    tolerance = Tolerance.of(Compute.FP32)
    report = export_onnx(ExportRequest(artifact, pooling, tmp_path / "g", Compute.FP32, tolerance))
    assert report.ok, report.findings
    assert max(check.max_diff for check in report.values) <= 1e-4
    assert report.graph.removed == report.graph.mask_zeros > 0
    own = open_artifact(artifact).patch(pooling).masks
    assert not any(name.startswith("pooler.") for name in own)


@pytest.fixture(scope="module")
def several(tmp_path_factory, tiny_model, sentiment):
    """An artifact whose tasks pool in three ways."""
    out = tmp_path_factory.mktemp("several") / "artifact"
    for pooling in ("mean", "pooler", "last"):
        learned(tiny_model, sentiment, out, pooling=pooling, trunk="1")
    return out


@pytest.mark.parametrize("compute", ["int8", "fp32", "nbits"])
@pytest.mark.parametrize("layout", ["shared", "trunk"])
def test_tasks_that_pool_differently_share_weights(several, tmp_path, layout, compute):
    way = Compute(compute)
    tolerance = Tolerance.of(way, max_drop=100.0, rtol=0.5)
    request = SharedRequest(several, (), tmp_path / "g", way, tolerance, layout=Layout(layout))
    reports = export_shared(request)
    assert {name: report.ok for name, report in reports.items()} == dict.fromkeys(
        ("mean", "pooler", "last"), True
    ), {name: report.findings for name, report in reports.items()}
    for name, report in reports.items():
        assert report.graph.removed == report.graph.mask_zeros, name
    session = Session(tmp_path / "g")
    found = [[answer.score for answer in session.predict(TEXTS, task=name)] for name in reports]
    assert len({tuple(np.round(scores, 6)) for scores in found}) == 3


def test_one_graph_of_all_tasks_cannot_pool_in_two_ways(several, tmp_path):
    request = SharedRequest(
        several, ("mean", "pooler"), tmp_path / "g", Compute.INT8, LOOSE, layout=Layout.SWAP
    )
    with pytest.raises(ExportError, match="differ in their operators") as caught:
        export_shared(request)
    assert "shared" in str(caught.value.advice)
    assert not (tmp_path / "g").exists()


def test_tasks_that_pool_alike_swap_in_one_graph(tiny_model, sentiment, tmp_path):
    artifact = learned(tiny_model, sentiment, tmp_path / "a", pooling="mean")
    layout = SharedRequest(
        artifact, ("mean",), tmp_path / "g", Compute.INT8, LOOSE, layout=Layout.SWAP
    )
    report = export_shared(layout)["mean"]
    assert report.ok, report.findings
    names = {value.name for value in onnx.load(tmp_path / "g" / "base.onnx").graph.input}
    assert not any("pooler" in name for name in names)


def test_a_graph_without_a_pooler_holds_none(several, tmp_path):
    sizes = {}
    for name in ("mean", "pooler"):
        request = ExportRequest(several, name, tmp_path / name, Compute.INT8, LOOSE)
        export_onnx(request)
        graph = onnx.load(tmp_path / name / "model.onnx")
        sizes[name] = [each.name for each in graph.graph.initializer if "bert.pooler" in each.name]
    assert sizes["mean"] == []
    assert sizes["pooler"]


@pytest.mark.parametrize("name", ["mean", "last"])
def test_a_plain_model_with_another_pooling_is_one_of_sentence_transformers(
    several, tmp_path, name
):
    artifact = open_artifact(several)
    write_hf(artifact, name, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["architectures"], len(config["id2label"])) == (["BertModel"], 2)

    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(str(tmp_path / "hf"), device="cpu").encode(TEXTS)
    model, tokenizer = restore_task(artifact, name), AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        own = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=16))
            .logits[0]
            .numpy()
            for text in TEXTS
        ]
    assert np.abs(found - np.stack(own)).max() < 1e-5


def test_a_plain_model_of_pairs_is_one_of_transformers_only(tiny_model, write, tmp_path):
    config = FitConfig(bits=4, group=16, steps=1, max_length=16, teacher="none", pooling="mean")
    rows = write(
        "rows.csv", "a,b,label\n" + "the film,it was good,yes\nwe saw it,it was bad,no\n" * 8
    )
    task, out = (
        find_task("pairs", text_field="a", pair_field="b", label_field="label"),
        tmp_path / "a",
    )
    fit_task(FitRequest(str(tiny_model), task, out, config, data=rows))
    with pytest.raises(ModelError, match="of pairs of texts: `BertForSequenceClassification`"):
        write_hf(open_artifact(out), "pairs", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_plain_model_behind_a_pooler_is_one_of_transformers(several, tmp_path):
    write_hf(open_artifact(several), "pooler", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
