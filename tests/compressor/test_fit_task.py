from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.formats import BitMask, Patch, check_artifact, open_artifact
from maskpack.models.build import apply_patch, build_classifier
from maskpack.tasks import TaskData, find_task, load_data
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import ModelContext, restore_task, task_config
from maskpack.tasks.evaluation.evaluate import encode_for
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.task import Kind

SST2 = find_task("sst2")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, shared, tiny_model):
    """A mask learned for long enough to be worth something, with its data."""
    data = shared.write_sentiment(tmp_path_factory.mktemp("long"), train=1024, dev=256)
    out = tmp_path_factory.mktemp("learned") / "artifact"
    config = FitConfig(
        bits=4,
        group=16,
        steps=300,
        batch_size=32,
        max_length=16,
        head_lr=0.01,
        margin=0.5,
        precision="fp32",
        teacher="none",
    )
    result = fit_task(FitRequest(str(tiny_model), SST2, out, config, data=data))
    return SimpleNamespace(out=out, result=result, data=load_data(SST2, data=data))


def scores_with(out, masks, data: TaskData) -> float:
    """Accuracy of the stored head over other masks."""
    artifact = open_artifact(out)
    entry, patch = artifact.entry("sst2"), artifact.patch("sst2")
    model = build_classifier(artifact.backbone, task_config(artifact, entry), seed=0)
    apply_patch(model, artifact.backbone, Patch(masks, patch.head))
    encoded = encode_for(ModelContext.of_artifact(artifact), entry, data.dev)
    logits = predict_all(torch_predict(model), encoded)
    return compute_metrics(SST2.type, logits, data.dev.labels, ["accuracy"])["accuracy"]


def test_a_learned_mask_is_far_better_than_the_commonest_answer(trained):
    assert trained.result.majority["accuracy"] == 0.5
    assert trained.result.score > 0.8
    assert not trained.result.collapsed


def test_a_random_mask_as_sparse_under_the_same_head_is_no_better_than_chance(trained):
    masks = open_artifact(trained.out).patch("sst2").masks
    rng = np.random.default_rng(0)
    accuracies = []
    for _ in range(4):
        shuffled = {
            name: BitMask.from_bool(rng.permuted(mask.to_bool().ravel()).reshape(mask.shape))
            for name, mask in masks.items()
        }
        assert all(shuffled[name].zeros == mask.zeros for name, mask in masks.items())
        accuracies.append(scores_with(trained.out, shuffled, trained.data))
    assert scores_with(trained.out, masks, trained.data) == trained.result.score
    assert np.mean(accuracies) < 0.62
    assert max(accuracies) < trained.result.score - 0.15


def test_few_weights_are_flipped(trained):
    count = open_artifact(trained.out).patch("sst2").count
    assert (count.zeros, count.weights) == (trained.result.zeros, trained.result.weights)
    assert 0.0 < count.sparsity < 0.1


def test_what_is_measured_is_what_is_written(trained):
    artifact = open_artifact(trained.out)
    context = ModelContext.of_artifact(artifact)
    encoded = encode_for(context, artifact.entry("sst2"), trained.data.dev)
    logits = predict_all(torch_predict(restore_task(artifact, "sst2")), encoded)
    scores = compute_metrics(SST2.type, logits, trained.data.dev.labels, SST2.metrics)
    assert scores == trained.result.scores == artifact.entry("sst2").scores


def test_two_tasks_share_one_backbone_whose_bytes_never_change(
    request_for, sentiment, tmp_path, snapshot
):
    fit_task(request_for())
    out = tmp_path / "artifact"
    first = snapshot(out)
    rows = (sentiment / "train.tsv").read_text().splitlines()[1:]
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for split in ("train", "dev"):
        lines = [f"{row.split(chr(9))[0]}\tfine food\t{len(row) / 10}" for row in rows[:40]]
        (pairs / f"{split}.tsv").write_text("\n".join(["a\tb\tvalue", *lines]) + "\n")
    task = find_task(
        "length", text_field="a", pair_field="b", label_field="value", kind=Kind.REGRESSION
    )
    result = fit_task(replace(request_for(), task=task, data=pairs))
    second = snapshot(out)
    assert check_artifact(out) == []
    assert list(open_artifact(out).manifest.tasks) == ["length", "sst2"]
    assert {name for name in first if second[name] != first[name]} == {"maskpack.json", "README.md"}
    assert set(second) - set(first) == {"tasks/length.safetensors"}
    entry = open_artifact(out).entry("length")
    assert (entry.kind, entry.labels, entry.outputs, entry.metric) == (
        "regression", (), 1, "spearman",
    )  # fmt: skip
    assert set(result.scores) == {"spearman", "pearson"}


def test_the_entry_of_a_task_says_how_it_was_learned_and_on_what(request_for, sentiment):
    request = request_for(name="film", train_rows=64)
    result = fit_task(request)
    artifact = open_artifact(request.out)
    entry = artifact.entry("film")
    data = load_data(SST2, data=sentiment)
    assert (entry.kind, entry.labels) == ("classification", ("negative", "positive"))
    assert entry.metric == "accuracy"
    assert entry.scores == result.scores
    assert (entry.zeros, entry.weights) == (result.zeros, result.weights)
    assert entry.weights == artifact.backbone.maskable
    assert entry.max_length == 16
    options = {key: value for key, value in entry.training.items() if key != "history"}
    assert options == {**request.config.record(), "teacher": None}
    assert entry.data == {
        "task": "sst2",
        "texts": ["sentence"],
        "label": "label",
        "metrics": ["accuracy", "matthews"],
        "train_rows": 64,
        "eval_rows": 32,
        "eval_sha256": data.dev.sha256(),
    }


