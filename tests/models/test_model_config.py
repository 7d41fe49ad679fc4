"""Configurations that are refused by name, and code beside a model that is never run."""

from __future__ import annotations

import json
import logging
import shutil
import time
import tomllib

import pytest
import torch
from sources import ROOT
from transformers import CONFIG_MAPPING

from maskpack.formats import MissingPackageError, ModelError, extras, waiting
from maskpack.models import failures
from maskpack.models.config import load_config
from maskpack.models.failures import guard, missing_part
from maskpack.models.load import load_classifier, load_finetuned, load_pretrained, load_tokenizer


@pytest.fixture
def change(tiny_model, tmp_path):
    """`change(**settings)`: a copy of a tiny model with these settings in `config.json`."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")

    def apply(file="config.json", **settings):
        tree = json.loads((folder / file).read_text()) | settings
        (folder / file).write_text(json.dumps(tree))
        return folder

    return apply


@pytest.fixture
def ours(monkeypatch):
    """Extras as pyproject.toml names them, whatever is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        f'{each}; extra == "{extra}"'
        for extra, needed in project["optional-dependencies"].items()
        for each in needed
    ]
    monkeypatch.setattr(extras, "requires", lambda _: lines)


# Quantised models


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
        {"load_in_8bit": True},
    ],
)
def test_a_quantised_model_is_refused(change, settings):
    folder = change(quantization_config=settings)
    for load in (load_pretrained, load_finetuned):
        with pytest.raises(ModelError, match="are quantised already") as caught:
            load(str(folder))
        assert settings.get("quant_method", "unknown method") in str(caught.value)
        assert caught.value.hint == "give the model that it was made from"


@pytest.mark.parametrize(
    ("settings", "card"),
    [
        ({"_name_or_path": "me/dense"}, None),
        ({}, "---\nbase_model: me/dense\n---\n# A model\n"),
        ({"_name_or_path": "me/other"}, "---\nbase_model:\n- me/dense\ntags: [a]\n---\n"),
    ],
)
def test_the_model_it_was_made_from_is_named_where_a_file_says_it(change, settings, card):
    folder = change(quantization_config={"quant_method": "gptq"}, **settings)
    if card is not None:
        (folder / "README.md").write_text(card)
    with pytest.raises(ModelError) as caught:
        load_config(str(folder))
    assert caught.value.hint == "give the model that it was made from: `me/dense`"


# Code beside a model

CODE = "raise SystemExit('this ran')\n"


@pytest.fixture
def with_code(change, monkeypatch):
    """A model with code of its own; a question on the terminal would fail."""

    def ask(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", ask)

    def make(**settings):
        names = {f"Auto{each}": f"own.Own{each}" for each in ("Config", "Model")}
        names["AutoModelForSequenceClassification"] = "own.OwnClassifier"
        folder = change(auto_map=names, **settings)
        (folder / "own.py").write_text(CODE)
        return folder

    return make


def test_an_architecture_that_comes_as_code_is_refused_without_running_it(with_code):
    folder = with_code(model_type="own-bert")
    for load in (load_pretrained, load_finetuned, load_config):
        with pytest.raises(ModelError, match="`own-bert` is not an architecture"):
            load(str(folder))


def test_code_without_a_name_is_refused(with_code):
    with pytest.raises(ModelError, match="brings code of its own, which is not run"):
        load_config(str(with_code(model_type=None)))


def test_a_supported_family_is_loaded_with_the_class_of_transformers(with_code, tiny_model):
    folder = with_code()
    loaded = load_pretrained(str(folder))
    assert loaded.weights_sha256() == load_pretrained(str(tiny_model)).weights_sha256()
    assert b"auto_map" not in loaded.files["config.json"]
    assert not hasattr(load_classifier(str(folder), outputs=2).config, "auto_map")


@pytest.mark.parametrize(
    "names", [["own.OwnTokenizer", None], {"AutoTokenizer": ["own.A", "own.B"]}]
)
@pytest.mark.parametrize("kind", ["OwnTokenizer", "BertTokenizer"])
def test_a_tokenizer_that_comes_as_code_is_read_from_its_json(with_code, change, names, kind):
    with_code()
    folder = change("tokenizer_config.json", auto_map=names, tokenizer_class=kind)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("good film").input_ids[1:-1]
    assert b"auto_map" not in load_pretrained(str(folder)).files["tokenizer_config.json"]


# Settings that a release of transformers does not know


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_positions_that_transformers_has_dropped_are_refused(change, monkeypatch, kind):
    folder = change(position_embedding_type=kind)
    dropped = type("Config", (), {})  # as release 5 has it
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "bert", dropped)
    with pytest.raises(ModelError, match=f"`position_embedding_type` .* is '{kind}'") as caught:
        load_config(str(folder))
    assert "transformers 4.57" in caught.value.hint


