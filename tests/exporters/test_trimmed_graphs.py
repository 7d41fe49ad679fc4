"""Graphs of artifacts that lost tokens answer as before, bit for bit, in ONNX Runtime and in JavaScript."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import transformers
from export_kit import shared_request
from node_kit import MODULES, in_node, needs_node
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.exporters.bench.run import bench
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.builder import GraphBuilder
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import BenchRequest
from maskpack.exporters.verify import Subject, verify
from maskpack.exporters.verify import exported as exported_in
from maskpack.formats import ConfigError, ExportError, VerifyError, open_artifact
from maskpack.models.trimmed_tokenizer import Vocabulary, Wanted, choose, renumbered
from maskpack.runtime import Session
from maskpack.runtime.task import pick_task
from maskpack.runtime.tokens import load_tokenizer
from maskpack.tasks.trim import TrimRequest, trim_vocabulary

TEXTS = ["the film was great", "we and this story", "very quite awful food", "good"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    place = tmp_path_factory.mktemp("texts") / "texts.txt"
    place.write_text("\n".join(TEXTS) + "\n")
    return place


@pytest.fixture(scope="module")
def fewer(artifacts, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("fewer") / "artifact"
    return trim_vocabulary(TrimRequest(str(artifacts["bert"]), out, (texts,))).out


def scores(folder, task="sst2"):
    return [answer.scores for answer in Session(folder).predict(TEXTS, task=task)]


def request_for(artifact, out, compute, sentiment, **options):
    tolerance = Tolerance.of(compute, max_drop=100.0, rtol=0.5)
    return ExportRequest(artifact, "sst2", out, compute, tolerance, data=sentiment, **options)


def test_artifacts_without_divisors_get_them(artifacts, fewer):
    """An export of the old one measures them on texts that the new tokenizer may cut otherwise."""
    assert open_artifact(artifacts["bert"]).divisors is None
    assert open_artifact(fewer).divisors is not None


@pytest.mark.parametrize("compute", [Compute.INT8, Compute.FP32])
def test_a_graph_answers_as_before(compute, fewer, exported, sentiment, tmp_path):
    out = tmp_path / "graph"
    report = export_onnx(request_for(fewer, out, compute, sentiment))
    assert report is not None
    assert report.ok, report.findings
    before = exported("bert", compute).folder
    assert scores(out) == scores(before)
    assert (out / "model.onnx").stat().st_size < (before / "model.onnx").stat().st_size


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_layouts_of_several_tasks(layout, fewer, laid_out, tmp_path):
    reports = export_shared(shared_request(fewer, tmp_path / "all", "int8", layout=layout))
    assert all(report.ok for report in reports.values())
    before, _ = laid_out("bert", "int8", layout)
    for task in ("sst2", "other"):
        assert scores(tmp_path / "all", task) == scores(before, task)


def test_a_graph_with_the_tokens_of_some_texts(artifacts, texts, exported, sentiment, tmp_path):
    out = tmp_path / "graph"
    request = request_for(artifacts["bert"], out, Compute.INT8, sentiment, vocab=(texts,))
    report = export_onnx(request)
    assert report is not None
    assert report.ok, report.findings
    before = exported("bert", "int8").folder
    assert scores(out) == scores(before)
    tokens = load_tokenizer(out / "tokenizer.json").get_vocab_size()
    assert tokens < load_tokenizer(before / "tokenizer.json").get_vocab_size()
    table = next(
        one
        for one in onnx.load(out / "model.onnx").graph.initializer
        if "word_embeddings" in one.name and len(one.dims) == 2
    )
    assert table.dims[0] == tokens
    assert json.loads((out / "config.json").read_text())["vocab_size"] == tokens


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_layouts_of_several_tasks_with_the_tokens_of_some_texts(
    layout, artifacts, texts, laid_out, tmp_path
):
    out = tmp_path / "all"
    request = shared_request(artifacts["bert"], out, "int8", layout=layout)
    reports = export_shared(replace(request, vocab=(texts,)))
    assert all(report.ok for report in reports.values())
    before, _ = laid_out("bert", "int8", layout)
    for task in ("sst2", "other"):
        assert scores(out, task) == scores(before, task)
    assert (out / "backbone.bin").stat().st_size < (before / "backbone.bin").stat().st_size
    graph, inputs = exported_in(out, "other")
    files, tolerance = pick_task(out, "other"), Tolerance.of(Compute.INT8, max_drop=100.0)
    whole = open_artifact(artifacts["bert"])
    subject = Subject(graph, whole, "other", "int8", tolerance, inputs=inputs, files=files)
    assert verify(subject).ok


def test_a_reference_with_other_numbers_is_refused_before_the_graph_is_made(
    artifacts, texts, sentiment, monkeypatch, tmp_path
):
    source = tmp_path / "plain"
    write_hf(open_artifact(artifacts["bert"]), "sst2", source)
    request = request_for(artifacts["bert"], tmp_path / "graph", Compute.INT8, sentiment)

    def no_graph(*_):
        raise AssertionError("a graph was made")

    monkeypatch.setattr(GraphBuilder, "folded", no_graph)
    with pytest.raises(ExportError, match="gives other numbers to"):
        export_onnx(replace(request, vocab=(texts,), reference=str(source)))
    assert not (tmp_path / "graph").exists()
    with pytest.raises(AssertionError, match="a graph was made"):
        export_onnx(replace(request, reference=str(source)))


def subject_of(folder, artifact, **options):
    files = pick_task(folder, "sst2")
    tolerance = Tolerance.of(Compute.FP32, max_drop=100.0)
    return Subject(
        files.graph, open_artifact(artifact), "sst2", "fp32", tolerance, files=files, **options
    )


@pytest.fixture(scope="module")
def small_graph(fewer, sentiment, tmp_path_factory):
    """A graph of the artifact that lost tokens."""
    out = tmp_path_factory.mktemp("graph") / "small"
    export_onnx(request_for(fewer, out, Compute.FP32, sentiment))
    return out


def test_a_graph_is_verified_against_the_artifact_with_all_tokens(
    small_graph, artifacts, fewer, sentiment
):
    reports = [
        verify(subject_of(small_graph, one, data=sentiment)) for one in (artifacts["bert"], fewer)
    ]
    assert all(report.ok for report in reports), [report.findings for report in reports]
    whole, own = reports
    assert whole.accuracy == own.accuracy
    assert whole.values == own.values


def with_tokens(folder, out, change):
    """A copy of an exported folder whose tokenizer has other tokens."""
    shutil.copytree(folder, out)
    tree = json.loads((out / "tokenizer.json").read_text())
    change(tree["model"]["vocab"])
    (out / "tokenizer.json").write_text(json.dumps(tree))
    return out


def swapped(vocab):
    first, second = sorted(vocab, key=vocab.get)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def another(vocab):
    last = max(vocab, key=vocab.get)
    vocab["zebra"] = vocab.pop(last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "gives `.*` the number 1[78], where the artifact's order gives 1[78]"),
        (another, "has the token `zebra`, and the artifact's has not"),
    ],
)
def test_a_tokenizer_that_was_not_made_from_the_artifacts_is_refused(
    change, message, small_graph, artifacts, tmp_path
):
    folder = with_tokens(small_graph, tmp_path / "copy", change)
    with pytest.raises(VerifyError, match=message):
        verify(subject_of(folder, artifacts["bert"]))


def test_rows_of_other_tokens_are_found(small_graph, artifacts, tmp_path):
    """The graph's table has the rows of its own tokens: with two rows exchanged it is not what the artifact says."""
    folder = shutil.copytree(small_graph, tmp_path / "copy")
    model = onnx.load(folder / "model.onnx")
    for one in model.graph.initializer:
        if "word_embeddings" in one.name and len(one.dims) == 2:
            rows = onnx.numpy_helper.to_array(one)
            one.CopyFrom(onnx.numpy_helper.from_array(rows[::-1].copy(), one.name))
    onnx.save(model, folder / "model.onnx")
    assert not verify(subject_of(folder, artifacts["bert"])).ok