def test_the_result_counts_what_lies_on_disk(request_for, tiny_model):
    request = request_for()
    result = fit_task(request)
    artifact = open_artifact(request.out)
    patch = artifact.patch("sst2")
    assert result.patch_bytes == (request.out / "tasks" / "sst2.safetensors").stat().st_size
    assert result.backbone_bytes == (request.out / "backbone.safetensors").stat().st_size
    assert result.mask_bytes == sum(mask.packed.nbytes for mask in patch.masks.values())
    assert result.head_bytes == 2 * (2 * 32 + 2)
    assert (result.method, result.bits, result.steps, result.model) == ("mask", 4, 30, "bert")
    assert (result.train_rows, result.eval_rows) == (96, 32)
    assert str(tiny_model.parent) not in (request.out / "maskpack.json").read_text()


def test_the_artifact_records_its_source_and_scheme(request_for, tiny_model):
    from maskpack.models.load import load_pretrained

    request = request_for(quantizer="minmax")
    fit_task(request)
    manifest = open_artifact(request.out).manifest
    assert asdict(manifest.scheme) == {
        "bits": 4, "group": 16, "quantizer": "minmax", "embedding_bits": 8, "overrides": {},
    }  # fmt: skip
    assert manifest.source.model == "bert"
    assert manifest.source.revision is None
    assert manifest.source.model_type == "bert"
    assert manifest.source.weights_sha256 == load_pretrained(str(tiny_model)).weights_sha256()
    assert {"config.json", "tokenizer.json"} <= set(manifest.files)


def test_the_same_seed_gives_the_same_bytes_of_the_whole_artifact(request_for, snapshot):
    first, second = request_for("one"), request_for("two")
    fit_task(first)
    torch.manual_seed(123)  # what happened before must not matter
    np.random.seed(123)  # noqa: NPY002
    fit_task(second)
    assert snapshot(first.out) == snapshot(second.out)


def test_another_seed_gives_another_mask_over_the_same_backbone(request_for):
    artifacts = []
    for seed in (0, 1):
        request = request_for(f"seed{seed}", seed=seed)
        fit_task(request)
        artifacts.append(open_artifact(request.out))
    digests = {artifact.manifest.backbone_sha256 for artifact in artifacts}
    patches = [artifact.patch("sst2") for artifact in artifacts]
    assert len(digests) == 1
    assert all(patch.count.zeros > 0 for patch in patches)
    assert any(
        (patches[0].masks[name].packed != patches[1].masks[name].packed).any()
        for name in patches[0].masks
    )


def test_a_wider_margin_flips_fewer_weights(request_for):
    zeros = [
        fit_task(request_for(f"m{margin}", margin=margin)).zeros for margin in (0.5, 1.0, 2.0, 50.0)
    ]
    assert zeros == sorted(zeros, reverse=True)
    assert len(set(zeros)) == 4
    assert zeros[-1] == 0


@pytest.mark.parametrize("kind", ["roberta", "electra", "distilbert", "albert"])
def test_every_family_of_encoders_can_be_learned_on(kind, tiny_models, request_for):
    request = request_for(model=tiny_models[kind])
    result = fit_task(request)
    assert check_artifact(request.out) == []
    assert result.zeros > 0
    logits = restore_task(open_artifact(request.out), "sst2")(torch.tensor([[2, 7, 3]])).logits
    assert logits.shape == (1, 2)


def test_the_sample_task_in_the_package_can_be_learned_as_it_is(request_for, tmp_path):
    request = replace(
        request_for(max_length=32, train_rows=40), task=find_task("tickets"), data=None
    )
    result = fit_task(request)
    entry = open_artifact(request.out).entry("tickets")
    assert entry.labels == ("account", "billing", "bug", "delivery", "question")
    assert (result.train_rows, result.eval_rows) == (40, 100)


def test_a_task_is_learned_again_when_it_may_be_replaced(request_for):
    fit_task(request_for())
    request = request_for(replacing=True, seed=1)
    before = open_artifact(request.out)
    fit_task(request)
    after = open_artifact(request.out)
    assert after.manifest.backbone_sha256 == before.manifest.backbone_sha256
    assert after.entry("sst2").sha256 != before.entry("sst2").sha256
    assert after.entry("sst2").training["seed"] == 1
    files = [path.name for path in (request.out / "tasks").iterdir()]
    assert files == ["sst2.r1.safetensors"]
    assert check_artifact(request.out) == []


def test_bits_that_are_only_the_default_follow_the_artifact(request_for):
    fit_task(request_for(bits=4))
    request = replace(request_for(bits=8, name="second"), bits_given=False)
    result = fit_task(request)
    assert result.bits == 4
    assert open_artifact(request.out).manifest.scheme.bits == 4


def test_the_usual_margin_is_that_of_the_artifacts_bits(request_for):
    """At 1 bit it is half as large: a second task has that of the first, and is recorded so."""
    usual = {"steps": 12, "margin": None, "refine": 0}
    made = fit_task(request_for("one", bits=1, name="first", **usual))
    whole = fit_task(request_for("two", bits=1, name="second", **usual))
    again = replace(request_for("one", bits=8, name="second", **usual), bits_given=False)
    found = fit_task(again)
    assert found.options["bits"] == made.options["bits"] == 1
    assert found.zeros == whole.zeros
    first, second = (
        open_artifact(again.out.parent / name).patch("second") for name in ("one", "two")
    )
    for name, mask in first.masks.items():
        assert np.array_equal(mask.to_bool(), second.masks[name].to_bool())


def test_the_manifest_holds_no_figure_that_changes_from_run_to_run(request_for):
    request = request_for()
    fit_task(request)
    text = (request.out / "maskpack.json").read_text()
    assert "seconds" not in text
    assert json.loads(text)["tasks"]["sst2"]["training"]["seed"] == 0
