"""A fit that cannot end well is refused before its first step and leaves every file as it was."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import FNetConfig, FNetModel

from maskpack.compressor import FitRequest, fit, fit_task
from maskpack.formats import ArtifactError, ConfigError, DataError, MaskpackError, ModelError
from maskpack.tasks import find_task

SST2 = find_task("sst2")


def refused(request: FitRequest, snapshot, error: type[MaskpackError], message: str) -> str | None:
    """The hint of a refusal that came before the first step and touched no file."""
    before, steps = snapshot(request.out.parent), []
    with pytest.raises(error, match=message) as caught:
        fit_task(request, on_progress=lambda news: steps.append(news.step))
    assert steps == []
    assert snapshot(request.out.parent) == before
    return caught.value.hint


@pytest.fixture
def occupied(tiny_artifact, tmp_path):
    """A copy of the tiny artifact where the requests of these tests want to write."""
    shutil.copytree(tiny_artifact, tmp_path / "artifact")


@pytest.mark.usefixtures("occupied")
def test_a_task_that_is_there_is_refused_unless_it_may_be_replaced(request_for, snapshot):
    hint = refused(request_for(), snapshot, ArtifactError, "already has a task `sst2`")
    assert "replace" in hint
    assert "name" in hint


@pytest.mark.usefixtures("occupied")
def test_other_bits_than_the_artifact_has_are_refused(request_for, snapshot):
    request = request_for(name="second", bits=8)
    hint = refused(request, snapshot, ArtifactError, "has 4 bits, 8 were asked for")
    assert "bits" in hint


@pytest.mark.usefixtures("occupied")
def test_another_models_weights_are_refused(request_for, snapshot, tiny_model, tmp_path):
    model = tmp_path / "tuned"
    shutil.copytree(tiny_model, model)
    from transformers import BertModel

    tuned = BertModel.from_pretrained(model)
    with torch.no_grad():
        tuned.encoder.layer[0].output.dense.weight[0, 0] += 1e-3
    tuned.save_pretrained(model)
    request = request_for(name="second", model=model)
    hint = refused(request, snapshot, ArtifactError, "with other weights than `.*tuned` has")
    assert "give `bert`" in hint


@pytest.mark.usefixtures("occupied")
def test_a_damaged_artifact_is_refused(request_for, snapshot, tmp_path):
    file = tmp_path / "artifact" / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    hint = refused(request_for(name="second"), snapshot, ArtifactError, "is damaged")
    assert hint is not None


@pytest.mark.parametrize(("kind", "longest"), [("bert", 64), ("roberta", 65)])
def test_texts_longer_than_the_encoder_has_positions_are_refused(
    kind, longest, tiny_models, request_for, snapshot
):
    request = request_for(model=tiny_models[kind], max_length=longest + 1)
    message = f"`max_length` is {longest + 1}, the encoder has {longest} positions"
    refused(request, snapshot, ConfigError, message)


def test_an_architecture_that_is_not_known_is_refused(request_for, snapshot, tmp_path, tiny_model):
    model = tmp_path / "fnet"
    FNetModel(FNetConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1)).save_pretrained(model)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(tiny_model / file, model / file)
    hint = refused(
        request_for(model=model),
        snapshot,
        ModelError,
        "`fnet` is not an architecture this release supports: .* reads no `attention_mask`",
    )
    assert hint == "`list_families` says which are supported"


def copy_without(model, folder, *names):
    shutil.copytree(model, folder)
    for name in names:
        (folder / name).unlink()
    return folder


def test_a_folder_without_a_tokenizer_is_refused(request_for, snapshot, tiny_model, tmp_path):
    names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
    model = copy_without(tiny_model, tmp_path / "bare", *names)
    hint = refused(request_for(model=model), snapshot, ModelError, "has no tokenizer")
    assert "save_pretrained" in hint


def test_a_folder_without_weights_is_refused(request_for, snapshot, tiny_model, tmp_path):
    model = copy_without(tiny_model, tmp_path / "bare", "model.safetensors")
    hint = refused(request_for(model=model), snapshot, ModelError, "`config.json` and no weights")
    assert "hub id" in hint


def test_a_configuration_that_is_no_json_is_refused(request_for, snapshot, tiny_model, tmp_path):
    model = copy_without(tiny_model, tmp_path / "bare")
    (model / "config.json").write_text("{")
    refused(request_for(model=model), snapshot, ModelError, "cannot load a model from")


@pytest.mark.parametrize("model", ["/nowhere/at/all", "nobody/nothing", "no such model"])
def test_a_model_that_does_not_exist_is_refused(model, request_for, snapshot):
    hint = refused(request_for(model=model), snapshot, ModelError, f"`{model}`")
    assert "demo" in hint


def test_weights_that_are_not_finite_are_refused(request_for, snapshot, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    model = copy_without(tiny_model, tmp_path / "nan")
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 3] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    message = r"`bert\.encoder\.layer\.1\.output\.dense\.weight` .* not finite"
    refused(request_for(model=model), snapshot, ModelError, message)


def test_data_that_cannot_be_read_is_refused(request_for, snapshot, tmp_path):
    request = replace(request_for(), data=tmp_path / "nowhere")
    refused(request, snapshot, DataError, "no such file or folder")


@pytest.mark.parametrize("name", ["../evil", "SST-2", "", "a" * 65, "tasks/x"])
def test_a_name_that_could_leave_the_artifact_is_refused(name, request_for, snapshot):
    request = replace(request_for(), task=replace(SST2, name=name))
    hint = refused(request, snapshot, ArtifactError, "cannot name a task")
    assert "a-z" in hint


@pytest.mark.parametrize("first", [True, False])
def test_a_fit_that_diverges_writes_nothing(first, request_for, snapshot, tiny_artifact, tmp_path):
    if not first:
        shutil.copytree(tiny_artifact, tmp_path / "artifact")
    request = request_for(name="second", head_lr=1e38)
    before = snapshot(tmp_path)
    with pytest.raises(ModelError, match="training diverged: the loss of step 2 is nan") as caught:
        fit_task(request)
    assert "head_lr" in caught.value.hint
    assert snapshot(tmp_path) == before


def test_a_disk_that_refuses_leaves_no_half_written_artifact(request_for, tmp_path, full_disk):
    run = fit.prepare(request_for())
    trained = fit.learn(run, on_progress=lambda _: None)
    entry, _ = fit.measure(run, trained)
    with full_disk(), pytest.raises(ArtifactError, match="File too large"):
        fit.write(run, entry, trained.patch)
    assert list(tmp_path.iterdir()) == []
