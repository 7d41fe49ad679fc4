from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from maskpack.compressor.quantization.quantize import quantize_model
from maskpack.formats import ArtifactError, Backbone, BitMask, Patch, Scheme, open_artifact
from maskpack.models.build import (
    apply_patch,
    base_of,
    build_classifier,
    head_parameters,
)
from maskpack.models.load import load_pretrained
from maskpack.tasks.context import described, restore_task
from maskpack.tasks.types import TASK_TYPES

CLASSES, NUMBERS = TASK_TYPES["classification"], TASK_TYPES["regression"]

HEADS = {
    "bert": {"classifier.weight", "classifier.bias"},
    "roberta": {f"classifier.{x}.{y}" for x in ("dense", "out_proj") for y in ("weight", "bias")},
    "electra": {f"classifier.{x}.{y}" for x in ("dense", "out_proj") for y in ("weight", "bias")},
    "albert": {"classifier.weight", "classifier.bias"},
    "distilbert": {
        f"{x}.{y}" for x in ("pre_classifier", "classifier") for y in ("weight", "bias")
    },
}


def feeds_of(model) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[2, 7, 9, 3], [2, 12, 3, 0]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.fixture
def parts(tiny_model):
    """Backbone and classifier configuration of the tiny BERT."""
    pretrained = load_pretrained(str(tiny_model))
    backbone = quantize_model(pretrained.model, Scheme(8, None, "minmax", 8))
    config = described(pretrained.files["config.json"], CLASSES, ("no", "yes"))
    return backbone, config


def test_a_restored_model_holds_masked_integers_times_scales_and_the_stored_head(tiny_artifact):
    artifact = open_artifact(tiny_artifact)
    model, patch = restore_task(artifact, "sst2"), artifact.patch("sst2")
    weights = dict(base_of(model).named_parameters())
    assert patch.count.zeros > 0
    for name, tensor in artifact.backbone.linears.items():
        expected = tensor.dequantize() * patch.masks[name].to_bool()
        assert (weights[name].detach().numpy() == expected).all()
    for name, tensor in artifact.backbone.embeddings.items():
        assert (weights[name].detach().numpy() == tensor.dequantize()).all()
    for name, tensor in artifact.backbone.dense.items():
        assert (weights[name].detach().numpy() == tensor.astype("f4")).all()
    for name, parameter in head_parameters(model).items():
        assert (parameter.detach().numpy() == patch.head[name].astype("f4")).all()
    assert not model.training
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_restoring_twice_gives_the_same_logits_whatever_random_state(tiny_artifact):
    artifact = open_artifact(tiny_artifact)
    first = restore_task(artifact, "sst2")
    torch.manual_seed(99)
    second = restore_task(artifact, "sst2", attention="eager")
    with torch.no_grad():
        a, b = (model(**feeds_of(model)).logits for model in (first, second))
    assert torch.allclose(a, b, atol=1e-5)
    assert second.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", HEADS)
def test_a_quantised_encoder_of_every_family_builds_a_classifier(kind, tiny_models):
    pretrained = load_pretrained(str(tiny_models[kind]))
    backbone = quantize_model(pretrained.model, Scheme(8, None, "minmax", 8))
    config = described(pretrained.files["config.json"], CLASSES, ("a", "b", "c"))
    model = build_classifier(backbone, config, seed=0).eval()
    assert set(head_parameters(model)) == HEADS[kind]
    assert type(model).__name__ == config.architectures[0]
    with torch.no_grad():
        close = base_of(model)(**feeds_of(model)).last_hidden_state
        exact = pretrained.model.eval()(**feeds_of(model)).last_hidden_state
        assert model(**feeds_of(model)).logits.shape == (2, 3)
    assert (close - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert not torch.equal(close, exact)


def test_the_seed_decides_the_fresh_head_alone(parts):
    first, same, other = (build_classifier(*parts, seed=seed) for seed in (5, 5, 6))
    head = [model.classifier.weight for model in (first, same, other)]
    assert torch.equal(head[0], head[1])
    assert not torch.equal(head[0], head[2])
    bases = [base_of(model).state_dict() for model in (first, other)]
    assert all(torch.equal(tensor, bases[1][name]) for name, tensor in bases[0].items())


def test_a_configuration_for_numbers_has_one_output_and_says_regression(tiny_model):
    data = (tiny_model / "config.json").read_bytes()
    config = described(data, NUMBERS, ())
    assert (config.num_labels, config.problem_type) == (1, "regression")
    assert described(data, CLASSES, ("a", "b")).problem_type != "regression"


def test_a_backbone_with_another_shape_than_the_configuration_is_refused(parts, tiny_model):
    tree = json.loads((tiny_model / "config.json").read_bytes())
    tree["intermediate_size"] = 48
    config = described(json.dumps(tree).encode(), CLASSES, ("no", "yes"))
    with pytest.raises(ArtifactError, match=r"`encoder\.layer\.0\.intermediate.*\(64,.*\(48,"):
        build_classifier(parts[0], config, seed=0)


def test_a_backbone_that_lacks_a_parameter_is_refused_by_its_name(parts):
    backbone, config = parts
    dense = {name: tensor for name, tensor in backbone.dense.items() if name != "pooler.dense.bias"}
    with pytest.raises(ArtifactError, match=r"disagree about `pooler\.dense\.bias`"):
        build_classifier(Backbone(backbone.linears, backbone.embeddings, dense), config, seed=0)


def test_a_patch_with_another_head_is_refused_by_its_name(parts):
    backbone, config = parts
    model = build_classifier(backbone, config, seed=0)
    masks = {
        name: BitMask.from_bool(np.ones(tensor.shape, dtype=bool))
        for name, tensor in backbone.linears.items()
    }
    head = {"classifier.weight": np.zeros((2, 32), dtype=np.float16)}
    with pytest.raises(ArtifactError, match=r"disagree about `classifier\.bias`"):
        apply_patch(model, backbone, Patch(masks, head))


@pytest.mark.parametrize("shape", [(1,), (1, 2)])
def test_a_head_of_another_shape_is_refused_and_not_spread(shape, parts):
    backbone, config = parts
    model = build_classifier(backbone, config, seed=0)
    head = {
        name: np.zeros(tuple(value.shape), np.float16)
        for name, value in head_parameters(model).items()
    }
    head["classifier.bias"] = np.full(shape, 7.0, np.float16)
    with pytest.raises(ArtifactError, match="`classifier.bias` of the patch's head is"):
        apply_patch(model, backbone, Patch({}, head))
