"""Hidden networks: backbones that are drawn from a seed, from the options to the graph."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    fit_task,
    run_baseline,
)
from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.quantization.random_weights import kaiming_scale
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.formats import ArtifactError, ConfigError, check_artifact, open_artifact
from maskpack.formats.card import CardFacts, render_card
from maskpack.formats.draw import drawn_codes, mean_square

HALF = {"estimator": "edge-popup", "sparsity": 0.5, "random": 7, "bits": 1, "group": 0}


@pytest.fixture(scope="module")
def configuration(tiny_model, tmp_path_factory):
    """The tiny model's folder without its weights."""
    folder = tmp_path_factory.mktemp("hidden") / "configuration"
    shutil.copytree(tiny_model, folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


def backbone_of(model, out, **options):
    return make_backbone(str(model), out, BackboneConfig(**{"random": 7, **options}))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_linears_have_kaiming_scales_and_everything_else_its_start(configuration, tmp_path, bits):
    artifact = backbone_of(configuration, tmp_path / "a", bits=bits)
    backbone = artifact.backbone
    for name, tensor in backbone.linears.items():
        assert (tensor.bits, tensor.group, tensor.zero_free) == (bits, tensor.shape[1], bits <= 2)
        assert (tensor.scales == np.float16(kaiming_scale(bits, tensor.shape[1]))).all()
        assert (tensor.codes == drawn_codes(7, name, tensor.shape, bits)).all()
        mean = (tensor.dequantize() ** 2).mean()
        assert mean == pytest.approx(2 / tensor.shape[1], rel=0.01 if bits == 1 else 0.15)
    for table in backbone.embeddings.values():
        assert (table.dequantize() ** 2).mean() == pytest.approx(1, rel=0.2)
    for name, value in backbone.dense.items():
        assert (value == (1 if "LayerNorm.weight" in name else 0)).all(), name
    assert artifact.size("backbone.safetensors") < 9_000
    assert check_artifact(artifact.path) == []
    assert mean_square(1) == 1


def test_the_weights_of_a_model_are_not_read_and_a_seed_is_all_that_counts(
    tiny_model, configuration, tmp_path
):
    first = backbone_of(configuration, tmp_path / "a", bits=1)
    same = backbone_of(tiny_model, tmp_path / "b", bits=1)
    other = backbone_of(configuration, tmp_path / "c", bits=1, random=8)
    assert same.manifest.backbone_sha256 == first.manifest.backbone_sha256
    assert other.manifest.backbone_sha256 != first.manifest.backbone_sha256
    assert first.manifest.source.weights_sha256 == first.manifest.backbone_sha256
    assert first.manifest.scheme.quantizer == "drawn"


def test_widths_by_layer_and_narrow_tables_are_drawn_too(configuration, tmp_path):
    options = {"bits": 1, "bits_override": {"*.layer.0.*": 8}, "embedding_bits": 3}
    artifact = backbone_of(configuration, tmp_path / "a", **options)
    assert artifact.manifest.requires == ("drawn", "embedding-3")
    for name, tensor in artifact.backbone.linears.items():
        assert tensor.bits == (8 if ".layer.0." in name else 1)
    assert artifact.size("backbone.safetensors") < 9_000


@pytest.fixture(scope="module")
def made(configuration, sentiment, quick, tmp_path_factory):
    """An artifact with two tasks over one drawn backbone: the second is learned without `random`."""
    from maskpack.compressor import FitRequest
    from maskpack.tasks import find_task

    out, results = tmp_path_factory.mktemp("made") / "artifact", []
    for name, options in (
        ("popup", {**HALF, "lr": 0.02}),
        ("again", {"estimator": "edge-popup", "sparsity": 0.3, "lr": 0.02}),
    ):
        usual = {"steps": 150, "head_lr": 1e-2, "teacher": None}
        task, config = find_task("sst2"), quick(**{**usual, **options})
        request = FitRequest(str(configuration), task, out, config, data=sentiment, name=name)
        results.append(fit_task(replace(request, bits_given="bits" in options)))
    return out, results


def test_tasks_share_a_drawn_backbone_and_learn_without_a_teacher(made):
    out, (popup, again) = made
    artifact = open_artifact(out)
    assert set(artifact.manifest.tasks) == {"popup", "again"}
    assert popup.zeros / popup.weights == pytest.approx(0.5, abs=0.01)
    assert again.zeros / again.weights == pytest.approx(0.3, abs=0.01)
    for result, name in ((popup, "popup"), (again, "again")):
        training = artifact.entry(name).training
        assert (training["random"], training["teacher"]) == (7, None)
        assert result.score > result.majority[result.metric] + 0.1
        assert recorded_run(artifact, name).tree["random"] == 7
        assert recorded_run(artifact, name).tree["quantizer"] == "auto"
    assert artifact.size("backbone.safetensors") == popup.backbone_bytes < 9_000


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_graphs_of_a_drawn_backbone_are_verified_as_any_others(made, sentiment, tmp_path, compute):
    out, _ = made
    tolerance = Tolerance.of(compute) if compute == "fp32" else Tolerance(None, 100.0)
    request = ExportRequest(out, "popup", tmp_path / "g", compute, tolerance, data=sentiment)
    assert export_onnx(request).ok
    if compute == "fp32":
        shared = SharedRequest(
            out,
            (),
            tmp_path / "all",
            compute,
            tolerance,
            dict.fromkeys(("popup", "again"), sentiment),
        )
        assert all(report.ok for report in export_shared(shared).values())


def test_another_seed_or_weights_of_a_model_are_refused(made, request_for, configuration, tmp_path):
    out, _ = made
    other = tmp_path / "other"
    shutil.copytree(out, other)
    request = replace(request_for(**{**HALF, "random": 8}), model=str(configuration), out=other)
    with pytest.raises(ArtifactError, match="drawn from the seed 7, 8 was asked for"):
        fit_task(request)
    with pytest.raises(ArtifactError, match="has 1 bits, 8 were asked for"):
        fit_task(replace(request, config=replace(request.config, random=None, bits=8)))
    trained = request_for("trained", bits=8, group=0, steps=1)
    fit_task(trained)
    again = replace(trained, name="again", config=replace(trained.config, random=7))
    with pytest.raises(ArtifactError, match="`random` draws others"):
        fit_task(again)


def test_another_configuration_is_refused(made, request_for, configuration, tmp_path):
    out, _ = made
    wider = tmp_path / "wider"
    shutil.copytree(configuration, wider)
    text = (wider / "config.json").read_text("utf-8")
    assert '"num_hidden_layers": 2' in text
    (wider / "config.json").write_text(
        text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    request = replace(request_for(**HALF), model=str(wider), out=out, name="new")
    with pytest.raises(ArtifactError, match="was drawn for the configuration of `configuration`"):
        fit_task(request)


def test_another_release_of_transformers_writes_the_same_configuration(
    made, request_for, configuration, tmp_path
):
    out, later = tmp_path / "a", tmp_path / "later"
    shutil.copytree(made[0], out)
    shutil.copytree(configuration, later)
    tree = json.loads((later / "config.json").read_text("utf-8"))
    tree |= {"transformers_version": "9.0.0", "a_field_that_is_new": 3}
    (later / "config.json").write_text(json.dumps(tree))
    request = replace(request_for(**HALF, steps=1), model=str(later), out=out, name="new")
    fit_task(request)
    assert "new" in open_artifact(out).manifest.tasks


def test_a_rehearsal_over_drawn_weights_is_of_the_run_that_would_come(
    made, request_for, configuration, tmp_path
):
    out = tmp_path / "a"
    shutil.copytree(made[0], out)
    options = {**HALF, "random": None, "embedding_bits": "auto"}
    request = replace(request_for(**options), model=str(configuration), out=out, name="new")
    run, _ = rehearse(request, began=Cost.so_far())
    assert run.teacher is None
    assert (run.request.config.random, run.request.config.embedding_bits) == (7, 8)


def test_cards_of_drawn_weights_name_no_model_that_they_came_from(made):
    artifact = open_artifact(made[0])
    facts = CardFacts(base_model="google-bert/bert-base-uncased", license="mit")
    files = ["backbone.safetensors", *(entry.file for entry in artifact.manifest.tasks.values())]
    text = render_card(artifact.manifest, {name: artifact.size(name) for name in files}, facts)
    assert "No weight was trained" in text
    assert "base_model" not in text
    assert "license: mit" not in text


@pytest.mark.parametrize(
    "options",
    [{"quantizer": "mse"}, {"group": 64}, {"calibration": "x.txt"}, {"refine": 10}],
    ids=str,
)
def test_what_turns_weights_into_codes_means_nothing_to_drawn_ones(options):
    (name,) = options
    for config in (BackboneConfig, FitConfig, BaselineConfig):
        with pytest.raises(ConfigError, match=f"`{name}` says how weights become codes"):
            config(random=7, **options)
    with pytest.raises(ConfigError, match="`random` is -1"):
        BackboneConfig(random=-1)


def test_a_dense_teacher_starts_from_the_drawn_weights(request_for, configuration):
    request = request_for(**HALF, teacher="twin", steps=30)
    result = fit_task(replace(request, model=str(configuration)))
    assert result.options["teacher"] == "twin"


@pytest.mark.parametrize(("method", "bits"), [("head", 1), ("full", None)])
def test_a_baseline_starts_from_the_drawn_weights(configuration, sentiment, method, bits):
    from maskpack.tasks import find_task

    usual = {"steps": 100, "head_lr": 1e-2, "precision": "fp32", "max_length": 16}
    config = BaselineConfig(method=method, random=7, bits=bits, **usual)
    request = BaselineRequest(str(configuration), find_task("sst2"), config, data=sentiment)
    result = run_baseline(request)
    assert result.score > result.majority[result.metric]
    assert result.backbone_bytes < 9_000
    assert result.bits == (bits or 8)
