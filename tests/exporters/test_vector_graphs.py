"""Vectors beside classes on one backbone: learned, exported in every layout, and loaded by sentence-transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from node_kit import in_node, needs_node

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.config import DENSE_TEACHER
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.bench import reference
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ConfigError, open_artifact
from maskpack.formats.pooling import pooling_of
from maskpack.models.load import load_finetuned
from maskpack.runtime import Embedding, Session
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.evaluation.exported import assess_exported

EXACT = Tolerance.of(Compute.FP32)
WORDS = ["the", "film", "was", "story", "very", "we", "it"]
TEXTS = ["word1 the film", "film", "", "we was very very word3 word3"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Texts that share one telling word."""
    rng = np.random.default_rng(3)

    def text(word):
        words = [*rng.choice(WORDS, 3), word]
        return " ".join(rng.permutation(words))

    rows = []
    for _ in range(160):
        word, other = (f"word{n}" for n in rng.choice(18, 2, replace=False))
        rows.append({"query": text(word), "positive": text(word), "apart": text(other)})
    folder = tmp_path_factory.mktemp("pairs")
    found = [{key: row[key] for key in ("query", "positive")} for row in rows]
    scored = [
        {"a": row["query"], "b": row["positive" if n % 2 else "apart"], "score": 5 * (n % 2)}
        for n, row in enumerate(rows)
    ]
    for name, part in (("found", found), ("scored", scored)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return folder


FIND = find_task("find", text_field="query", label_field="positive", kind="retrieval")
ALIKE = find_task("alike", text_field="a", pair_field="b", label_field="score", kind="similarity")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, pairs, quick):
    """A classifier, and two tasks that give vectors."""
    out = tmp_path_factory.mktemp("three") / "artifact"
    more = quick(steps=60, margin=0.5)
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, quick(), data=sentiment))
    own = replace(FIND, prefixes=("we : ", "it : "))
    fit_task(FitRequest(str(tiny_model), own, out, more, data=pairs / "found.jsonl"))
    fit_task(FitRequest(str(tiny_model), ALIKE, out, more, data=pairs / "scored.jsonl"))
    return out


def test_vectors_are_learned(artifact, pairs):
    opened = open_artifact(artifact)
    found = assess(opened, "find", data=pairs / "found.jsonl")
    assert found.scores["recall_at_10"] > found.majority["recall_at_10"] + 0.1
    alike = assess(opened, "alike", data=pairs / "scored.jsonl")
    assert alike.scores["spearman"] > 0.2
    assert opened.patch("find").head == {}
    assert str(pooling_of(opened.entry("find"))) == "mean"