def test_a_plain_model_with_fewer_tokens(artifacts, fewer, texts, tmp_path):
    whole = open_artifact(artifacts["bert"])
    small = write_hf(whole, "sst2", tmp_path / "small", vocab=(texts,))
    large = write_hf(whole, "sst2", tmp_path / "large")
    assert small.parameters < large.parameters
    same = write_hf(open_artifact(fewer), "sst2", tmp_path / "same")
    assert same.parameters == small.parameters
    own, other = (
        transformers.pipeline("text-classification", model=str(one.path), top_k=None)
        for one in (small, large)
    )
    assert own(TEXTS) == other(TEXTS)


def test_other_numbers_of_tokens_are_no_comparison(
    small_graph, artifacts, fewer, exported, sentiment, tmp_path
):
    grid = {"batches": (1,), "lengths": (4,), "threads": (1,), "runs": 1}
    whole = artifacts["bert"]
    write_hf(open_artifact(whole), "sst2", tmp_path / "plain")
    for given in ({"artifact": whole}, {"against": str(tmp_path / "plain")}):
        with pytest.raises(ExportError, match="gives other numbers to 12 of the 19 tokens"):
            bench(BenchRequest(small_graph, **given, **grid))
    reference = {"reference": str(tmp_path / "plain"), "data": sentiment}
    with pytest.raises(ExportError, match="gives other numbers to"):
        verify(subject_of(small_graph, fewer, **reference))
    folder = exported("bert", Compute.FP32).folder
    assert verify(subject_of(folder, whole, **reference)).accuracy.reference_agreement == 1.0


