"""Groups of units: what a family calls its heads and neurons is all that makes them, and nothing else."""

from __future__ import annotations

import dataclasses
import doctest
import itertools

import numpy as np
import pytest
import torch
import transformers
from image_kit import GATED, make_image_model
from more_families import tiny_config
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from maskpack.formats import units as formats_units
from maskpack.formats.units import COLUMNS, ROWS, Units, joined
from maskpack.models import units
from maskpack.models.build import base_of, shapes_of
from maskpack.models.families import FAMILIES
from maskpack.models.linears import linearize
from maskpack.models.tested import TESTED
from maskpack.models.units import HEADS, KINDS, NEURONS, STRUCTURES, unit_groups

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
WIDE = {"initializer_range": 0.25, "intermediate_size": 64, "pad_token_id": 0}
ROBERTA = {**SIZES, **WIDE, "max_position_embeddings": 66}
MADE = {
    "camembert": lambda: transformers.CamembertConfig(**ROBERTA),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**ROBERTA),
    "albert-groups": lambda: transformers.AlbertConfig(  # four layers of weights, eight layers
        **{**SIZES, **WIDE, "num_hidden_layers": 8},
        embedding_size=16,
        num_hidden_groups=2,
        inner_group_num=2,
        hidden_act="gelu",
    ),
    "gpt2-inner": lambda: transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_inner=48, initializer_range=0.25
    ),
    "llama-wide-heads": lambda: transformers.LlamaConfig(
        **SIZES, **WIDE, num_key_value_heads=1, head_dim=16
    ),
}
"""Kinds of models beside those of the other tests."""

OTHERS = tuple(sorted((STRUCTURES.keys() - FAMILIES.keys()) & {*CONFIG_MAPPING.keys()}))
"""Architectures by rule whose units are known."""

IMAGE_KINDS = ("vit", "deit", "dinov2", GATED)

IMAGE_TYPES = ("vit", "deit", "dinov2")

KINDS_OF_MODELS = (
    *("albert", "bert", "deberta-v2", "deberta-v2-own", "distilbert", "electra", "gpt2"),
    *("llama", "modernbert", "roberta", "xlnet"),
    *IMAGE_KINDS,
    *MADE,
    *OTHERS,
)
every_model = pytest.mark.parametrize("kind", KINDS_OF_MODELS)


@pytest.fixture
def classifier(family_models, tmp_path):
    """A function: a random classifier of a kind, its linears as `nn.Linear`."""

    def make(kind):
        if kind in IMAGE_KINDS:
            config = AutoConfig.from_pretrained(make_image_model(kind, tmp_path / kind))
            torch.manual_seed(0)
            return linearize(AutoModelForImageClassification.from_config(config)).eval()
        if kind in MADE:
            config = MADE[kind]()
        elif kind in OTHERS:
            config = tiny_config(kind)
        else:
            config = AutoConfig.from_pretrained(family_models(kind))
        config.pad_token_id = 0
        torch.manual_seed(0)
        return linearize(AutoModelForSequenceClassification.from_config(config)).eval()

    return make


def logits(model):
    if model.config.model_type in IMAGE_TYPES:
        with torch.no_grad():
            noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
            return model(pixel_values=noise).logits
    ids = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.no_grad():
        return model(input_ids=ids * mask, attention_mask=mask).logits


def some_gone(groups, gone):
    """`Units` that lack unit `gone` of each group that has so many."""
    return joined(groups, {(g.kind, g.layer): np.arange(g.count) != gone % g.count for g in groups})


def test_every_family_says_where_its_units_lie():
    """MPNet's heads share a table with a column a head, MobileBERT has four feed-forward layers in one."""
    assert FAMILIES.keys() - STRUCTURES.keys() == {"mpnet", "mobilebert"}
    assert STRUCTURES.keys() - FAMILIES.keys() <= TESTED


def test_the_examples_of_the_documents_are_true():
    assert doctest.testmod(formats_units).failed == 0


@every_model
@pytest.mark.parametrize("which", KINDS)
def test_a_removed_unit_is_gone_whatever_its_rows_and_biases_hold(classifier, kind, which):
    model = classifier(kind)
    base, before = base_of(model), logits(model)
    groups = tuple(g for g in unit_groups(model.config) if g.kind == which)
    chosen, shapes = some_gone(groups, 2), shapes_of(base).linears
    parameters = dict(base.named_parameters())
    with torch.no_grad():
        for name, mask in chosen.masks(shapes).items():
            parameters[name].mul_(torch.from_numpy(mask))
    without = logits(model)
    assert not torch.allclose(without, before, atol=1e-3)
    with torch.no_grad():
        for group, kept in zip(chosen.groups, chosen.kept, strict=True):
            for part in group.parts:
                if part.axis == ROWS:
                    entries = torch.from_numpy(part.entries(~kept))
                    parameters[part.name][entries] = 3 * torch.randn_like(
                        parameters[part.name][entries]
                    )
                    bias = parameters.get(part.name.removesuffix("weight") + "bias")
                    if bias is not None:
                        bias[entries] = 3 * torch.randn_like(bias[entries])
    assert torch.equal(logits(model), without)


