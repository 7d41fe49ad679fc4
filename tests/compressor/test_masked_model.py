from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import fit, fit_task
from maskpack.compressor.config import FitConfig
from maskpack.compressor.mask_config import PATTERNS
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.model import (
    build_masked_model,
    extra_bytes,
    masked_names,
    trained_dense,
)
from maskpack.compressor.masking.sparsity import least_mask_bytes, share_of_entropy, target_sparsity
from maskpack.compressor.training.loss import TaskLoss
from maskpack.formats import ConfigError, open_artifact
from maskpack.formats.bits import binary_entropy
from maskpack.models.build import apply_patch, base_of, build_classifier, head_parameters
from maskpack.models.placement import PLACEMENTS, CpuPlacement, to_tensors
from maskpack.tasks import restore_task
from maskpack.tasks.batches import training_batches
from maskpack.tasks.types.single_label import SingleLabel

NAMES = [
    *(
        f"encoder.layer.{layer}.{part}.weight"
        for layer in range(3)
        for part in ("attention.self.query", "attention.self.value", "output.dense")
    ),
    "pooler.dense.weight",
]
PARTS = ("train_bias", "train_norm", "train_scales")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, NAMES),
        ({"layers": "1"}, NAMES[3:6]),
        ({"layers": "0, 2"}, NAMES[:3] + NAMES[6:9]),
        ({"layers": "1-2"}, NAMES[3:9]),
        ({"modules": "query"}, [NAMES[0], NAMES[3], NAMES[6]]),
        ({"modules": "query, value", "layers": "2"}, NAMES[6:8]),
        ({"modules": "pooler"}, NAMES[9:]),
        ({"modules": "self"}, [n for n in NAMES if ".self." in n]),
    ],
)
def test_layers_and_modules_choose_what_is_masked(options, expected):
    assert masked_names(NAMES, FitConfig(**options)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "3"}, "`layers` names layer 3, which the encoder does not have"),
        ({"layers": "1-9"}, "`layers` names layer 3"),
        ({"modules": "que"}, "`modules` names `que`, which is part of no linear's name"),
        ({"modules": "query,"}, "`modules` names ``"),
        ({"modules": "pooler", "layers": "0"}, "`modules` names `pooler`"),
    ],
)
def test_a_choice_that_names_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        masked_names(NAMES, FitConfig(**options))


def prepared(request, **changes):
    """A run made ready, its classifier as it was before, and its student."""
    run = fit.prepare(request)
    plain = build_classifier(run.prepared.backbone, run.described, seed=request.config.seed)
    student = build_masked_model(
        copy.deepcopy(plain),
        run.shapes,
        request.config,
        pattern=PATTERNS["weight"],
        plan=run.plan,
        rows=run.train,
        task_loss=TaskLoss(run.kind, run.train.labels),
        sparsity=run.sparsity,
    )
    return run, plain.eval(), student


def test_snip_ranks_by_the_true_gradient_of_each_weight_times_the_weight(request_for):
    run, plain, student = prepared(request_for(init="snip", sparsity=0.2))
    batches = training_batches(run.train.lengths, batch_size=16, seed=0, epoch=0)
    for rows in batches:
        logits = plain(**to_tensors(run.train.feeds(rows), plain)).logits
        torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(run.train.labels[rows])
        ).backward()
    parameters = dict(base_of(plain).named_parameters())
    for name, layer in student.layers.items():
        weight = parameters[name]
        cost = (weight.grad * weight).abs().detach()
        out = layer.score.detach() < 0
        present = weight.detach() != 0
        assert int(out.sum()) == round(0.2 * out.numel())
        assert cost[out].max() <= cost[~out & present].min() * (1 + 1e-3)
    assert all(p.grad is None for p in student.model.parameters())


def test_fisher_ranks_by_squares_of_the_gradient_of_each_row(request_for, monkeypatch):
    monkeypatch.setattr("maskpack.compressor.masking.score_gradients._ROWS", 24)
    run, plain, student = prepared(request_for(init="fisher", sparsity=0.2))
    rows = np.concatenate(training_batches(run.train.lengths, batch_size=1, seed=0, epoch=0)[:24])
    parameters, costs = dict(base_of(plain).named_parameters()), {}
    for row in rows:
        plain.zero_grad()
        logits = plain(**to_tensors(run.train.feeds(row[None]), plain)).logits
        label = torch.from_numpy(run.train.labels[row[None]])
        torch.nn.functional.cross_entropy(logits, label).backward()
        for name in student.layers:
            own = parameters[name]
            costs[name] = costs.get(name, 0.0) + (own.grad * own.detach()).square()
    for name, layer in student.layers.items():
        out, present = layer.score.detach() < 0, parameters[name].detach() != 0
        assert int(out.sum()) == round(0.2 * out.numel())
        assert costs[name][out].max() <= costs[name][~out & present].min() * (1 + 1e-3)
    assert all(p.grad is None for p in student.model.parameters())


def test_fisher_refuses_a_loss_that_one_row_alone_does_not_have(request_for):
    run = fit.prepare(request_for(init="fisher", sparsity=0.2))
    task_loss = TaskLoss(run.kind, run.train.labels)
    monkey = replace(task_loss, kind=Comparing())
    with pytest.raises(ConfigError, match="init fisher looks at rows one by one") as caught:
        fit.masked_model_of(run, monkey)
    assert caught.value.hint == "use the init snip"


class Comparing(SingleLabel):
    """A loss of the differences between rows."""

    def loss(self, logits, labels):
        return (logits - logits.mean(dim=0)).square().mean()


