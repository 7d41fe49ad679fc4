"""Models as others saved them; docs/situations.md says who met each."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.formats import ModelError
from maskpack.formats.pooling import Pooling
from maskpack.models.failures import guard
from maskpack.models.load import load_classifier, load_finetuned, load_pretrained, tokenizer_of
from maskpack.models.locate import note_once
from maskpack.models.pooling import find_pooling

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of a tiny encoder."""
    note_once.cache_clear()
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def classifier(tiny_model, tmp_path):
    """A tiny classifier of two labels."""
    folder = tmp_path / "classifier"
    load_classifier(str(tiny_model), outputs=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def rewrite(folder, change, metadata=None):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata=metadata)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("pickled", [False, True])
def test_names_of_a_wrapper_of_torch_are_taken_off(copy, tiny_model, classifier, prefix, pickled):
    def named(weights):
        return {prefix + name: value for name, value in weights.items()}

    wanted = load_finetuned(str(classifier)).state_dict()
    for folder in (copy, classifier):
        if pickled:
            torch.save(named(load_file(folder / WEIGHTS)), folder / "pytorch_model.bin")
            (folder / WEIGHTS).unlink()
        else:
            rewrite(folder, named, {"format": "pt"})
    digest = load_pretrained(str(tiny_model)).weights_sha256()
    assert load_pretrained(str(copy)).weights_sha256() == digest
    found = load_finetuned(str(classifier)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_tensors_of_another_model_are_no_wrapper(copy):
    rewrite(copy, lambda w: {f"backbone.{name}": v for name, v in w.items()}, {"format": "pt"})
    with pytest.raises(ModelError, match="lack 37 parameters of the encoder"):
        load_pretrained(str(copy))


def test_weights_saved_without_the_mark_of_their_library_are_read(copy, tiny_model):
    rewrite(copy, dict)
    digest = load_pretrained(str(tiny_model)).weights_sha256()
    assert load_pretrained(str(copy)).weights_sha256() == digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.0.output.LayerNorm.weight", "classifier.bias"]
)
def test_a_weight_that_is_no_number_is_named(classifier, name, value):
    def broken(weights):
        weights[name][0] = value
        return weights

    rewrite(classifier, broken, {"format": "pt"})
    for load in (load_pretrained, load_finetuned):
        with pytest.raises(ModelError, match=f"`{name}` of .* not finite") as caught:
            load(str(classifier))
        assert "save it again in float32" in str(caught.value.hint)


def test_further_chat_templates_are_left_out(copy):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool": "{{ tools }}"}
    tokenizer.save_pretrained(copy)
    assert (copy / "additional_chat_templates").is_dir(), "as transformers saves it"
    files = load_pretrained(str(copy)).files
    text = "the film was great"
    assert tokenizer_of(files)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_an_endless_model_max_length_is_no_limit(copy):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))
    assert load_pretrained(str(copy)).tokenizer.model_max_length == 10**30


def pipeline(folder, *, lower, head, dense):
    parts = ["", "1_Pooling", *(["2_Dense"] if dense else [])]
    kinds = ("Transformer", "Pooling", "Dense")
    tree = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in zip(parts, kinds, strict=False)
    ]
    (folder / "modules.json").write_text(json.dumps(tree))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": lower}))
    if head:
        (folder / "model_head.pkl").write_bytes(b"\x80\x04.")


def test_parts_that_a_task_does_without_are_named_once(copy, caplog):
    pipeline(copy, lower=True, head=True, dense=True)
    with caplog.at_level(logging.INFO, "maskpack"):
        for _ in range(2):
            load_pretrained(str(copy))
    notes = [record.message for record in caplog.records]
    assert len(notes) == 2, notes
    assert notes[0].endswith("that a task does without: Dense")
    assert "a head of SetFit (`model_head.pkl`)" in notes[1]
    with pytest.raises(ModelError, match="no fine-tuned classifier") as caught:
        load_finetuned(str(copy))
    assert "`model_head.pkl` is a pickle, which is not read" in str(caught.value.hint)


@pytest.mark.parametrize("lower", [False, True])
def test_lower_case_outside_a_tokenizer_that_tells_capitals_apart(copy, caplog, lower):
    pipeline(copy, lower=lower, head=False, dense=False)
    file = copy / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["normalizer"]["lowercase"] = False
    tree["model"]["vocab"] |= {"a": 90, "A": 91}
    file.write_text(json.dumps(tree))
    config = copy / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"do_lower_case": False}))
    with caplog.at_level(logging.INFO, "maskpack"):
        load_pretrained(str(copy), resize_embeddings=True)
    warned = [one for one in caplog.records if "made for texts in lower case" in one.message]
    assert [one.levelname for one in warned] == ["WARNING"] * lower


def test_no_random_pooler_is_taken(copy):
    assert load_pretrained(str(copy)).model.pooler is not None
    rewrite(copy, lambda w: {n: v for n, v in w.items() if "pooler" not in n}, {"format": "pt"})
    found = load_pretrained(str(copy))
    assert found.model.pooler is None
    assert find_pooling(str(copy), found.model.config) is Pooling.MEAN


@pytest.mark.parametrize("branch", [False, True])
def test_a_commit_in_the_cache_is_named_where_no_branch_is(tmp_path, monkeypatch, branch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--me--model"
    (home / "snapshots" / commit).mkdir(parents=True)
    if branch:
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("maskpack.models.failures.HF_HUB_CACHE", str(tmp_path))

    def fail():
        raise OSError("not in the cache")

    with pytest.raises(ModelError) as caught:
        guard(fail, "me/model")
    assert (commit in str(caught.value.hint)) is not branch


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # PEFT tells what it does
def test_an_adapter_learned_over_added_tokens_brings_their_embeddings(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([f"<{number}>" for number in range(9)])
    model.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("the <3> film <8>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found, wanted = load_finetuned(str(tmp_path)).eval()(ids).logits, adapted(ids).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    vocabulary = json.loads(load_pretrained(str(tmp_path)).files["config.json"])["vocab_size"]
    assert vocabulary == len(tokenizer)
