from __future__ import annotations

from types import SimpleNamespace

import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from maskpack.formats import ModelError
from maskpack.models.families import (
    FAMILIES,
    UNLIMITED,
    check_rotary,
    longest_input,
    token_kinds,
)
from maskpack.models.inputs import inputs_of


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_names_the_encoder_inside_the_classifier_of_transformers(model_type):
    config = CONFIG_MAPPING[model_type]()
    auto_class = inputs_of(FAMILIES[model_type]).auto_class
    found = getattr(transformers, auto_class)._model_mapping[type(config)]
    classifier = found[0] if isinstance(found, tuple) else found
    assert classifier.base_model_prefix == FAMILIES[model_type].base


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 0}, 65),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "distilbert"}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "llama", "max_position_embeddings": 2048, "pad_token_id": 2}, 2048),
        ({"model_type": "xlnet", "d_model": 768}, UNLIMITED),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpt", "max_seq_len": 2048}, 2048),
        ({"model_type": "mpnet", "max_position_embeddings": 66, "pad_token_id": 0}, 64),
        ({"model_type": "vit", "image_size": 224, "patch_size": 16}, 197),
        ({"model_type": "deit", "image_size": [224, 32], "patch_size": 16}, 30),
        ({"model_type": "dinov2", "image_size": 518, "patch_size": 14}, 1370),
        ({"model_type": "qwen3", "max_position_embeddings": 40960, "pad_token_id": 9}, 40960),
        ({"model_type": "xlm-roberta-xl", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ],
)
def test_an_encoder_reads_as_many_tokens_as_it_has_positions(config, tokens):
    assert longest_input(config) == tokens


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"model_type": "bert", "type_vocab_size": 3}, 3),
        ({"model_type": "roberta", "type_vocab_size": 1}, 0),
        ({"model_type": "deberta-v2", "type_vocab_size": 2}, 2),
        ({"model_type": "deberta-v2", "type_vocab_size": 0}, 0),
        ({"model_type": "xlnet"}, 4),
        ({"model_type": "llama"}, 0),
        ({"model_type": "ernie", "type_vocab_size": 4}, 4),
        ({"model_type": "deberta"}, 0),
        ({"model_type": "deberta", "type_vocab_size": 2}, 2),
        ({"model_type": "qwen3"}, 0),
    ],
)
def test_token_types_are_read_where_there_is_something_to_read_them_with(config, kinds):
    assert token_kinds(config) == kinds


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "electra", "distilbert", "gpt2", "mpnet", "ernie"]
)
def test_an_input_of_that_length_runs_and_one_token_more_does_not(kind, family_models):
    import json

    import torch

    from maskpack.models.load import load_pretrained

    folder = family_models(kind)
    tokens = longest_input(json.loads((folder / "config.json").read_text()))
    model = load_pretrained(str(folder)).model.eval()
    with torch.no_grad():
        assert model(torch.full((1, tokens), 7)).last_hidden_state.shape[1] == tokens
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, tokens + 1), 7))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"rope_theta": 500000.0, "rope_type": "default"}, {"rope_theta": 10000.0}),
        ({"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}, {"rope_theta": 1e4}),
        ({"sliding_attention": {"rope_theta": 5e4}}, {"local_rope_theta": 1e4}),
    ],
)
def test_rotary_positions_that_would_be_read_as_others_are_refused(written, read):
    config = SimpleNamespace(rope_parameters=written, rope_scaling=None, **read)
    with pytest.raises(ModelError, match="the installed transformers reads"):
        check_rotary(config)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5}},  # as release 5 has it
        {"rope_parameters": {"full_attention": {"rope_theta": 1.6e5}}, "global_rope_theta": 1.6e5},
    ],
)
def test_rotary_positions_that_are_read_as_written_pass(config):
    check_rotary(SimpleNamespace(rope_scaling=None, **config))