@pytest.mark.parametrize("wanted", [(), PARTS, ("train_bias",), ("train_norm",), ("train_scales",)])
def test_what_is_trained_is_what_was_asked_for_and_no_more(wanted, request_for):
    run, _, student = prepared(request_for(layers="1", **dict.fromkeys(wanted, True)))
    trained = {id(p) for group in student.groups for p in group.parameters}
    base = dict(base_of(student.model).named_parameters())
    names = {name for name, p in base.items() if id(p) in trained}
    assert names == {name for name, p in base.items() if p.requires_grad}
    assert {id(p) for p in head_parameters(student.model).values()} <= trained
    dense = run.prepared.backbone.dense
    norms = {name for name in dense if "LayerNorm" in name}
    expected = {name.replace(".weight", ".score") for name in student.layers}
    if "train_bias" in wanted:
        expected |= set(dense) - norms
    if "train_norm" in wanted:
        expected |= norms
    if "train_scales" in wanted:
        expected |= {name.replace(".weight", ".gain") for name in student.layers}
    assert names == expected
    assert len(student.layers) == 6


def half(tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float16)


@pytest.mark.parametrize("wanted", [PARTS, ("train_bias",), ("train_norm",), ("train_scales",)])
def test_what_was_trained_lands_in_the_patch_and_the_restored_model_is_the_trained_one(
    wanted, request_for, monkeypatch
):
    request = request_for(margin=0.5, dense_lr=0.02, **dict.fromkeys(wanted, True))
    models = []

    class Watched(CpuPlacement):
        def put(self, model):
            models.append(model)
            return super().put(model)

    monkeypatch.setitem(PLACEMENTS, "watched", lambda _, __: Watched("cpu"))
    run = fit.prepare(replace(request, device="watched"))
    patch = fit.learn(run, on_progress=lambda _: None).patch
    (model,) = models
    layers = {
        f"{name}.weight": module
        for name, module in base_of(model).named_modules()
        if isinstance(module, MaskedLinear)
    }
    trained, backbone = dict(base_of(model).named_parameters()), run.prepared.backbone
    assert set(patch.dense) == set(trained_dense(run.shapes, request.config))
    for name, value in patch.dense.items():
        assert np.array_equal(value, half(trained[name]))
        # the bias of keys moves no logit, so it may rest
        assert ".key." in name or not np.array_equal(value, backbone.dense[name])
    assert bool(patch.gains) is ("train_scales" in wanted)
    for name, value in patch.gains.items():
        assert np.array_equal(value, half(layers[name].gain))
        assert (value != 1).any()
    restored = build_classifier(backbone, run.described, seed=0)
    apply_patch(restored, backbone, patch)
    weights = dict(base_of(restored).named_parameters())
    for name, layer in layers.items():
        gain = 1.0 if layer.gain is None else layer.gain[:, None]
        own = layer.weight * (layer.score > 0) * gain
        assert torch.allclose(weights[name], own, rtol=2e-3, atol=1e-6)
    feeds = to_tensors(run.dev.feeds(np.arange(32)), restored)
    with torch.no_grad():
        ours, theirs = (m.eval()(**feeds).logits for m in (model, restored))
    assert torch.allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize("wanted", [PARTS, ("train_bias",), ("train_scales",), ()])
def test_bytes_of_the_parts_are_counted_as_they_are_stored(wanted, request_for):
    request = request_for(modules="query,value", **dict.fromkeys(wanted, True))
    result = fit_task(request)
    artifact = open_artifact(request.out)
    patch = artifact.patch("sst2")
    stored = sum(value.nbytes for value in (*patch.dense.values(), *patch.gains.values()))
    assert (
        result.extra_bytes
        == stored
        == extra_bytes(fit.prepare(replace(request, name="again")).shapes, request.config)
    )
    assert (stored > 0) is bool(wanted)
    assert len(patch.masks) == 4
    assert result.weights == 4 * 32 * 32
    assert result.coded_bytes == result.count.entropy_bytes + result.head_bytes + stored
    restored = base_of(restore_task(artifact, "sst2"))
    plain = torch.from_numpy(artifact.backbone.linears["pooler.dense.weight"].dequantize())
    assert torch.equal(restored.get_submodule("pooler.dense").weight, plain)


@pytest.mark.parametrize("wanted", [(), PARTS])
def test_a_size_that_cannot_be_met_names_the_smallest_and_that_one_is_met(wanted, request_for):
    extra = dict.fromkeys(wanted, True)
    with pytest.raises(ConfigError, match="`target_bytes` is 100") as caught:
        fit_task(request_for("no", target_bytes=100, **extra))
    smallest = int(re.search(r"([\d,]+) bytes", caught.value.hint).group(1).replace(",", ""))
    with pytest.raises(ConfigError, match="`target_bytes`"):
        fit_task(request_for("no", target_bytes=smallest - 1, **extra))
    result = fit_task(request_for("yes", target_bytes=smallest, margin=0.3, **extra))
    assert result.coded_bytes <= smallest


def test_a_size_is_kept_to_and_nearly_used_up(request_for):
    result = fit_task(request_for(target_bytes=600, margin=0.3))
    assert 580 < result.coded_bytes <= 600


def test_the_share_of_a_size_has_its_entropy():
    for bits in (1e-4, 0.01, 0.3, 0.999):
        assert binary_entropy(share_of_entropy(bits)) == pytest.approx(bits, rel=1e-6)
    share = target_sparsity(FitConfig(target_bytes=3000), weights=80_000, other_bytes=2000)
    assert binary_entropy(share) == pytest.approx(0.1)
    assert least_mask_bytes(10**8) == int(binary_entropy(1e-5) * 10**8 / 8) + 1
