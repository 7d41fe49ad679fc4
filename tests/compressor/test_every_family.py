"""What is learned with every architecture beyond the first five, and what is special about each."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task
from maskpack.compressor import run_baseline as run
from maskpack.compressor.config import FitConfig
from maskpack.compressor.quantization.calibration import Calibration, Calibrator
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.compressor.quantization.refine import refine
from maskpack.compressor.training.callbacks import Noise, use_fast_dropout
from maskpack.compressor.training.loss import HiddenStateTeacher, states_of
from maskpack.exporters.hf import write_hf
from maskpack.formats import ConfigError, ModelError, open_artifact
from maskpack.models.linears import linearize, plain_state
from maskpack.models.load import (
    load_classifier,
    load_pretrained,
    load_tokenizer,
    settle_padding,
)
from maskpack.models.placement import CpuPlacement
from maskpack.tasks import find_task
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import assess

# linears of two layers; DeBERTa and ModernBERT have their poolers in the head
LINEARS = {
    "deberta-v2": 12,
    "deberta-v2-own": 16,
    "modernbert": 8,
    "xlnet": 14,
    "gpt2": 8,
    "llama": 14,
}
KINDS = tuple(LINEARS)
HEADS = {
    "deberta-v2": {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight"},
    "modernbert": {"head.dense.weight", "head.norm.weight", "classifier.weight"},
    "xlnet": {"sequence_summary.summary.weight", "logits_proj.weight"},
    "gpt2": {"score.weight"},
    "llama": {"score.weight"},
}
TEXTS = ("the film was good", "bad", "we and this story was very awful it was quite sad", "nice")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, family_models, sentiment):
    """`learned(kind)`: an artifact with one task, made on first use, and what was measured."""
    made = {}

    def make(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp("learned") / kind
            config = FitConfig(
                bits=4,
                group=16,
                steps=6,
                batch_size=16,
                max_length=16,
                precision="fp32",
                teacher="none",
                margin=0.5,
            )
            request = FitRequest(
                str(family_models(kind)), find_task("sst2"), out, config, data=sentiment
            )
            made[kind] = (out, fit_task(request))
        return made[kind]

    return make


@every_kind
def test_a_task_is_learned_and_restored_to_what_was_measured(trained, kind, sentiment):
    path, result = trained(kind)
    artifact = open_artifact(path)
    assert len(artifact.backbone.linears) == LINEARS[kind]
    assert 0 < result.count.zeros < result.count.weights / 2
    found = assess(artifact, "sst2", data=sentiment)
    assert found.scores == found.recorded


@pytest.mark.parametrize("kind", HEADS)
def test_all_outside_the_base_is_the_head(trained, kind):
    patch = open_artifact(trained(kind)[0]).patch("sst2")
    assert HEADS[kind] <= set(patch.head)
    assert not any("layer" in name or name.startswith("h.") for name in patch.head)


@every_kind
def test_little_of_the_base_stays_float(trained, kind):
    """No weight matrix does, but for what is far smaller than one."""
    backbone = open_artifact(trained(kind)[0]).backbone
    wide = {name: value.shape for name, value in backbone.dense.items() if value.ndim > 1}
    convolution = {"encoder.conv.conv.weight": (32, 32, 3)}
    assert wide == (convolution if kind == "deberta-v2-own" else {}) or kind == "xlnet"
    if kind == "xlnet":
        parts = {name.rpartition(".")[2] for name in wide}
        assert parts == {"mask_emb", "r_r_bias", "r_s_bias", "r_w_bias", "seg_embed"}


def encoded(artifact, texts):
    rows = Split(tuple((text,) for text in texts), np.zeros(len(texts), dtype=np.int64))
    return ModelContext.of_artifact(artifact).preprocessor().encode(rows, max_length=16)


@every_kind
def test_an_answer_does_not_depend_on_padding(trained, kind):
    """Neither on its amount nor on what lies in it: the end of the text is found, or the start."""
    artifact = open_artifact(trained(kind)[0])
    predict = torch_predict(restore_task(artifact, "sst2"))
    rows = encoded(artifact, TEXTS)
    together = predict(rows.feeds(np.arange(4)))
    alone = np.concatenate([predict(rows.feeds(np.array([row]))) for row in range(4)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)
    assert len(np.unique(alone.round(4), axis=0)) == 4


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_is_given_the_end_of_text_for_padding(trained, family_models, kind):
    given = json.loads((family_models(kind) / "config.json").read_text())
    assert given.get("pad_token_id") is None
    artifact = open_artifact(trained(kind)[0])
    config = json.loads(artifact.file("config.json"))
    tokenizer = ModelContext.of_artifact(artifact).preprocessor().tokenizer
    assert config["pad_token_id"] == tokenizer.pad_token_id == 3
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("[SEP]", "right")
    assert config["use_cache"] is False


def changed_tokenizer(model, folder, **changes):
    """A copy of a model with other special tokens; None removes one."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer_config.json"
    tree = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    ("tokens", "pad_in_config", "expected"),
    [
        ({"pad_token": "[PAD]"}, None, 0),
        ({"pad_token": "[PAD]"}, 4, 0),  # rows are padded with what the tokenizer says
        ({}, 4, 4),
        ({}, -1, 3),  # as some Llamas have it
    ],
)
def test_tokenizer_and_model_agree_on_the_padding(
    family_models, tmp_path, tokens, pad_in_config, expected
):
    model = changed_tokenizer(family_models("llama"), tmp_path / "m", **tokens)
    tree = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**tree, "pad_token_id": pad_in_config}))
    pretrained = load_pretrained(str(model))
    assert pretrained.tokenizer.pad_token_id == expected
    assert pretrained.model.config.pad_token_id == expected
    assert json.loads(pretrained.files["config.json"])["pad_token_id"] == expected


