"""Architectures without an entry: what is read from transformers, what is refused, and what a table says of them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from maskpack.compressor import family_support, list_families
from maskpack.exporters import check_exportable
from maskpack.formats import ExportError, ModelError
from maskpack.formats.pooling import Pooling
from maskpack.models.families import FAMILIES, IMAGES, PADDED, attention_of, family_of
from maskpack.models.load import load_classifier, load_pretrained
from maskpack.models.pooling import habit_of, has_no_pooler
from maskpack.models.rule import family_by_rule
from maskpack.models.tested import NO_GRAPH, TESTED

PINNED = transformers.__version__.startswith("4.57.")


IMAGE_FAMILIES = {name for name, family in FAMILIES.items() if family.reads == IMAGES}


@pytest.mark.parametrize(
    "model_type", sorted(FAMILIES.keys() - {"mpnet", "xlnet", *IMAGE_FAMILIES})
)
def test_the_rule_finds_what_the_entries_say(model_type):
    """MPNet's positions begin at 2 whatever its padding token is, and XLNet pads before the text: only an entry knows."""
    entry, found = FAMILIES[model_type], family_by_rule(model_type)
    for name in ("base", "last_token", "pooling", "offset"):
        assert getattr(found, name) == getattr(entry, name), name
    assert set(entry.projections) <= set(found.projections)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("t5", "it is an encoder with a decoder"),
        ("bart", "it is an encoder with a decoder"),
        ("fnet", "`FNetForSequenceClassification` reads no `attention_mask`"),
        ("layoutlmv3", "it reads more than a text (`pixel_values`)"),
        ("swin", "it reads images, and of those models these are known: deit, dinov2, vit"),
        ("squeezebert", "100% of a layer's weights are in no linear, such as `encoder.layers.0."),
        ("xlm", "its layers are not one list"),
        ("funnel", "its layers are not one list"),
        ("reformer", "it learns only on texts whose lengths are multiples of its blocks"),
        ("mamba", "has no class for classification with it"),
        ("nobody-knows", "does not know it"),
    ],
)
def test_an_architecture_that_the_rule_cannot_take_is_refused_by_name_with_the_reason(
    model_type, why
):
    with pytest.raises(ModelError) as caught:
        family_of(model_type)
    fact = str(caught.value)
    assert fact.startswith(f"`{model_type}` is not an architecture this release supports: ")
    assert why in fact
    assert caught.value.hint == "`list_families` says which are supported"
    assert family_support(model_type).support == "none"
    assert why in family_support(model_type).reason


@pytest.mark.parametrize("model_type", ["swin", "nobody-knows"])
def test_a_folder_with_another_kind_of_model_is_refused_by_its_configuration(
    family_models, tmp_path, model_type
):
    folder = shutil.copytree(family_models("qwen3"), tmp_path / "odd")
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | {"model_type": model_type}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"`{model_type}` is not an architecture this release"):
        load_pretrained(str(folder))


def test_weights_that_are_named_otherwise_are_refused_with_a_name_of_each_kind(
    family_models, tmp_path
):
    folder = shutil.copytree(family_models("qwen3"), tmp_path / "odd")
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("self_attn", "attention"): value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lack 12 parameters .*, such as `model\.layers\.0\.self_attn"
    ) as caught:
        load_pretrained(str(folder))
    assert "; they hold `layers.0.attention." in str(caught.value)


@pytest.mark.skipif(not PINNED, reason="release 5 holds experts in blocks, which the rule refuses")
def test_a_mixture_of_experts_has_no_graph(family_models, tmp_path):
    folder = shutil.copytree(family_models("qwen3"), tmp_path / "experts")
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"model_type": "mixtral", "num_local_experts": 2}
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ExportError, match="`mixtral` cannot be exported: which of its experts"):
        check_exportable(str(folder))


def test_a_task_for_which_an_architecture_has_no_class_is_refused(family_models):
    with pytest.raises(ModelError, match="has no `ForTokenClassification` of `opt`"):
        load_classifier(
            str(family_models("opt")), outputs=3, auto_class="AutoModelForTokenClassification"
        )


def test_fused_attention_is_not_used_where_it_leaves_out_a_cap_of_the_logits():
    """It computes other numbers then, and no release of transformers says so."""
    config = AutoConfig.for_model("gemma2")
    assert attention_of(config, None) == "eager"
    config.attn_logit_softcapping = None
    assert attention_of(config, None) is None
    assert attention_of(AutoConfig.for_model("qwen3"), None) is None


def test_the_first_deberta_masks_in_float32_where_the_rest_computes_in_half(family_models):
    model = load_classifier(str(family_models("deberta")), outputs=2).eval()
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
    assert torch.allclose(found.float(), wanted, atol=0.1)


def test_a_pooler_that_only_hands_the_first_state_on_is_no_pooler(family_models):
    model, config = str(family_models("mobilebert")), AutoConfig.for_model("mobilebert")
    assert habit_of(config) is Pooling.POOLER
    config.classifier_activation = False  # as the published one
    assert habit_of(config) is Pooling.CLS
    assert not has_no_pooler(model, config)


def test_what_is_supported_of_one_architecture():
    entry, rule, experts = (family_support(name) for name in ("bert", "qwen3", "mixtral"))
    assert (entry.support, entry.graphs, entry.units) == ("entry", "tested", True)
    assert (rule.support, rule.graphs, rule.pooling) == ("rule", "tested", "last")
    assert (experts.support, experts.graphs) in {("rule", "none"), ("none", "none")}
    assert experts.reason
    assert entry.reason is rule.reason is None


@pytest.mark.slow  # it loads the code of every architecture
def test_the_table_of_tested_architectures_leaves_none_out():
    found = list_families()
    assert {each.model_type for each in found if each.support == "entry"} == FAMILIES.keys()
    by_rule = {each.model_type for each in found if each.support == "rule"}
    if PINNED:
        assert NO_GRAPH.keys() <= by_rule <= TESTED | NO_GRAPH.keys()
    assert all(each.reason for each in found if each.support == "none")
    assert not TESTED & NO_GRAPH.keys()
    assert family_by_rule("roberta").offset == PADDED
