"""A tokenizer with tokens for which the model has no embedding: refused, or an embedding for each."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.formats import DataError, MaskpackError, ModelError, open_artifact
from maskpack.models.load import load_pretrained
from maskpack.runtime import Session
from maskpack.tasks import find_task

SPARE = tuple(
    f"spare{n}" for n in range(5)
)  # the tiny models have five embeddings more than tokens
NEW = ("[PLACE]", "[NAME]")
SST2 = find_task("sst2")


@pytest.fixture
def grown(tiny_model, tmp_path):
    """The tiny BERT with two tokens more in its tokenizer; its embeddings are as they were."""
    folder = shutil.copytree(tiny_model, tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens([*SPARE, *NEW]) == 7
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(sentiment, tmp_path):
    """The learnable task, every other text with one of the new tokens."""
    for name in ("train", "dev"):
        head, *lines = (sentiment / f"{name}.tsv").read_text().splitlines()
        text = [f"{NEW[n % 2]} {line}" if n % 3 else line for n, line in enumerate(lines)]
        (tmp_path / f"{name}.tsv").write_text("\n".join([head, *text]) + "\n")
    return tmp_path


def test_tokens_without_an_embedding_are_refused_when_the_model_is_loaded(
    grown, sentiment, rows, tmp_path, quick
):
    for data in (sentiment, rows):  # whether or not a row holds one
        request = FitRequest(str(grown), SST2, tmp_path / "a", quick(), data=data)
        with pytest.raises(ModelError, match="2 tokens for which the model has no") as caught:
            fit_task(request)
        assert "`[PLACE]`, `[NAME]`; its vocabulary is of 50" in str(caught.value)
        assert "`resize_embeddings`" in caught.value.hint
        assert not (tmp_path / "a").exists()
    with pytest.raises(ModelError, match="2 tokens"):
        run_baseline(BaselineRequest(str(grown), SST2, BaselineConfig(steps=1), data=rows))
    with pytest.raises(ModelError, match="2 tokens"):
        make_backbone(str(grown), tmp_path / "b", quick())


def test_they_get_the_mean_embedding_the_same_on_every_machine(grown):
    first, second = (load_pretrained(str(grown), resize_embeddings=True) for _ in range(2))
    assert first.weights_sha256() == second.weights_sha256()
    weight = first.model.get_input_embeddings().weight
    assert weight.shape[0] == 52
    for row in (50, 51):
        assert torch.allclose(weight[row], weight[:50].mean(dim=0), atol=1e-6)
    assert json.loads(first.files["config.json"])["vocab_size"] == 52


def test_a_resized_model_goes_the_whole_way(grown, rows, tmp_path, quick):
    out, graph = tmp_path / "a", tmp_path / "g"
    request = FitRequest(
        str(grown), SST2, out, quick(teacher="twin"), data=rows, resize_embeddings=True
    )
    fit_task(request)
    assert (
        open_artifact(out).backbone.embeddings["embeddings.word_embeddings.weight"].shape[0] == 52
    )
    report = export_onnx(
        ExportRequest(out, "sst2", graph, "fp32", Tolerance(1e-3, 100.0), data=rows)
    )
    assert report.ok, report.findings
    (answer,) = Session(graph).predict(["the [NAME] film"])
    assert answer.label in {"negative", "positive"}
    again = FitRequest(str(grown), SST2, out, quick(), data=rows, name="more", bits_given=False)
    with pytest.raises(ModelError, match="has no embedding"):
        fit_task(again)
    fit_task(FitRequest(**{**vars(again), "resize_embeddings": True}))
    assert sorted(open_artifact(out).manifest.tasks) == ["more", "sst2"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_baselines_of_it_are_trained_too(grown, rows, method):
    config = BaselineConfig(method=method, steps=2, batch_size=16, max_length=16, precision="fp32")
    request = BaselineRequest(str(grown), SST2, config, data=rows, resize_embeddings=True)
    assert run_baseline(request).eval_rows == 32


def test_a_tokenizer_smaller_than_the_vocabulary_is_fine(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    tree = json.loads((folder / "tokenizer.json").read_text())
    del tree["model"]["vocab"]["word17"]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    assert load_pretrained(str(folder)).model.config.vocab_size == 50


def test_a_padding_token_that_is_replaced_needs_no_embedding_but_in_a_text(
    family_models, sentiment, tmp_path, quick
):
    """GPT-2 as many load it: `pad_token` was added, the embeddings were not."""
    folder = shutil.copytree(family_models("gpt2"), tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(SPARE))
    tokenizer.add_special_tokens({"pad_token": "<added>"})
    tokenizer.save_pretrained(folder)
    assert load_pretrained(str(folder)).tokenizer.pad_token == "[SEP]"
    out, graph = tmp_path / "a", tmp_path / "g"
    fit_task(FitRequest(str(folder), SST2, out, quick(steps=2), data=sentiment))
    export_onnx(ExportRequest(out, "sst2", graph, "fp32", Tolerance(1e-3, 100.0)))
    session = Session(graph)
    good, bad, last = session.predict_each(["good film", "the <added> film", "bad"])
    assert isinstance(bad, MaskpackError)
    assert [good, last] == session.predict(["good film", "bad"])
    with pytest.raises(MaskpackError, match="row 2: the graph fails on 3 tokens"):
        session.predict(["good film", "the <added> film"])
    lines = (sentiment / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([*lines, "a <added> film\t1"]) + "\n")
    shutil.copy(sentiment / "dev.tsv", tmp_path)
    with pytest.raises(DataError, match="training row 97, `a <added> film`, holds the token 50"):
        fit_task(FitRequest(str(folder), SST2, tmp_path / "b", quick(), data=tmp_path))
