"""Model folders with values that libraries do not expect: each is refused with an error of ours; the fuzz of inputs met them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskpack.formats import ModelError
from maskpack.models.build import classifier_config, parameter_shapes
from maskpack.models.load import load_pretrained, load_tokenizer

INDEX = "model.safetensors.index.json"
PANIC = {
    "type": "BPE",
    "continuing_subword_prefix": "##",
    "vocab": {"w": 0, "o": 1, "wo": 2},
    "merges": [["w", "o"]],
}
"""The tokenizers library ends in a panic over this, which is no `Exception`."""


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of a tiny encoder."""
    return shutil.copytree(tiny_model, tmp_path / "copy")


def change(path, **values):
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, **values}))


@pytest.mark.parametrize("values", [{"hidden_size": None}, {"num_hidden_layers": "2"}])
def test_a_value_of_the_wrong_type_is_refused_whatever_it_leads_to(copy, values):
    change(copy / "config.json", **values)
    with pytest.raises(ModelError, match="cannot load a model from .*TypeError: ") as error:
        load_pretrained(str(copy))
    assert "wrong type" in error.value.hint


@pytest.mark.parametrize("text", ["3", "[]", "null", '"bert"'])
def test_a_configuration_that_is_no_object_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match="copy"):
        load_pretrained(str(copy))


@pytest.mark.parametrize("listed", [[1], True, {}, {"a": 3}, {"a": "../../model.safetensors"}])
def test_an_index_that_lists_no_files_beside_it_is_refused(copy, listed):
    (copy / "model.safetensors").unlink()
    (copy / INDEX).write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(ModelError, match=f"`{INDEX}` in .* lists .* of weights"):
        load_pretrained(str(copy))


def test_a_panic_of_the_tokenizers_library_is_an_error_like_any_other(copy):
    change(copy / "tokenizer.json", model=PANIC)
    with pytest.raises(ModelError, match="no tokenizer that can be loaded: byte index 2"):
        load_tokenizer(str(copy))


def test_a_class_of_tokenizer_that_transformers_cannot_make_is_refused(copy, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: False)
    with pytest.raises(ModelError, match="no fast tokenizer"):
        load_tokenizer(str(copy))


def test_a_configuration_is_refused_where_only_its_shape_is_asked_for(tiny_model):
    config = json.loads((tiny_model / "config.json").read_text())
    wrong = json.dumps({**config, "attention_probs_dropout_prob": "0.1"}).encode()
    kind = {"problem_type": "regression", "auto_class": "AutoModelForSequenceClassification"}
    with pytest.raises(ModelError, match=r"`config.json`: TypeError: "):
        parameter_shapes(classifier_config(wrong, [], **kind))


@pytest.mark.parametrize("name", ["max_position_embeddings", "pad_token_id"])
@pytest.mark.parametrize("value", ["64", 1.5, [2], True])
def test_a_number_that_the_architecture_never_reads_is_checked_all_the_same(
    family_models, tmp_path, name, value
):
    folder = shutil.copytree(family_models("llama"), tmp_path / "llama")
    change(folder / "config.json", **{name: value})
    with pytest.raises(ModelError):
        load_pretrained(str(folder))


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
def test_weights_in_a_type_of_codes_are_refused(copy, kind):
    weights = load_file(copy / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    weights[name] = weights[name].to(kind)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError):
        load_pretrained(str(copy))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_other_types_of_floats_are_read(copy, kind):
    weights = load_file(copy / "model.safetensors")
    found = {name: value.to(kind) for name, value in weights.items()}
    save_file(found, copy / "model.safetensors", {"format": "pt"})
    model = load_pretrained(str(copy)).model
    assert {value.dtype for value in model.parameters()} <= {torch.float32, kind}
    own = {name: value.float() for name, value in model.named_parameters()}
    assert all(torch.equal(own[name], value.float()) for name, value in found.items())


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_more_layers_than_any_model_has_are_refused_at_once(family_models, tmp_path, kind):
    folder = shutil.copytree(family_models(kind), tmp_path / kind)
    change(folder / "config.json", **{"num_hidden_layers" if kind == "bert" else "n_layer": 2**31})
    with pytest.raises(ModelError, match="has 2147483648 layers"):
        load_pretrained(str(folder))


def test_a_tokenizer_that_no_file_can_hold_is_refused(copy):
    change(copy / "tokenizer_config.json", odd="\ud800")
    with pytest.raises(ModelError, match="the tokenizer cannot be saved: .*surrogates"):
        load_pretrained(str(copy))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", ["bert"]),
        ("architectures", 3),
        ("architectures", {"a": 1}),
        ("label2id", ["bad", "good"]),
        ("problem_type", 3),
        ("rope_parameters", "x"),
        ("pruned_heads", [0]),
    ],
)
def test_a_setting_of_another_type_is_named(copy, name, value):
    change(copy / "config.json", **{name: value})
    with pytest.raises(ModelError, match=f"`{name}` of .*copy` is .*, expected "):
        load_pretrained(str(copy))


@pytest.mark.parametrize("part", ["full_attention", "sliding_attention"])
def test_a_part_of_the_rotary_positions_that_is_no_object_is_named(family_models, tmp_path, part):
    folder = shutil.copytree(family_models("modernbert"), tmp_path / "modernbert")
    change(folder / "config.json", rope_parameters={part: 3})
    with pytest.raises(ModelError):
        load_pretrained(str(folder))


def test_a_configuration_that_its_class_refuses_is_refused(family_models):
    config = json.loads((family_models("xlnet") / "config.json").read_text())
    wrong = json.dumps({**config, "n_head": None}).encode()
    kind = {"problem_type": "regression", "auto_class": "AutoModelForSequenceClassification"}
    with pytest.raises(ModelError, match=r"`config.json`: TypeError: "):
        classifier_config(wrong, [], **kind)