def test_a_tokenizer_of_a_class_that_is_not_known_is_read_as_what_it_holds(family_models, tmp_path):
    """Release 5 of transformers saves `TokenizersBackend`, which 4.57 does not have."""
    model = family_models("llama")
    newer = changed_tokenizer(model, tmp_path / "m", tokenizer_class="NoClassOfTransformers")
    found = load_tokenizer(str(newer))
    assert found("the good film").input_ids == load_tokenizer(str(model))("the good film").input_ids


def test_a_padding_token_without_an_embedding_is_not_taken(family_models):
    tokenizer = AutoTokenizer.from_pretrained(family_models("llama"), pad_token="<added>")
    config = LlamaConfig(vocab_size=tokenizer.pad_token_id)
    settle_padding(tokenizer, config)
    assert config.pad_token_id == tokenizer.pad_token_id == 3


def test_a_decoder_without_any_token_for_padding_is_refused(family_models, tmp_path):
    model = changed_tokenizer(family_models("gpt2"), tmp_path / "m", eos_token=None)
    with pytest.raises(ModelError, match="`gpt2` classifies the last token") as caught:
        load_pretrained(str(model))
    assert "pad_token" in caught.value.hint


def test_an_empty_text_is_a_token_of_padding(trained):
    artifact = open_artifact(trained("gpt2")[0])
    rows = encoded(artifact, ("", "good"))
    feeds = rows.feeds(np.arange(2))
    assert feeds["input_ids"][0, 0] == 3
    assert feeds["attention_mask"][0].tolist() == [1] + [0] * (feeds["input_ids"].shape[1] - 1)
    assert np.isfinite(torch_predict(restore_task(artifact, "sst2"))(feeds)).all()


def test_xlnet_is_padded_before_the_text(trained):
    artifact = open_artifact(trained("xlnet")[0])
    feeds = encoded(artifact, TEXTS).feeds(np.arange(4))
    lengths = feeds["attention_mask"].sum(axis=1)
    width = feeds["input_ids"].shape[1]
    for row, length in enumerate(lengths):
        assert feeds["attention_mask"][row].tolist() == [0] * (width - length) + [1] * length
        assert feeds["input_ids"][row, width - length] == 2  # [CLS]


@pytest.mark.parametrize("kind", ["gpt2", "xlnet"])
def test_linears_compute_what_stood_there_and_are_saved_as_it(family_models, kind):
    folder = str(family_models(kind))
    plain = AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=0).eval()
    wanted = {name: value.clone() for name, value in plain.state_dict().items()}
    feeds = {
        "input_ids": torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.ones(3, 9, dtype=torch.long),
    }
    feeds["attention_mask"][1, :4] = 0
    with torch.no_grad():
        before = plain(**feeds).logits
        after = linearize(plain)(**feeds).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    found = plain_state(plain)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["gpt2", "xlnet", "modernbert"])
