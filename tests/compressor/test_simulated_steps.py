"""`simulate`: the rounding of int8 graphs in the last third of a run. Graphs are compared in tests/exporters."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.fit import loss_of, masked_model_of
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.rounding import Rounding, SimulatedRounding, UnmaskedLinear
from maskpack.compressor.prepare import prepare, with_divisors
from maskpack.formats import Backbone, ConfigError, Interrupted, QuantTensor, open_artifact
from maskpack.formats.channels import channel_weights
from maskpack.tasks import find_task
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import restore_task

FILE = "divisors.safetensors"


@pytest.fixture
def request_for(tmp_path, tiny_model, sentiment, quick):
    """`request_for(out, **options)`: a request of 30 short steps, the last ten of which round."""

    def make(out="artifact", *, resume=False, **options):
        config = quick(**{"bits": 8, "simulate": "int8", "margin": 0.5, **options})
        place, task = tmp_path / out, find_task("sst2")
        return FitRequest(str(tiny_model), task, place, config, data=sentiment, resume=resume)

    return make


def tensor(rows=6, width=16, *, bits=8, group=16):
    rng = np.random.default_rng(1)
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit, (rows, width), endpoint=True).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (rows, -(-width // group))).astype(np.float16)
    return QuantTensor(codes, scales, bits, group)


def quantized(inputs):
    """What DynamicQuantizeLinear and its inverse make of inputs, in float32, as ONNX's page on the operator says."""
    x = inputs.astype(np.float32)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    codes = np.clip(np.rint(x / scale) + zero, 0, 255)
    return (codes - zero) * scale


RANGES = {
    "both signs": (-3.0, 5.0),
    "above 0": (1.0, 2.0),
    "below 0": (-2.0, -1.0),
    "one large": (-0.1, 80.0),
}


