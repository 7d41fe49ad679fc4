from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.compressor.quantization.backbone import prepare_backbone
from maskpack.compressor.trained_parts import trained_groups
from maskpack.formats import ConfigError
from maskpack.models.build import base_of, head_parameters
from maskpack.models.linears import fold_factors
from maskpack.models.load import load_classifier, load_finetuned, load_pretrained
from maskpack.tasks import find_task

SST2 = find_task("sst2")
KINDS = ["bert", "roberta", "electra", "distilbert", "albert"]
PROJECTIONS = {"distilbert": ("q_lin", "v_lin")}


@pytest.fixture
def baseline_for(tiny_model, sentiment):
    def make(**options) -> BaselineRequest:
        out = options.pop("out", None)
        settings = {"steps": 5, "batch_size": 16, "max_length": 16, "precision": "fp32", **options}
        return BaselineRequest(str(tiny_model), SST2, BaselineConfig(**settings), out, sentiment)

    return make


def split_names(model, config) -> tuple[set[str], set[str]]:
    """Names of what the groups train, base and head, after checking that all else is frozen."""
    groups = trained_groups(model, config)
    base, head = dict(base_of(model).named_parameters()), head_parameters(model)
    trained = {id(p) for group in groups for p in group.parameters}
    names = {name for name, p in base.items() if id(p) in trained}
    assert names == {name for name, p in base.items() if p.requires_grad}
    assert {id(p) for p in head.values()} <= trained
    assert [group.lr for group in groups] == [config.peak_lr, config.head_lr]
    return names, set(base)


@pytest.mark.parametrize("kind", KINDS)
def test_bitfit_trains_every_bias_and_nothing_else(kind, tiny_models):
    model = load_classifier(str(tiny_models[kind]), outputs=2)
    names, everything = split_names(model, BaselineConfig(method="bitfit"))
    assert names == {name for name in everything if name.endswith(".bias")}
    assert len(names) >= (11 if kind == "albert" else 17)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 4])
def test_lora_trains_two_factors_of_its_rank_beside_query_and_value(kind, rank, tiny_models):
    model = load_classifier(str(tiny_models[kind]), outputs=2)
    names, _ = split_names(model, BaselineConfig(method="lora", rank=rank))
    layers = 1 if kind == "albert" else 2
    assert len(names) == layers * 2 * 2  # projections, factors
    assert all("lora_" in name for name in names)
    wanted = PROJECTIONS.get(kind, ("query", "value"))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == set(wanted)
    shapes = {tuple(p.shape) for n, p in base_of(model).named_parameters() if n in names}
    assert shapes == {(rank, 32), (32, rank)}


def test_folded_factors_change_no_logit_and_leave_a_plain_model(tiny_model):
    torch.manual_seed(0)
    model = load_classifier(str(tiny_model), outputs=2)
    plain = set(dict(model.named_parameters()))
    for group in trained_groups(model, BaselineConfig(method="lora")):
        for parameter in group.parameters:
            parameter.data.normal_(std=0.3)
    feeds = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4).long()}
    model.eval()
    with torch.no_grad():
        before = model(**feeds).logits
        fold_factors(model)
        assert torch.allclose(model(**feeds).logits, before, atol=1e-4)
    assert set(dict(model.named_parameters())) == plain


@pytest.mark.parametrize(("method", "rank"), [("bitfit", 8), ("lora", 2), ("lora", 8)])
def test_a_patch_is_what_was_trained(method, rank, baseline_for, tiny_model):
    result = run_baseline(baseline_for(method=method, rank=rank))
    base = base_of(load_classifier(str(tiny_model), outputs=2))
    head = 32 * 2 + 2
    biases = sum(p.numel() for name, p in base.named_parameters() if name.endswith("bias"))
    patch = {"bitfit": biases, "lora": 2 * 2 * 2 * rank * 32}[method]
    assert result.patch_bytes == 4 * (head + patch)
    assert result.coded_bytes == 2 * (head + patch)
    assert (result.method, result.bits) == (method, 32)
    assert (result.head_bytes, result.weights) == (4 * head, 0)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("method", ["head", "bitfit", "lora"])
def test_on_a_quantised_backbone_the_codes_stay(bits, method, baseline_for, tiny_model, tmp_path):
    request = baseline_for(method=method, bits=bits, group=16, quantizer="mse", refine=0)
    request = replace(request, out=tmp_path / "model")
    result = run_baseline(request)
    prepared = prepare_backbone(load_pretrained(str(tiny_model)), request.config.backbone())
    assert (result.bits, result.backbone_bytes) == (bits, prepared.backbone_bytes())
    saved = dict(base_of(load_finetuned(str(tmp_path / "model"))).named_parameters())
    for name, tensor in {**prepared.backbone.linears, **prepared.backbone.embeddings}.items():
        same = np.array_equal(saved[name].detach().numpy(), tensor.dequantize())
        assert same is not (method == "lora" and name.endswith(("query.weight", "value.weight")))
    moved = {
        name
        for name, value in prepared.backbone.dense.items()
        if not np.array_equal(saved[name].detach().numpy(), value.astype("f4"))
    }
    biases = {name for name in prepared.backbone.dense if name.endswith("bias")}
    assert moved == (biases if method == "bitfit" else set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "`bits` is 3"),
        ({"bits": 4, "quantizer": "kmeans"}, "no quantizer `kmeans`"),
        ({"rank": 0}, "`rank` is 0"),
        ({"rank": 2.5}, "`rank` is 2.5"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
        ({"bits": 0}, "`bits` is 0"),
    ],
)
def test_options_of_a_baseline_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BaselineConfig(**options)


def test_a_saved_lora_model_differs_from_the_pretrained_one_by_its_factors(
    baseline_for, tiny_model, tmp_path
):
    rank = 3
    run_baseline(replace(baseline_for(method="lora", rank=rank), out=tmp_path / "model"))
    before = dict(base_of(load_classifier(str(tiny_model), outputs=2)).named_parameters())
    after = dict(base_of(load_finetuned(str(tmp_path / "model"))).named_parameters())
    for name in (name for name in before if name.endswith(("query.weight", "value.weight"))):
        sizes = torch.linalg.svdvals((after[name] - before[name]).detach())
        assert 0 < sizes[0] < 0.1 * torch.linalg.svdvals(before[name].detach())[0]
        assert (sizes[rank:] < 1e-3 * sizes[0]).all()
