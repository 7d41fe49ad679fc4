"""Folders and files given as MODEL: the folder inside is found, and what is no model is named."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskpack.formats import ModelError
from maskpack.models.load import load_classifier, load_pretrained
from maskpack.models.locate import resolve

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of a tiny model, to be changed."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def moved(model, name):
    """A folder that holds the model in a folder inside."""
    outer = model.parent / "outer"
    shutil.copytree(model, outer / name)
    return outer


def digest(folder):
    return load_pretrained(str(folder)).weights_sha256()


# Folders inside


@pytest.mark.parametrize("name", ["checkpoint-500", "my-model", "snapshots/0123"])
def test_the_only_model_inside_is_taken_and_said(model, name, caplog):
    outer = moved(model, name)
    with caplog.at_level(logging.INFO):
        assert resolve(str(outer)) == str(outer / name)
        assert digest(outer) == digest(model)
    assert caplog.messages.count(f"`{outer}` holds a model in `{name}`") == 1


def test_the_transformer_of_sentence_transformers_is_taken(model):
    outer = moved(model, "0_Transformer")
    shutil.copytree(model, outer / "other")
    modules = [{"path": "0_Transformer", "type": "a"}, {"path": "1_Pooling", "type": "b"}]
    (outer / "modules.json").write_text(json.dumps(modules))
    assert resolve(str(outer)) == str(outer / "0_Transformer")


def test_several_checkpoints_are_named(model):
    outer = moved(model, "checkpoint-500")
    shutil.copytree(model, outer / "checkpoint-1000")
    with pytest.raises(ModelError, match="2 models: `checkpoint-500`, `checkpoint-1000`") as caught:
        load_pretrained(str(outer))
    assert str(outer / "checkpoint-1000") in caught.value.hint


@pytest.mark.parametrize("parent", ["/elsewhere", "C:\\runs"])
def test_of_several_checkpoints_the_one_that_training_calls_best_is_taken(model, parent):
    outer = moved(model, "checkpoint-500")
    last = shutil.copytree(model, outer / "checkpoint-1000")
    separator = "\\" if "\\" in parent else "/"
    state = {"best_model_checkpoint": f"{parent}{separator}checkpoint-500"}
    (last / "trainer_state.json").write_text(json.dumps(state))
    assert resolve(str(outer)) == str(outer / "checkpoint-500")


def test_a_model_beside_its_checkpoints_is_the_model(model):
    shutil.copytree(model, model / "checkpoint-500")
    assert resolve(str(model)) == str(model)


def test_a_checkpoint_without_a_tokenizer_has_that_of_the_folder_above(model):
    outer = moved(model, "checkpoint-500")
    for path in list((outer / "checkpoint-500").iterdir()):
        if path.name not in {"config.json", "model.safetensors"}:
            path.rename(outer / path.name)
    assert digest(outer) == digest(model)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no `config.json`") as caught:
        load_pretrained(str(tmp_path))
    assert "hub id" in caught.value.hint


# Weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["model.safetensors", "model.fp16.safetensors"])
def test_halves_and_variants_become_float32(model, name, dtype):
    tensors = {key: t.to(dtype) for key, t in load_file(model / "model.safetensors").items()}
    (model / "model.safetensors").unlink()
    save_file(tensors, model / name, metadata={"format": "pt"})
    loaded = load_pretrained(str(model)).model
    assert len({p.dtype for p in loaded.parameters()}) == 1
    weight = loaded.embeddings.word_embeddings.weight.float()  # a half may stay as it is stored
    assert torch.equal(weight, tensors["embeddings.word_embeddings.weight"].float())


def test_a_pickle_of_tensors_is_read(model):
    wanted = digest(model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert digest(model) == wanted


class Runs:
    """A pickle of it would call `print`."""

    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(model, capsys):
    (model / "model.safetensors").unlink()
    torch.save({"a": Runs()}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle that runs code"):
        load_pretrained(str(model))
    assert "this ran" not in capsys.readouterr().out


def test_weights_in_several_files_are_read_and_a_missing_one_is_named(model):
    wanted = digest(model)
    tensors = load_file(model / "model.safetensors")
    parts = {f"model-0000{k}-of-00002.safetensors": sorted(tensors)[k - 1 :: 2] for k in (1, 2)}
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, model / name, metadata={"format": "pt"})
    where = {key: name for name, keys in parts.items() for key in keys}
    index = {"metadata": {}, "weight_map": where}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").unlink()
    assert digest(model) == wanted
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks 1 of 2 files of weights.*model-00002-of"):
        load_pretrained(str(model))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_named(model, name):
    (model / name).write_text(POINTER)
    with pytest.raises(ModelError, match=f"`{name}` .* is a pointer of Git LFS") as caught:
        load_pretrained(str(model))
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.onnx", "ONNX"),
        ("onnx/model_quantized.onnx", "ONNX"),
        ("tf_model.h5", "TensorFlow"),
        ("bert_model.ckpt.index", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model-Q4_K_M.gguf", "GGUF"),
        ("openvino_model.xml", "OpenVINO"),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_weights_of_another_format_are_named(model, name, what, configured):
    (model / "model.safetensors").unlink()
    if not configured:
        (model / "config.json").unlink()
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=f"for {what} only \\(`{name}`\\)") as caught:
        load_classifier(str(model), outputs=2)
    assert "made from" in caught.value.hint or "save it from torch" in caught.value.hint


def test_an_artifact_is_named(tiny_artifact):
    with pytest.raises(ModelError, match="is an artifact, whose model is quantised already"):
        load_pretrained(str(tiny_artifact))


# Files


def test_an_archive_is_named_alone_and_in_a_folder(model):
    file = model.parent / "packed" / "model.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(model / "config.json", "config.json")
    with pytest.raises(ModelError, match="is an archive") as caught:
        load_pretrained(str(file))
    assert "unpack" in caught.value.hint
    with pytest.raises(ModelError, match="no `config.json`") as caught:
        load_pretrained(str(file.parent))
    assert caught.value.hint == "unpack `model.zip` and give the folder"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.gguf", b"GGUF", "in the format GGUF"),
        ("model.onnx", b"x", "in the format ONNX"),
        ("model.safetensors", b"x", "a file of weights alone"),
        ("pytorch_model.bin", b"x", "a file of weights alone"),
        ("model.safetensors", POINTER.encode(), "pointer of Git LFS"),
        ("model.tar.gz", b"x", "is an archive"),
        ("config.json", b"{}", "a file, not the folder"),
    ],
)
def test_a_file_is_refused_by_what_it_is(write, name, content, words):
    path = write(name, content)
    with pytest.raises(ModelError, match=words) as caught:
        load_pretrained(str(path))
    assert caught.value.hint