@pytest.mark.parametrize("ends", RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("divided", [False, True])
def test_inputs_are_rounded_as_the_operator_says(ends, divided):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(*ends, (3, 5, 16)).astype(np.float32)
    divisor = np.linspace(1, 4, 16, dtype=np.float32) if divided else None
    rounding = Rounding.of(tensor(), divisor, like=torch.zeros(0))
    found = rounding.inputs(torch.from_numpy(inputs)).numpy()
    even = inputs if divisor is None else inputs * (np.float32(1) / divisor)
    np.testing.assert_allclose(found, quantized(even), rtol=1e-6, atol=0)
    assert len(np.unique(found)) <= 256


def test_inputs_of_zeros_stay_zeros():
    rounding = Rounding.of(tensor(), None, like=torch.zeros(0))
    assert not rounding.inputs(torch.zeros(2, 16)).any()


@pytest.mark.parametrize("group", [16, 4])
def test_weights_are_those_of_the_graph(group):
    weights, divisor = tensor(bits=4, group=group), np.linspace(1, 4, 16, dtype=np.float32)
    made = channel_weights(weights, divisor)
    rounding = Rounding.of(weights, divisor, like=torch.zeros(0))
    np.testing.assert_array_equal(rounding.weight.numpy(), (made.codes * made.scales).T)


def test_gradients_pass_the_rounding():
    """Those of inputs as of a linear with rounded weights, those of scores as of rounded inputs times weights."""
    weights, divisor = tensor(), np.linspace(1, 4, 16, dtype=np.float32)
    linear = nn.Linear(16, 6)
    linear.weight.data = torch.from_numpy(weights.dequantize())
    masked = MaskedLinear(linear, start=1.0)
    masked.rounding = Rounding.of(weights, divisor, like=torch.zeros(0))
    inputs = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = masked.rounding.weight
    gradient = torch.linspace(-1, 1, 24).view(4, 6)
    masked(inputs).backward(gradient)
    assert inputs.grad is not None
    assert masked.score.grad is not None
    factor = torch.from_numpy(1 / divisor)
    torch.testing.assert_close(inputs.grad, gradient @ weight * factor)
    rounded = masked.rounding.inputs(inputs.detach())
    torch.testing.assert_close(masked.score.grad, gradient.T @ rounded * weight)


def test_what_is_removed_neither_counts_nor_reaches_the_next_layer():
    weights = tensor()
    stays = torch.ones(6, 16, dtype=torch.bool)
    stays[:, :4] = False
    rounding = Rounding.of(weights, None, stays=stays, like=torch.zeros(0))
    assert not rounding.weight[:, :4].any()
    assert rounding.weight[:, 4:].any()
    inputs = torch.linspace(-1, 1, 32).view(2, 16)
    loud = inputs.clone()
    loud[:, :4] = 1000.0
    torch.testing.assert_close(rounding.inputs(loud), rounding.inputs(loud * stays[0]))


def test_rounding_is_on_in_steps_from_the_first_one_on_and_off_between_them():
    weights = {"a.weight": tensor(), "b.weight": tensor()}
    base = nn.ModuleDict({"a": nn.Linear(16, 6), "b": nn.Linear(16, 6)})
    bias = base["b"].bias
    base["a"] = MaskedLinear(base["a"], start=1.0)
    backbone = Backbone(weights, {}, {})
    callback = SimulatedRounding(base, {"a.weight": base["a"]}, backbone, {}, first=2)
    assert isinstance(base["b"], UnmaskedLinear)
    assert base["b"].bias is bias
    seen = []
    for step in range(4):
        callback.on_step_begin(step)
        seen.append([each.rounding is not None for each in base.values()])
        callback.on_step_end(step + 1, 4)
        assert all(each.rounding is None for each in base.values())
    assert seen == [[False, False], [False, False], [True, True], [True, True]]


@pytest.mark.parametrize(("steps", "first"), [(1, 0), (2, 1), (3, 2), (30, 20), (400, 267)])
def test_the_last_third_rounds(steps, first):
    assert FitConfig(simulate="int8").first_rounded(steps) == first
    assert FitConfig().first_rounded(steps) == steps


def thresholds_after(request, step, monkeypatch, tmp_path):
    """Scores of all masked linears after some steps."""
    found = {}

    class StopError(Exception):
        pass

    from maskpack.compressor import fit as fit_module

    plain = fit_module.masked_model_of

    def watched(run, task_loss):
        found["model"] = plain(run, task_loss)
        return found["model"]

    def stop(now):
        if now.step == step:
            raise StopError

    monkeypatch.setattr(fit_module, "masked_model_of", watched)
    with pytest.raises(StopError):
        fit_task(request, on_progress=stop)
    monkeypatch.undo()
    return torch.cat([layer.score.detach().flatten() for layer in found["model"].layers.values()])


def test_steps_before_the_last_third_are_those_of_a_run_without(request_for, monkeypatch, tmp_path):
    simulated, plain = request_for("a"), request_for("b", simulate=None)
    for step, same in ((20, True), (21, False)):
        both = [thresholds_after(one, step, monkeypatch, tmp_path) for one in (simulated, plain)]
        assert torch.equal(*both) == same, step


def test_the_result_says_what_was_simulated_and_the_artifact_keeps_the_divisors(
    request_for, caplog
):
    request = request_for()
    with caplog.at_level(logging.INFO):
        result = fit_task(request)
    assert "from step 21 on the rounding of int8 graphs is simulated" in caplog.text
    assert result.options["simulate"] == "int8"
    artifact = open_artifact(request.out)
    assert artifact.entry("sst2").training["simulate"] == "int8"
    assert artifact.divisors is not None
    plain = request_for("plain", simulate=None)
    assert "simulate" not in fit_task(plain).options
    assert not (plain.out / FILE).exists()
    names = ("backbone.safetensors", "config.json")
    for name in names:
        assert (plain.out / name).read_bytes() == (request.out / name).read_bytes()


def test_what_is_measured_at_the_end_is_the_float_model(request_for):
    """Its scores are those that the stored patch has without any rounding."""
    request = request_for()
    result = fit_task(request)
    artifact, run = open_artifact(request.out), prepare(request_for("other", simulate=None))
    logits = predict_all(torch_predict(restore_task(artifact, "sst2")), run.dev)
    assert run.metrics(logits) == result.scores


@pytest.mark.parametrize("step", [15, 25])
@pytest.mark.parametrize("options", [{}, {"units": "heads,neurons", "keep_units": 0.5}])
def test_a_stopped_run_goes_on_to_the_same_bytes(request_for, stop_at, snapshot, options, step):
    options = {**options, "checkpoint_every": 5}
    whole, broken = request_for("whole", **options), request_for("broken", **options)
    fit_task(whole)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(step))
    fit_task(replace(broken, resume=True))
    assert snapshot(broken.out) == snapshot(whole.out)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"gradient_checkpointing": True},
        {"accumulate": 2},
        {"estimator": "bernoulli", "sparsity": 0.3},
        {"layers": "1", "train_bias": True, "train_norm": True, "train_scales": True},
        {"trunk": "1"},
    ],
    ids=str,
)
def test_it_goes_with_the_other_options(request_for, options):
    result = fit_task(request_for(**options, steps=9))
    assert result.zeros > 0
    assert result.score >= 0.5


def test_layers_that_are_computed_twice_learn_the_same(request_for):
    """Gradient checkpointing computes a layer again in the backward pass, with the same rounding."""
    requests = [request_for("a"), request_for("b", gradient_checkpointing=True)]
    for request in requests:
        fit_task(request)
    one, other = (open_artifact(request.out).patch("sst2") for request in requests)
    for name, mask in one.masks.items():
        np.testing.assert_array_equal(mask.to_bool(), other.masks[name].to_bool())


def test_a_step_in_bf16_multiplies_in_bf16(request_for):
    run = with_divisors(prepare(request_for(precision="bf16")))
    masked = masked_model_of(run, loss_of(run, None))
    assert masked.rounding is not None
    masked.rounding.on_step_begin(masked.rounding.first)
    kinds = {layer.rounding.weight.dtype for layer in masked.layers.values() if layer.rounding}
    assert kinds == {torch.bfloat16}


def test_a_rehearsal_counts_the_time_of_both_kinds_of_steps(request_for, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "maskpack.compressor.estimate._step",
        lambda *_, number: asked.append(number) or Cost(1.0 + number, 1.0),
    )
    _, estimate = rehearse(request_for(), began=Cost.so_far())
    assert asked == [0, 20]
    assert estimate.step_seconds == pytest.approx(1.0 * 20 / 30 + 21.0 * 10 / 30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"simulate": "int4"}, "no simulate `int4`"),
        ({"simulate": "int8", "patience": 2}, "`simulate` needs its last step"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        FitConfig(**options)