def test_a_dense_model_teaches(tmp_path, tiny_model, pairs, quick):
    config = quick(steps=8, teacher=DENSE_TEACHER)
    request = FitRequest(str(tiny_model), FIND, tmp_path / "a", config, data=pairs / "found.jsonl")
    assert fit_task(request).scores["ndcg_at_10"] > 0
    dense = BaselineConfig(steps=8, batch_size=16, max_length=16, precision="fp32")
    result = run_baseline(BaselineRequest(str(tiny_model), FIND, dense, data=pairs / "found.jsonl"))
    assert 0 < result.scores["ndcg_at_10"] < 1
    head = BaselineRequest(str(tiny_model), FIND, replace(dense, method="head"))
    with pytest.raises(ConfigError, match="a retrieval, whose models have no head to train"):
        run_baseline(replace(head, data=pairs / "found.jsonl"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_dense_model_is_a_folder_of_sentence_transformers(
    pooling, tmp_path, tiny_model, pairs, quick
):
    """Its vectors are those of the library, and it is the model, the teacher and the reference of a task."""
    library = pytest.importorskip("sentence_transformers")
    data, dense = pairs / "found.jsonl", tmp_path / "dense"
    own = replace(FIND, prefixes=("we : ", "it : "))
    config = BaselineConfig(
        steps=40, batch_size=16, max_length=16, precision="fp32", lr=1e-3, pooling=pooling
    )
    result = run_baseline(BaselineRequest(str(tiny_model), own, config, dense, data=data))
    tree = json.loads((dense / "config.json").read_text())
    assert tree["architectures"] == ["BertModel"]
    assert not [name for name in tree if "maskpack" in name]
    told = json.loads((dense / "1_Pooling" / "config.json").read_text())
    assert [name for name, value in told.items() if value is True] == [
        "pooling_mode_cls_token" if pooling == "cls" else "pooling_mode_mean_tokens"
    ]
    model = library.SentenceTransformer(str(dense), device="cpu")
    assert model.max_seq_length == 16
    assert model.prompts["document"] == "it : "
    theirs = model.encode(TEXTS, prompt="we : ", normalize_embeddings=False)
    loaded = load_finetuned(str(dense), vectors=True)
    read = model.tokenize([f"we : {text}" for text in TEXTS])
    with torch.no_grad():
        ours = loaded(read["input_ids"], read["attention_mask"]).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    taught = quick(steps=30, teacher=str(dense), margin=0.5)
    run = fit_task(FitRequest(str(dense), own, tmp_path / "a", taught, data=data))
    assert run.options["teacher"] == "dense"
    assert str(pooling_of(open_artifact(tmp_path / "a").entry("find"))) == pooling
    again = replace(taught, teacher_states=1.0)
    assert fit_task(FitRequest(str(tiny_model), own, tmp_path / "b", again, data=data)).steps == 30
    request = ExportRequest(
        tmp_path / "a",
        "find",
        tmp_path / "g",
        "fp32",
        replace(EXACT, max_drop=100.0),
        data=data,
        reference=str(dense),
    )
    report = export_onnx(request)
    assert report.ok, report.findings
    assert report.accuracy.reference == pytest.approx(result.score, abs=1e-6)


def test_a_folded_graph_gives_vectors(artifact, pairs, tmp_path):
    out, data = tmp_path / "graph", pairs / "found.jsonl"
    report = export_onnx(ExportRequest(artifact, "find", out, "fp32", EXACT, data=data))
    assert report.ok
    outputs = [value.name for value in onnx.load(str(out / "model.onnx")).graph.output]
    assert outputs == ["sentence_embedding", "last_hidden_state"]
    session = Session(out)
    vectors = session.embed(TEXTS)
    assert vectors.shape == (4, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    answers = session.predict(TEXTS)
    assert all(isinstance(one, Embedding) for one in answers)
    assert np.array_equal(np.stack([one.vector for one in answers]), vectors)
    assert answers[0].to_dict()["vector"] == pytest.approx(vectors[0].tolist(), abs=1e-6)
    assert not np.allclose(session.embed(TEXTS, second=True), vectors), "other words stand before"
    scores = assess_exported(open_artifact(artifact), out, data=data).scores
    assert scores == assess(open_artifact(artifact), "find", data=data).scores


def test_a_trunk_carries_vectors(tmp_path, tiny_model, pairs, quick):
    place, out, data = tmp_path / "a", tmp_path / "g", pairs / "found.jsonl"
    fit_task(FitRequest(str(tiny_model), FIND, place, quick(layers="1", steps=3), data=data))
    request = SharedRequest(place, (), out, "fp32", EXACT, data={"find": data}, layout="trunk")
    assert all(report.ok for report in export_shared(request).values())
    assert Session(out).embed(TEXTS).shape == (4, 32)


def test_the_pooling_of_vectors_is_that_of_their_start(
    artifact, tmp_path, tiny_model, pairs, quick
):
    data = pairs / "found.jsonl"
    wanted = quick(steps=3, pooling="cls")
    fit_task(FitRequest(str(tiny_model), FIND, tmp_path / "a", wanted, data=data))
    again = FitRequest(
        str(tiny_model),
        FIND,
        tmp_path / "b",
        quick(steps=3),
        data=data,
        start=(tmp_path / "a", "find"),
    )
    fit_task(again)
    assert str(pooling_of(open_artifact(tmp_path / "b").entry("find"))) == "cls"
    with pytest.raises(ConfigError, match="not read through a pooler"):
        fit_task(replace(again, start=None, out=tmp_path / "c", config=quick(pooling="pooler")))


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_they_share_a_backbone_with_a_classifier(artifact, pairs, sentiment, tmp_path, layout):
    data = {"find": pairs / "found.jsonl", "alike": pairs / "scored.jsonl", "sst2": sentiment}
    out = tmp_path / layout
    request = SharedRequest(artifact, (), out, "fp32", EXACT, data=data, layout=layout)
    assert all(report.ok for report in export_shared(request).values())
    session = Session(out)
    assert session.embed(TEXTS, task="alike").shape == (4, 32)
    assert session.predict(TEXTS, task="sst2")[0].label in {"negative", "positive"}
    with pytest.raises(ConfigError, match="`sst2` is a classification and gives no vectors"):
        session.embed(TEXTS, task="sst2")
    if layout == "swap":
        assert (out / "base-sentence-similarity.onnx").is_file()


def test_int8_keeps_directions(artifact, pairs, tmp_path):
    tolerance = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=0.5)
    exact, rounded = tmp_path / "exact", tmp_path / "rounded"
    data = pairs / "scored.jsonl"
    export_onnx(ExportRequest(artifact, "alike", exact, "fp32", EXACT, data=data))
    report = export_onnx(ExportRequest(artifact, "alike", rounded, "int8", tolerance, data=data))
    assert report.accuracy.agreement > 0.5
    left, right = (Session(one).embed(TEXTS[:2]) for one in (exact, rounded))
    assert (left * right).sum(axis=1).min() > 0.95


VECTOR = """
import fs from "node:fs";
import { load } from "./predict.mjs";
const [task, found] = [await load("find"), []];
const texts = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
for (const more of [[], [{ second: true }], [null, { second: false }]])
  for (const text of texts) found.push((await task.answer(text, ...more)).vector);
for (const text of texts) found.push(await task.logits(text, { second: true }));
console.log(JSON.stringify(found));
"""


def test_packages_give_the_vectors_of_the_runtime(artifact, pairs, tmp_path):
    out, texts = tmp_path / "graph", TEXTS[:2]
    export_onnx(ExportRequest(artifact, "find", out, "fp32", EXACT, data=pairs / "found.jsonl"))
    wanted = Session(out).embed(texts)
    package = write_package(PackageRequest(out, tmp_path / "ort", Target.ORT)).out
    assert "| a vector of a text, near to those" in (package / "README.md").read_text()
    for flags in ([], ["--second"]):
        command = [sys.executable, str(package / "predict.py"), *flags, *texts]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = [json.loads(line)["vector"] for line in done.stdout.splitlines()]
        want = Session(out).embed(texts, second=bool(flags))
        assert np.abs(np.array(found) - want).max() < 1e-5
    assert not np.allclose(want, wanted), "another prefix"
    assert np.array_equal(Session(package).embed(texts), wanted)


def test_a_task_without_vectors_has_no_texts_to_be_found(artifact, sentiment, tmp_path):
    out = tmp_path / "graph"
    export_onnx(ExportRequest(artifact, "sst2", out, "fp32", EXACT, data=sentiment))
    package = write_package(PackageRequest(out, tmp_path / "ort", Target.ORT)).out
    command = [sys.executable, str(package / "predict.py"), "--second", "good"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "sst2 gives no vectors, and has no texts to be found"


@needs_node
def test_javascript_gives_the_vectors_of_the_runtime(artifact, pairs, tmp_path):
    out, texts = tmp_path / "graph", TEXTS[:2]
    export_onnx(ExportRequest(artifact, "find", out, "fp32", EXACT, data=pairs / "found.jsonl"))
    package = write_package(PackageRequest(out, tmp_path / "web", Target.WEB)).out
    found = np.array(in_node(package, VECTOR, texts)).reshape(4, len(texts), -1)
    first, second = (Session(out).embed(texts, second=one) for one in (False, True))
    assert np.abs(found - [first, second, first, second]).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "xlnet", "modernbert", "distilbert"])
def test_other_families(kind, family_models, pairs, tmp_path, quick):
    place, out, data = tmp_path / "a", tmp_path / "g", pairs / "found.jsonl"
    fit_task(FitRequest(str(family_models(kind)), FIND, place, quick(steps=3), data=data))
    assert str(pooling_of(open_artifact(place).entry("find"))) == (
        "last" if kind == "llama" else "mean"
    )
    report = export_onnx(ExportRequest(place, "find", out, "fp32", EXACT, data=data))
    assert report.ok, report.findings


def test_sentence_transformers_loads_a_plain_model(artifact, tmp_path, pairs):
    library = pytest.importorskip("sentence_transformers")
    out, graph = tmp_path / "plain", tmp_path / "graph"
    write_hf(open_artifact(artifact), "find", out)
    model = library.SentenceTransformer(str(out), device="cpu")
    export_onnx(ExportRequest(artifact, "find", graph, "fp32", EXACT, data=pairs / "found.jsonl"))
    texts = TEXTS[:2] + TEXTS[3:]
    for name, second in (("query", False), ("document", True)):
        ours = Session(graph).embed(texts, second=second)
        assert np.abs(model.encode(texts, prompt_name=name) - ours).max() < 1e-5
    assert np.abs(model.encode(texts) - Session(graph).embed(texts)).max() < 1e-5


@pytest.mark.slow
def test_sentence_transformers_loads_a_graph(artifact, tmp_path, pairs):
    library = pytest.importorskip("sentence_transformers")
    pytest.importorskip("optimum.onnxruntime")
    out = tmp_path / "graph"
    export_onnx(ExportRequest(artifact, "find", out, "fp32", EXACT, data=pairs / "found.jsonl"))
    options = {"file_name": "model.onnx", "provider": "CPUExecutionProvider"}
    model = library.SentenceTransformer(
        str(out), backend="onnx", device="cpu", model_kwargs=options
    )
    texts = TEXTS[:2] + TEXTS[3:]
    assert np.abs(model.encode(texts) - Session(out).embed(texts)).max() < 1e-5


def test_a_dense_model_of_vectors_is_timed_beside_its_graph(
    artifact, pairs, tiny_model, tmp_path, monkeypatch
):
    """Its folder is one of sentence-transformers, without a classifier."""
    options = {"steps": 2, "batch_size": 8, "max_length": 16, "precision": "fp32"}
    config = BaselineConfig(method="full", **options)
    out, data = tmp_path / "dense", pairs / "found.jsonl"
    run_baseline(BaselineRequest(str(tiny_model), FIND, config, out=out, data=data))
    graph = tmp_path / "graph"
    export_onnx(ExportRequest(artifact, "find", graph, Compute.FP32, EXACT, verify=False))
    # the tokens of a timing are those of a whole vocabulary
    monkeypatch.setattr(reference, "interleaved", lambda made, **_: dict.fromkeys(made, 1.0))
    found = reference.compare_latency(out, graph / "model.onnx", FIND.type, length=8, runs=2)
    assert found == (1.0, 1.0)