def test_a_model_without_a_tokenizer_is_taken_at_its_word(small_graph, fewer, sentiment, tmp_path):
    write_hf(open_artifact(fewer), "sst2", tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "plain" / name).unlink(missing_ok=True)
    reference = str(tmp_path / "plain")
    report = verify(subject_of(small_graph, fewer, reference=reference, data=sentiment))
    assert report.accuracy.reference_agreement == 1.0


def test_all_tokens_are_no_smaller_vocabulary(artifacts, sentiment, tmp_path):
    context = load_tokenizer(artifacts["bert"] / "tokenizer.json")
    every = tmp_path / "every.txt"
    every.write_text("\n".join(context.get_vocab()) + "\n")
    request = request_for(artifacts["bert"], tmp_path / "g", Compute.INT8, sentiment)
    assert (
        export_onnx(replace(request, vocab=(every,))) is not None
    )  # the table has rows without a token
    assert scores(tmp_path / "g")
    with pytest.raises(ConfigError, match="nothing says"):
        TrimRequest("artifact", tmp_path / "x")


TOKENS = """
import fs from "fs";
import { Tokenizer } from "@huggingface/tokenizers";
const read = (name) => JSON.parse(fs.readFileSync(name));
const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
const texts = read(process.argv[2]);
console.log(JSON.stringify(texts.map((text) => tokenizer.encode(text).ids)));
"""


@needs_node
def test_javascript_reads_the_same_tokens(fewer):
    assert MODULES
    own = load_tokenizer(fewer / "tokenizer.json")
    own.no_padding()
    found = in_node(fewer, TOKENS, TEXTS)
    assert found == [one.ids for one in own.encode_batch(TEXTS)]
    assert all(np.max(ids) < own.get_vocab_size() for ids in found)


def trained(kind: str) -> Tokenizer:
    """A tokenizer of another kind than the tiny models', trained on the texts and a few words more."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    options = {"vocab_size": 320, "special_tokens": special, "show_progress": False}
    rows = [*TEXTS, "unbelievably believing", "the stories were told", "films and foods"] * 9
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(rows, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        made.train_from_iterator(rows, trainers.UnigramTrainer(unk_token="<unk>", **options))
    return made


@needs_node
@pytest.mark.parametrize("kind", ["bytes", "unigram"])
def test_javascript_reads_other_kinds(kind, tmp_path):
    tokenizer = trained(kind)
    vocabulary = Vocabulary(json.loads(tokenizer.to_str()))
    counts = {one: 1 for read in tokenizer.encode_batch(TEXTS) for one in read.ids}
    kept = choose(vocabulary, Wanted(counts), tokenizer.get_vocab_size())
    tree = renumbered(vocabulary.tree, kept)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    fewer = Tokenizer.from_str(json.dumps(tree))
    texts = [*TEXTS, "unbelievable stories", "we told the films"]  # some fall back
    assert in_node(tmp_path, TOKENS, texts) == [one.ids for one in fewer.encode_batch(texts)]
    assert fewer.get_vocab_size() < tokenizer.get_vocab_size()
