"""Switches of supported architectures: each is learned, exported and verified, or refused before training."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, check_exportable, export_onnx
from maskpack.exporters.exportable import unusual
from maskpack.exporters.graph import miniature
from maskpack.exporters.graph.miniature import miniature_of
from maskpack.formats import ExportError, ModelError
from maskpack.models.families import settings_of
from maskpack.tasks import find_task

OLD = int(transformers.__version__.split(".")[0]) < 5

# (architecture of conftest.py, settings); the settings of a family change its modules or what they compute
VARIANTS = [
    ("bert", {"position_embedding_type": "relative_key"}),
    ("bert", {"position_embedding_type": "relative_key_query"}),
    ("bert", {"hidden_act": "gelu_new"}),
    ("bert", {"hidden_act": "relu2"}),
    ("bert", {"hidden_act": "quick_gelu"}),
    ("bert", {"is_decoder": True}),
    ("bert", {"is_decoder": True, "add_cross_attention": True}),
    ("bert", {"chunk_size_feed_forward": 4}),
    ("bert", {"type_vocab_size": 1}),
    ("bert", {"pruned_heads": {"0": [1]}}),
    ("roberta", {"type_vocab_size": 2}),
    ("roberta", {"position_embedding_type": "relative_key_query"}),
    ("electra", {"embedding_size": 32}),
    ("electra", {"position_embedding_type": "relative_key"}),
    ("electra", {"summary_activation": "tanh"}),
    ("albert", {"inner_group_num": 2}),
    ("albert", {"num_hidden_groups": 2}),
    ("albert", {"hidden_act": "gelu_new"}),
    ("albert", {"position_embedding_type": "relative_key"}),
    ("distilbert", {"sinusoidal_pos_embds": True}),
    ("distilbert", {"activation": "relu"}),
    ("deberta-v2", {"relative_attention": False}),
    ("deberta-v2", {"pos_att_type": ["c2p"]}),
    ("deberta-v2", {"pos_att_type": ["p2c"]}),
    ("deberta-v2", {"pos_att_type": "c2p|p2c"}),
    ("deberta-v2", {"share_att_key": False}),
    ("deberta-v2", {"norm_rel_ebd": "none"}),
    ("deberta-v2", {"position_biased_input": True, "type_vocab_size": 2}),
    ("deberta-v2-own", {"conv_groups": 2, "conv_act": "tanh"}),
    ("deberta-v2-own", {"embedding_size": 16}),
    ("modernbert", {"classifier_pooling": "mean"}),
    ("modernbert", {"hidden_activation": "silu", "attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"norm_bias": True, "classifier_bias": True}),
    ("xlnet", {"attn_type": "uni"}),
    ("xlnet", {"bi_data": True}),
    ("xlnet", {"clamp_len": 4}),
    ("xlnet", {"same_length": True}),
    ("xlnet", {"untie_r": False, "ff_activation": "relu"}),
    ("xlnet", {"summary_type": "first"}),
    ("xlnet", {"summary_type": "mean"}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("gpt2", {"scale_attn_weights": False, "activation_function": "relu", "n_inner": 48}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt2", {"add_cross_attention": True}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "relu2"}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 16}),
    ("llama", {"pretraining_tp": 2}),
]


@pytest.fixture
def make(family_models, tmp_path):
    """`make(kind, **settings)`: a tiny random model with these settings."""

    def build(kind, **settings):
        source, folder = family_models(kind), tmp_path / "model"
        shutil.copytree(source, folder)
        (folder / "model.safetensors").unlink()
        tree = json.loads((source / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(tree))
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
        return folder

    return build


FAST = {0, 1}  # of VARIANTS
WHOLE = {
    0,
    15,
    23,
    35,
    40,
    42,
    45,
}  # of them those that are learned and exported too, one a family or two
REFUSED = [  # the rotary ones look at the longest position of a batch, which a graph cannot branch on
    ("xlnet", {"attn_type": "uni"}),
    ("xlnet", {"bi_data": True}),
    *(
        (kind, settings)
        for kind, settings in VARIANTS
        if set(settings) == {"rope_scaling"}
        and settings["rope_scaling"]["rope_type"] in {"dynamic", "longrope"}
    ),
]

CASES = [
    pytest.param(
        *case,
        number in WHOLE,
        marks=() if number in FAST else pytest.mark.slow,
        id=f"{case[0]}-{number}",
    )
    for number, case in enumerate(VARIANTS)
]


@pytest.mark.parametrize(("kind", "settings", "whole"), CASES)
def test_a_variant_is_learned_exported_and_verified_or_refused_before(
    make, tmp_path, sentiment, kind, settings, whole
):
    """Its miniature is traced and compared with torch in any case."""
    folder = str(make(kind, **settings))
    if not OLD and "position_embedding_type" in settings:
        with pytest.raises(ModelError, match="position_embedding_type"):
            check_exportable(folder)
        return
    if (kind, settings) in REFUSED:
        with pytest.raises(ExportError, match=f"cannot be exported.*`{next(iter(settings))}`"):
            check_exportable(folder)
        return
    check_exportable(folder)
    if not whole:
        return
    artifact = tmp_path / "artifact"
    config = FitConfig(bits=8, steps=2, batch_size=16, max_length=16, precision="fp32", margin=0.5)
    fit_task(FitRequest(folder, find_task("sst2"), artifact, config, data=sentiment))
    tolerance = Tolerance.of("fp32", max_drop=100.0)
    report = export_onnx(ExportRequest(artifact, "sst2", tmp_path / "x", "fp32", tolerance))
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > 0


def test_a_usual_model_is_not_traced(family_models, monkeypatch):
    monkeypatch.setattr(miniature, "find_problem", lambda _: "it was traced")
    for kind in ("bert", "roberta", "distilbert", "electra", "gpt2", "llama", "xlnet"):
        check_exportable(str(family_models(kind)))
    with pytest.raises(ExportError, match="it was traced; its unusual settings: `hidden_act` gelu"):
        check_exportable(str(family_models("albert")))


@pytest.mark.parametrize(
    "kind", ["albert", "bert", "deberta-v2", "gpt2", "llama", "modernbert", "xlnet"]
)
def test_sizes_are_no_switches(kind):
    config = CONFIG_MAPPING[kind]()
    config.update(settings_of(config))  # as `load_config` does
    config.num_hidden_layers, config.vocab_size, config.num_labels = 3, 99, 7
    assert unusual(config.to_dict()) == {}


def test_a_miniature_has_few_layers_and_tokens_and_the_same_switches():
    whole = CONFIG_MAPPING["xlm-roberta"](
        vocab_size=250_002, num_hidden_layers=24, hidden_act="relu"
    )
    whole.eos_token_id, whole.pruned_heads = 250_001, {"1": [0], "23": [1]}
    small = miniature_of(whole.to_dict())
    assert (small["num_hidden_layers"], small["vocab_size"]) == (2, 64)
    assert 0 <= small["eos_token_id"] < 64
    assert small["pruned_heads"] == {"1": [0]}
    assert small["hidden_act"] == "relu"
    kinds = miniature_of({"num_hidden_layers": 9, "layer_types": ["full", "full", *["near"] * 7]})
    assert kinds["layer_types"] == ["full", "near"]


def test_a_graph_that_computes_something_else_is_refused(make, monkeypatch):
    real = miniature.torch_predict
    monkeypatch.setattr(
        miniature, "torch_predict", lambda model: lambda feeds: real(model)(feeds) + 0.5
    )
    miniature._problem.cache_clear()
    with pytest.raises(ExportError, match=r"logits of its graph differ from torch's by 0\.5"):
        check_exportable(str(make("bert", hidden_act="relu")))
    miniature._problem.cache_clear()


def test_the_examples_in_docstrings_hold():
    import doctest

    from maskpack.exporters import exportable

    assert doctest.testmod(exportable) == (0, 1)
    assert doctest.testmod(miniature) == (0, 1)


def test_what_fused_attention_leaves_out_is_found(monkeypatch):
    """Transformers' fused attention of GPT-2 knows no other scale; without our mending the miniature tells."""
    from maskpack.models import build

    config = settings_of_gpt2(scale_attn_weights=False)
    assert miniature.find_problem(config) is None
    monkeypatch.setattr(build, "attention_of", lambda _, wanted: wanted)
    assert "differ from torch's" in miniature.find_problem({**config, "n_positions": 63})


def settings_of_gpt2(**settings):
    own = {"n_embd": 32, "n_head": 2, "n_layer": 2, "vocab_size": 64, "initializer_range": 0.5}
    return CONFIG_MAPPING["gpt2"](**own, **settings).to_dict()