@pytest.mark.parametrize(
    "settings", [{"chunk_size_feed_forward": 4}, {"is_decoder": True, "add_cross_attention": True}]
)
def test_settings_that_a_classifier_has_no_use_for_are_put_back(change, settings):
    model = load_classifier(str(change(**settings)), outputs=2)
    model(torch.tensor([[2, 5, 3]]))  # three tokens are no multiple of four
    assert not any("cross" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_an_attention_for_another_device_is_no_reason_to_fail(change, name):
    folder = change(**{name: "flash_attention_2"})
    assert load_classifier(str(folder), outputs=2).config._attn_implementation in {"sdpa", "eager"}
    assert b"flash" not in load_pretrained(str(folder)).files["config.json"]


# Packages


@pytest.mark.parametrize(
    ("said", "package", "install"),
    [
        (
            "\nAlbertTokenizer requires the SentencePiece library",
            "sentencepiece",
            '"maskpack[sentencepiece]"',
        ),
        ("XLNetConverter requires the protobuf library", "protobuf", '"maskpack[sentencepiece]"'),
        ("`tiktoken` is required to read a `tiktoken` file", "tiktoken", "tiktoken"),
        ("FlashAttention2 has been toggled on, but", "flash-attn", "flash-attn"),
        ("Using `low_cpu_mem_usage=True` requires Accelerate", "accelerate", '"maskpack[fit]"'),
        ("Loading a GPTQ quantized model requires optimum", "optimum", "optimum"),
        ("needs torchvision", "torchvision", "torchvision"),
        ("please `pip install -U 'hf-kernels>=1'`", "hf-kernels", "hf-kernels"),
    ],
)
def test_a_missing_part_is_our_error_with_what_to_install(ours, said, package, install):
    def load():
        raise ImportError(said)

    with pytest.raises(MissingPackageError, match=f"`me/x` needs the package {package}") as caught:
        guard(load, "me/x")
    assert caught.value.hint == f"pip install {install}"


def test_a_missing_part_that_has_no_known_name_is_quoted():
    error = missing_part("me/x", ImportError("\nsomething is not here.\nmore"))
    assert isinstance(error, ModelError)
    assert "something is not here" in str(error)


@pytest.mark.parametrize(
    "name", ["spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model"]
)
@pytest.mark.parametrize("absent", ["sentencepiece", "google.protobuf"])
def test_a_sentencepiece_file_alone_names_the_extra(change, ours, monkeypatch, name, absent):
    import sys
    from types import ModuleType

    folder = change()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    (folder / name).write_bytes(b"\n\x0eabc")
    monkeypatch.setitem(sys.modules, "sentencepiece", ModuleType("sentencepiece"))
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingPackageError, match=f"`{name}` of .* needs the package") as caught:
        load_pretrained(str(folder))
    assert caught.value.hint == 'pip install "maskpack[sentencepiece]"'


def test_a_tokenizer_json_needs_no_sentencepiece_beside_it(change, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    folder = change()
    (folder / "spiece.model").write_bytes(b"\n\x0eabc")
    assert load_tokenizer(str(folder)).is_fast


# Waiting


def test_a_wait_for_the_hub_is_said_and_a_folder_is_not(monkeypatch, caplog, tmp_path):
    def wait_for_words():
        end = time.monotonic() + 300
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)

    with caplog.at_level(logging.INFO):
        guard(lambda: None, "me/fast")
        monkeypatch.setattr(waiting, "PATIENCE", 0.01)
        guard(wait_for_words, "me/x")
        guard(lambda: time.sleep(0.3), str(tmp_path))
    assert caplog.messages == ["getting `me/x` from the Hub or its cache; still waiting"]


def test_the_words_of_packages_are_looked_for_as_documented():
    import doctest

    assert doctest.testmod(failures) == (0, 2)