def test_a_task_as_a_plain_model_is_read_by_transformers_alone(trained, kind, tmp_path):
    artifact = open_artifact(trained(kind)[0])
    write_hf(artifact, "sst2", tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    feeds = encoded(artifact, TEXTS).feeds(np.arange(4))
    wanted = torch_predict(restore_task(artifact, "sst2"))(feeds)
    np.testing.assert_allclose(torch_predict(plain)(feeds), wanted, rtol=0, atol=1e-5)


@every_kind
def test_dropout_is_replaced_and_a_training_step_reaches_every_linear(family_models, kind):
    model = load_classifier(str(family_models(kind)), outputs=2)
    model.config.pad_token_id = 0
    use_fast_dropout(model, Noise(0), p=0.1)
    assert not any(type(module) is nn.Dropout for module in model.modules())
    model.train()
    ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum().backward()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.grad is not None, name
            assert module.weight.grad.abs().sum() > 0, name


@every_kind
def test_hidden_states_are_those_of_the_tokens_that_are_no_padding(trained, kind):
    artifact = open_artifact(trained(kind)[0])
    model = restore_task(artifact, "sst2")
    rows = encoded(artifact, TEXTS)
    feeds = {name: torch.from_numpy(value) for name, value in rows.feeds(np.arange(4)).items()}
    states = HiddenStateTeacher(model, 1.0).states(feeds)
    assert len(states) == 2
    for state in states:
        assert tuple(state.shape) == (int(rows.lengths.sum()), 32)
    one = {name: torch.from_numpy(value) for name, value in rows.feeds(np.array([2])).items()}
    with torch.no_grad():
        alone = states_of(model(**one, output_hidden_states=True), one)
    start = int(rows.lengths[:2].sum())
    for state, wanted in zip(states, alone, strict=True):
        found = state[start : start + len(wanted)]
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4)


@every_kind
def test_a_narrow_backbone_comes_nearer_to_its_model_by_refinement(family_models, kind):
    pretrained = load_pretrained(str(family_models(kind)))
    base = pretrained.model
    texts = ["good film", "the story was bad and sad", "we it", "very nice"] * 8
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    text = Calibration.of(preprocessor, texts, pairs=True)
    backbone = quantize_model(base, scheme_of(FitConfig(bits=2, group=16)))
    told = []
    refined = refine(
        base,
        backbone,
        text,
        steps=30,
        placement=CpuPlacement.of("cpu", "fp32"),
        on_progress=lambda n: told.append(n.loss),
    )
    assert refined.linears.keys() == backbone.linears.keys()
    assert np.mean(told[-5:]) < np.mean(told[:5])


POSITIONS = {  # what is projected here are positions, with no text in them
    "deberta-v2": ("query_proj", "key_proj"),
    "deberta-v2-own": ("pos_query_proj", "pos_key_proj"),
    "xlnet": (".r.",),
}


@every_kind
def test_calibration_sees_every_linear_and_no_padding(family_models, kind):
    pretrained = load_pretrained(str(family_models(kind)))
    calibration = Calibration.of(ModelContext.of_pretrained(pretrained).preprocessor(), TEXTS)
    names = list(quantize_model(pretrained.model, scheme_of(FitConfig(bits=8))).linears)

    def grams(rows):
        found = {}
        part = Calibration(calibration.encoded.take(np.array(rows)))
        for block in Calibrator(pretrained.model, part).blocks(names):
            found |= block
        return found

    together, alone = grams([0, 1, 2, 3]), [grams([row]) for row in range(4)]
    assert sorted(together) == sorted(names)
    for name, gram in together.items():
        assert gram.shape[0] == pretrained.model.get_parameter(name).shape[1]
        assert gram.trace() > 0
        if not any(part in name for part in POSITIONS.get(kind, ())):
            wanted = sum(one[name] for one in alone)
            np.testing.assert_allclose(gram, wanted, rtol=1e-3, atol=1e-3)


@every_kind
@pytest.mark.parametrize("method", ["lora", "bitfit", "full"])
def test_baselines_are_trained(family_models, sentiment, tmp_path, kind, method):
    config = BaselineConfig(
        method=method, steps=2, batch_size=8, max_length=16, precision="fp32", rank=2
    )
    out = tmp_path / "model" if method == "full" else None
    request = BaselineRequest(
        str(family_models(kind)), find_task("sst2"), config, out, data=sentiment
    )
    if method == "bitfit" and kind in {"llama", "modernbert"}:
        with pytest.raises(ConfigError, match=f"`{kind}` has no biases to train"):
            run(request)
        return
    result = run(request)
    assert result.patch_bytes > result.head_bytes
    if out is not None:  # and it teaches
        config = FitConfig(
            bits=4,
            group=16,
            steps=2,
            batch_size=8,
            max_length=16,
            precision="fp32",
            teacher=str(out),
        )
        fit = FitRequest(
            str(family_models(kind)), find_task("sst2"), tmp_path / "a", config, data=sentiment
        )
        assert fit_task(fit).steps == 2