@every_model
def test_all_units_are_whole_layers_and_each_weight_belongs_to_one(classifier, kind):
    """No row or column of a linear with units is left over, and none belongs to two."""
    model = classifier(kind)
    groups, shapes = unit_groups(model.config), shapes_of(base_of(model)).linears
    taken: dict[tuple[str, int], list[int]] = {}
    for group in groups:
        every = np.ones(group.count, dtype=np.bool_)
        assert [part.axis for part in group.parts].count(COLUMNS) == 1
        for part in group.parts:
            taken.setdefault((part.name, part.axis), []).extend(part.entries(every).tolist())
    for (name, axis), entries in taken.items():
        assert sorted(entries) == list(range(shapes[name][axis])), name
    empty = Units(groups, tuple(np.zeros(g.count, dtype=np.bool_) for g in groups))
    assert not any(mask.any() for mask in empty.masks(shapes).values())
    layered = {name for name in shapes if any(char.isdecimal() for char in name.split("."))}
    assert {name for name, _ in taken} == layered


@every_model
def test_layers_are_numbered_and_each_has_a_group_of_each_kind(classifier, kind):
    model = classifier(kind)
    groups = unit_groups(model.config)
    layers = {"albert": 1, "albert-groups": 4}.get(kind, 2)
    assert [(g.layer, g.kind) for g in groups] == list(itertools.product(range(layers), KINDS))
    groups_of_queries = {"llama-wide-heads": 1}.get(kind, 2)
    shared = getattr(model.config, "num_key_value_heads", None) is not None
    heads = groups_of_queries if shared else 4
    neurons = {"gpt2": 128, "gpt2-inner": 48, "dinov2": 128, GATED: 88}.get(kind, 64)
    assert {g.count for g in groups if g.kind == HEADS} == {heads}
    assert {g.count for g in groups if g.kind == NEURONS} == {neurons}


def test_a_grouped_query_head_is_a_key_and_a_value_with_all_their_queries(classifier):
    group = unit_groups(classifier("llama").config)[0]
    widths = {part.name.split(".")[-2]: part.width for part in group.parts}
    assert widths == {"q_proj": 16, "k_proj": 8, "v_proj": 8, "o_proj": 16}


def test_a_fused_linear_has_several_parts(classifier):
    group = unit_groups(classifier("modernbert").config)[1]
    assert [(part.name.split(".")[-2], part.first) for part in group.parts] == [
        ("Wi", 0),
        ("Wi", 64),
        ("Wo", 0),
    ]


@pytest.mark.skipif(
    not hasattr(transformers.PreTrainedModel, "prune_heads"), reason="transformers 5 prunes none"
)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_heads_that_the_source_lost_already_are_not_there(classifier, kind):
    model = classifier(kind)
    model.config.pruned_heads = {1: [0, 3]}
    torch.manual_seed(0)
    pruned = linearize(AutoModelForSequenceClassification.from_config(model.config)).eval()
    groups = {(g.kind, g.layer): g for g in unit_groups(pruned.config)}
    assert [groups[HEADS, layer].count for layer in (0, 1)] == [4, 2]
    shapes = shapes_of(base_of(pruned)).linears
    for part in groups[HEADS, 1].parts:
        assert part.first + 2 * part.width <= shapes[part.name][part.axis]
    out = next(part for part in groups[HEADS, 1].parts if part.axis == COLUMNS)
    assert shapes[out.name][1] == 2 * out.width


def test_a_family_without_a_known_structure_has_no_groups(classifier, monkeypatch):
    config = classifier("bert").config
    only = dataclasses.replace(STRUCTURES["bert"], layer="elsewhere.{}")
    monkeypatch.setitem(units.STRUCTURES, "bert", only)
    assert unit_groups(config)[0].parts[0].name.startswith("elsewhere.0.")
    monkeypatch.delitem(units.STRUCTURES, "bert")
    assert unit_groups(config) == ()


def test_a_width_of_heads_that_a_configuration_names_counts():
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = AutoConfig.for_model("deberta-v2", **sizes, attention_head_size=4)
    heads = next(group for group in unit_groups(config) if group.kind == "heads")
    assert {part.width for part in heads.parts} == {4}
