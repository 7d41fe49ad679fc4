from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.compressor.config import Method
from maskpack.formats import ArtifactError, ConfigError, DataError, Interrupted
from maskpack.models.build import base_of, head_parameters
from maskpack.models.load import load_classifier, load_finetuned
from maskpack.tasks import find_task, load_data
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.texts import TextPreprocessor

SST2 = find_task("sst2")


@pytest.fixture
def request_for(tiny_model, sentiment):
    """A function: a request for a short baseline on the tiny BERT."""

    def make(*, model=tiny_model, out=None, **options) -> BaselineRequest:
        settings = {"steps": 5, "batch_size": 16, "max_length": 16, "precision": "fp32", **options}
        return BaselineRequest(str(model), SST2, BaselineConfig(**settings), out, sentiment)

    return make


def moved_by(request, out) -> set[str]:
    """Parameters that differ between the fresh model of a seed and the one that was saved."""
    run_baseline(replace(request, out=out))
    torch.manual_seed(request.config.seed)
    before = dict(load_classifier(request.model, outputs=2).named_parameters())
    after = dict(load_finetuned(str(out)).named_parameters())
    assert set(before) == set(after)
    return {name for name, parameter in before.items() if not torch.equal(parameter, after[name])}


def names_of(model, wanted) -> set[str]:
    classifier = load_classifier(str(model), outputs=2)
    head = set(head_parameters(classifier))
    prefix = f"{classifier.base_model_prefix}."
    everything = {name for name, _ in classifier.named_parameters()}
    pooler = {name for name in everything if name.startswith(f"{prefix}pooler.")}
    biases = {name for name in everything if name.endswith(".bias")}
    ends = (".query.weight", ".value.weight")
    return {
        "full": everything,
        "imp": everything,
        "head": head,
        "head-pooler": head | pooler,
        "bitfit": head | biases,
        "lora": head | {name for name in everything if name.endswith(ends)},
    }[wanted]


@pytest.mark.parametrize("method", list(Method))
def test_each_method_trains_its_parameters_and_no_other(method, request_for, tiny_model, tmp_path):
    options = {"sparsity": 0.2} if method is Method.IMP else {}
    moved = moved_by(request_for(method=method, **options), tmp_path / "model")
    expected = names_of(tiny_model, str(method))
    assert moved == expected
    every = {Method.FULL, Method.IMP}
    assert (moved == names_of(tiny_model, "full")) is (method in every)


@pytest.mark.parametrize("kind", ["roberta", "electra", "distilbert", "albert"])
def test_the_head_alone_is_trained_in_every_family(kind, tiny_models, request_for, tmp_path):
    model = tiny_models[kind]
    moved = moved_by(request_for(model=model, method="head"), tmp_path / "model")
    assert moved == names_of(model, "head")
    assert 2 <= len(moved) <= 4


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_an_encoder_without_a_pooler_cannot_train_it(kind, tiny_models, request_for, tmp_path):
    request = request_for(model=tiny_models[kind], method="head-pooler", out=tmp_path / "model")
    with pytest.raises(ConfigError, match=f"`{kind}` has no pooler to train") as caught:
        run_baseline(request)
    assert caught.value.hint == "use the method `head`"
    assert list(tmp_path.iterdir()) == []


def test_a_saved_baseline_loads_in_transformers_with_its_label_names(
    request_for, sentiment, tmp_path
):
    out = tmp_path / "model"
    result = run_baseline(request_for(out=out))
    model = AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    preprocessor = TextPreprocessor(tokenizer, token_types=True)
    dev = preprocessor.encode(load_data(SST2, data=sentiment).dev, max_length=16)
    logits = predict_all(torch_predict(model), dev)
    scores = compute_metrics(SST2.type, logits, dev.labels, SST2.metrics)
    assert scores == result.scores
    assert str(tmp_path) not in (out / "config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_dense_fine_tuning_learns_the_tiny_task_and_its_result_says_so(
    shared, request_for, tmp_path
):
    data = shared.write_sentiment(tmp_path, train=1024, dev=256)
    request = request_for(steps=300, batch_size=32, lr=2e-3, head_lr=0.01)
    result = run_baseline(replace(request, data=data))
    assert result.score > 0.9
    assert not result.collapsed
    assert json.loads(result.to_json())["options"]["method"] == "full"


def test_the_figures_of_a_baseline_are_those_of_its_model(request_for, tiny_model):
    result = run_baseline(request_for(method="head", train_rows=50))
    model = load_classifier(str(tiny_model), outputs=2)
    head = sum(p.numel() for p in head_parameters(model).values())
    base = sum(p.numel() for p in base_of(model).parameters())
    assert (result.method, result.model, result.task, result.bits) == ("head", "bert", "sst2", 32)
    assert (result.train_rows, result.eval_rows, result.steps) == (50, 32, 5)
    assert (result.head_bytes, result.patch_bytes) == (4 * head, 4 * head)
    assert result.backbone_bytes == 4 * base
    assert (result.weights, result.zeros, result.mask_bytes) == (0, 0, 0)
    assert result.majority["accuracy"] == 0.5


def test_fine_tuning_counts_all_its_weights_as_what_a_task_adds(request_for, tiny_model):
    result = run_baseline(request_for(method="full"))
    model = load_classifier(str(tiny_model), outputs=2)
    assert result.patch_bytes == 4 * sum(p.numel() for p in model.parameters())


def test_the_same_seed_gives_the_same_model_and_another_seed_another(request_for, tmp_path):
    weights = []
    for place, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(place)
        run_baseline(request_for(out=out, seed=seed))
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_stopped_baseline_writes_nothing(request_for, stop_at, tmp_path):
    with pytest.raises(Interrupted, match="nothing was written"):
        run_baseline(request_for(out=tmp_path / "model"), on_progress=stop_at(2))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_never_written_to(request_for, tmp_path, snapshot):
    out = tmp_path / "model"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    before = snapshot(tmp_path)
    with pytest.raises(ArtifactError, match="already exists"):
        run_baseline(request_for(out=out))
    assert snapshot(tmp_path) == before


def test_data_that_cannot_be_read_is_refused(request_for, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        run_baseline(replace(request_for(), data=tmp_path / "nowhere"))


def test_a_watcher_hears_of_every_step_and_of_no_mask(request_for):
    news = []
    run_baseline(request_for(steps=7), on_progress=news.append)
    assert [item.step for item in news] == list(range(1, 8))
    assert {item.count for item in news} == {None}
    assert [item.value is None for item in news] == [True] * 5 + [False] * 2  # 6 steps an epoch
