"""Steps in parts and over processes: the result is that of one process and one part."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from side_by_side import placed_side_by_side, side_by_side
from torch import nn

from maskpack.compressor import BaselineConfig, FitConfig, fit_task
from maskpack.compressor.config import Method
from maskpack.compressor.masking.gates import Drawn
from maskpack.compressor.masking.linear import mask_linears
from maskpack.compressor.trained_parts import trained_groups
from maskpack.compressor.training import step as steps
from maskpack.compressor.training.callbacks import Noise, TrainerCallback, use_fast_dropout
from maskpack.compressor.training.loss import (
    DistillationTargets,
    HiddenStateTeacher,
    TaskLoss,
    distance,
    joined_spreads,
    spreads_of,
)
from maskpack.compressor.training.step import StepOptions, StepRunner, recomputed_layers
from maskpack.compressor.training.train import FlooredAdam, Group, Plan, train
from maskpack.formats import ConfigError, DataError, open_artifact
from maskpack.models.build import base_of
from maskpack.models.load import load_classifier
from maskpack.models.placement import CpuPlacement, Placement
from maskpack.models.processes import ALONE
from maskpack.runtime.tags import IGNORED
from maskpack.runtime.windows import Window
from maskpack.tasks.batches import EncodedTokens
from maskpack.tasks.pieces import EncodedTokenPieces
from maskpack.tasks.types import TASK_TYPES

KINDS = {"one label": "classification", "several": "multi-label", "a number": "regression"}
SHARED = [(2, 1), (1, 3), (2, 2), (3, 1), (4, 4)]


def rows_of(count: int, kind: str = "classification") -> EncodedTokens:
    rng = np.random.default_rng(3)
    ids = tuple(
        np.array([2, *rng.integers(5, 40, size=rng.integers(1, 9)), 3]) for _ in range(count)
    )
    labels = np.arange(count) % 2
    if kind == "regression":
        labels = rng.normal(size=count).astype(np.float32)
    if kind == "multi-label":
        labels = rng.integers(0, 2, size=(count, 2)).astype(np.int8)
    return EncodedTokens(ids, None, labels, pad=0)


@pytest.fixture
def encoder(tiny_model):
    torch.manual_seed(0)
    return load_classifier(str(tiny_model), outputs=2)


def masked(model, noise, *, drawn=False):
    """The model with a mask on each linear, scores beside the threshold."""
    base = base_of(model)
    names = [f"{n}.weight" for n, m in base.named_modules() if isinstance(m, nn.Linear)]
    starts = dict.fromkeys(names, 1e-4)
    if not drawn:
        return mask_linears(base, starts)
    return mask_linears(base, starts, gate=lambda number: Drawn(partial(noise.uniform, number)))


def taken(model, loss_of, encoded, processes, accumulate, *, drawn=False, count=3, rate=1e-3):
    """Scores and head after some steps, with no dropout; the loss of each step."""
    model, noise = copy.deepcopy(model), Noise(0)
    use_fast_dropout(model, noise, p=0.0)
    layers = masked(model, noise, drawn=drawn)
    trained = [*(layer.score for layer in layers.values()), *model.classifier.parameters()]
    optimizer = FlooredAdam(Group([each], rate, 1.0).settings() for each in trained)
    placement = CpuPlacement("cpu", processes=processes)
    options = StepOptions(accumulate=accumulate)
    runner = StepRunner(model.train(), optimizer, encoded, loss_of, placement, options, noise)
    losses = []
    for number in range(count):
        noise.on_step_begin(number)
        losses.append(runner.take(np.arange(number, len(encoded)))[0])
    return [each.detach().clone() for each in trained], losses


def agree(one, other):
    for left, right in zip(one[0], other[0], strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=2e-6)
    assert other[1] == pytest.approx(one[1], rel=1e-5)


@pytest.mark.parametrize(("processes", "accumulate"), SHARED)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_teach_the_same_however_the_rows_are_shared(kind, processes, accumulate, encoder):
    name = KINDS[kind]
    if name == "regression":
        encoder.classifier, encoder.config.num_labels = nn.Linear(32, 1), 1
    encoded = rows_of(11, name)
    weights = None if name == "regression" else np.array([0.3, 1.7], dtype=np.float32)
    loss_of = TaskLoss(TASK_TYPES[name], encoded.labels, weights=weights)
    alone = taken(encoder, loss_of, encoded, ALONE, 1)
    for each in side_by_side(
        processes, lambda own: taken(encoder, loss_of, encoded, own, accumulate)
    ):
        agree(alone, each)


@pytest.mark.parametrize(("processes", "accumulate"), SHARED)
def test_windows_with_an_output_for_each_token_too(processes, accumulate, tiny_model):
    """Texts of one to four windows, some of whose tokens begin a word."""
    torch.manual_seed(0)
    model = load_classifier(
        str(tiny_model), outputs=3, auto_class="AutoModelForTokenClassification"
    )
    rng, counts = np.random.default_rng(3), np.arange(11) % 4 + 1
    windows = [
        [Window(1, np.zeros((6, 2), dtype=np.int32), 4 * place) for place in range(count)]
        for count in counts
    ]
    ids = [[2, *rng.integers(5, 40, size=6), 3] for _ in range(counts.sum())]
    texts = np.array([own[-1].stop for own in windows])
    labels = rng.integers(0, 3, size=(11, texts.max()))
    unread = np.arange(texts.max()) >= texts[:, None]
    labels[unread | (rng.random(labels.shape) < 0.3)] = IGNORED
    plain = EncodedTokens(ids, None, labels, pad=0, per_token=True)
    encoded = EncodedTokenPieces.of_windows(plain, windows)
    logits = rng.normal(size=(*labels.shape, 3)).astype(np.float32)
    targets = DistillationTargets(logits, 0.5, 2.0, HiddenStateTeacher(copy.deepcopy(model), 3.0))
    loss_of = TaskLoss(TASK_TYPES["token-classification"], labels, targets, encoded=encoded)
    alone = taken(model, loss_of, encoded, ALONE, 1)
    for each in side_by_side(
        processes, lambda own: taken(model, loss_of, encoded, own, accumulate)
    ):
        agree(alone, each)


@pytest.mark.parametrize(("processes", "accumulate"), SHARED)
def test_a_teacher_of_logits_and_states_too(processes, accumulate, encoder, tiny_model):
    torch.manual_seed(5)
    teacher = load_classifier(str(tiny_model), outputs=2).eval()
    with torch.no_grad():
        for parameter in teacher.base_model.parameters():
            parameter.mul_(1.3)
    encoded = rows_of(11)
    logits = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    targets = DistillationTargets(logits, 0.5, 2.0, HiddenStateTeacher(teacher, 3.0))
    known = np.arange(11) % 3 != 0  # the others are the teacher's alone
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels, targets, known)
    alone = taken(encoder, loss_of, encoded, ALONE, 1)
    for each in side_by_side(
        processes, lambda own: taken(encoder, loss_of, encoded, own, accumulate)
    ):
        agree(alone, each)


class Gradients(Noise):
    """Noise that keeps the gradients of every step."""

    def __init__(self, model):
        super().__init__(0)
        self.model, self.seen = model, []

    def on_gradients(self):
        self.seen.append(self.model.classifier.weight.grad.clone())


def test_callbacks_see_the_gradients_of_all_rows(encoder):
    encoded = rows_of(12)
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)

    def seen(processes, accumulate):
        model = copy.deepcopy(encoder)
        use_fast_dropout(model, kept := Gradients(model), p=0.0)
        optimizer = FlooredAdam([Group(list(model.classifier.parameters()), 1e-3).settings()])
        placement, options = CpuPlacement("cpu", processes=processes), StepOptions(accumulate)
        runner = StepRunner(model.train(), optimizer, encoded, loss_of, placement, options, kept)
        runner.take(np.arange(12))
        return kept.seen

    (alone,) = seen(ALONE, 1)
    assert alone.abs().max() > 1e-3
    for (each,) in side_by_side(2, lambda own: seen(own, 2)):
        assert torch.allclose(each, alone, rtol=1e-4, atol=1e-6)


def test_drawn_masks_are_those_of_one_process(encoder):
    encoded = rows_of(12)
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)
    alone = taken(encoder, loss_of, encoded, ALONE, 1, drawn=True)
    assert alone[1][0] != pytest.approx(taken(encoder, loss_of, encoded, ALONE, 1)[1][0], rel=1e-3)
    for each in side_by_side(2, lambda own: taken(encoder, loss_of, encoded, own, 2, drawn=True)):
        agree(alone, each)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_batch_may_have_fewer_rows_than_there_are_parts(left, encoder):
    encoded = rows_of(left + 2)
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)
    alone = taken(encoder, loss_of, encoded, ALONE, 1)
    for each in side_by_side(4, lambda own: taken(encoder, loss_of, encoded, own, 3)):
        agree(alone, each)


def test_the_spread_of_parts_is_that_of_the_whole():
    torch.manual_seed(0)
    whole = [100.0 + torch.randn(30, 4), torch.randn(7, 3)]
    parts = [[each[k::3] for each in whole] for k in range(3)]
    none = torch.zeros(2, 3)  # of a process without rows
    found = joined_spreads(torch.stack([*map(spreads_of, parts), none]))
    assert torch.allclose(found, spreads_of(whole), rtol=1e-4)
    wanted = [each + 0.1 * torch.randn_like(each) for each in whole]
    spread = spreads_of(wanted)
    pieces = [
        distance([a[k::3] for a in whole], [b[k::3] for b in wanted], spread) for k in range(3)
    ]
    assert float(sum(pieces)) == pytest.approx(float(distance(whole, wanted)), rel=1e-5)


def test_noise_differs_from_part_to_part_and_follows_from_step_and_part():
    noise, shape = Noise(3), torch.Size([200])

    def bytes_of(step, part):
        noise.on_step_begin(step)
        noise.on_part_begin(part)
        return noise.bytes(shape), torch.rand(5)

    first = bytes_of(4, 0)
    for other in (bytes_of(4, 1), bytes_of(5, 0)):
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
    again = bytes_of(4, 0)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    noise.on_step_begin(4)
    assert torch.equal(noise.bytes(shape), first[0]), "as without parts"
    scores = torch.zeros(50)
    draws = [noise.uniform(key, scores) for key in (0, 0, 1)]
    noise.on_part_begin(1)
    assert torch.equal(draws[0], noise.uniform(0, scores)), "a step has one mask"
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    noise.on_step_begin(5)
    assert not torch.equal(draws[0], noise.uniform(0, scores))


def gradients(model, options, *, noise):
    encoded = rows_of(8)
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)
    kept = {}

    class Kept(torch.optim.SGD):
        def step(self, closure=None):
            kept.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )
            return super().step(closure)

    optimizer = Kept(model.parameters(), lr=0.1)
    runner = StepRunner(
        model.train(), optimizer, encoded, loss_of, CpuPlacement("cpu"), options, noise
    )
    with recomputed_layers(model, noise, if_asked=options.gradient_checkpointing):
        loss, _ = runner.take(np.arange(8))
    return loss, kept


@pytest.mark.parametrize("accumulate", [1, 2])
def test_layers_that_are_computed_twice_drop_the_same_values(accumulate, encoder):
    found, calls = [], []
    for checkpointing in (False, True):
        model, noise = copy.deepcopy(encoder), Noise(0)
        use_fast_dropout(model, noise, p=0.4)
        layer = base_of(model).encoder.layer[0].attention
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
        options = StepOptions(accumulate, gradient_checkpointing=checkpointing)
        found.append(gradients(model, options, noise=noise))
    assert found[0][0] == found[1][0]
    assert len(calls) == 3 * accumulate, "once, then twice"
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-7), name


def test_an_architecture_without_checkpointing_is_refused():
    class Bare(nn.Module):
        def gradient_checkpointing_enable(self, **_):
            raise ValueError("not supported")

        config = type("C", (), {"model_type": "bare"})

    with (
        pytest.raises(ConfigError, match="`bare` has no gradient checkpointing"),
        recomputed_layers(Bare(), TrainerCallback(), if_asked=True),
    ):
        pass


def test_a_largest_norm_scales_all_gradients_alike(encoder):
    noise = Noise(0)
    use_fast_dropout(encoder, noise, p=0.0)
    free = gradients(copy.deepcopy(encoder), StepOptions(), noise=noise)[1]
    norm = float(torch.sqrt(sum(each.square().sum() for each in free.values())))
    bound = gradients(copy.deepcopy(encoder), StepOptions(max_grad_norm=norm / 4), noise=noise)[1]
    for name, gradient in free.items():
        assert torch.allclose(bound[name], gradient / 4, rtol=1e-3, atol=1e-8)
    wide = gradients(copy.deepcopy(encoder), StepOptions(max_grad_norm=2 * norm), noise=noise)[1]
    assert all(torch.equal(free[name], wide[name]) for name in free)


def test_a_compiled_forward_pass_is_the_same(encoder, monkeypatch):
    compiled = []

    def compile_(model, *, dynamic):
        compiled.append(dynamic)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    noise = Noise(0)
    use_fast_dropout(encoder, noise, p=0.0)
    usual = gradients(copy.deepcopy(encoder), StepOptions(), noise=noise)
    assert compiled == []
    assert gradients(copy.deepcopy(encoder), StepOptions(compile=True), noise=noise)[0] == usual[0]
    assert compiled == [True]


def test_float16_scales_the_loss_and_leaves_out_a_step_that_overflows(encoder):
    encoded, noise = rows_of(8), Noise(0)
    use_fast_dropout(encoder, noise, p=0.0)
    head = list(encoder.classifier.parameters())
    optimizer = FlooredAdam([{"params": head, "lr": 1e-2, "floor": 1.0}])
    half = Placement("cpu", "fp16")
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)
    runner = StepRunner(encoder.train(), optimizer, encoded, loss_of, half, callbacks=noise)
    before = head[0].detach().clone()
    handle = head[0].register_hook(lambda gradient: gradient * float("inf"))
    first, _ = runner.take(np.arange(8))
    handle.remove()
    assert torch.equal(head[0], before), "nothing was learned from it"
    scale = runner.scaler.get_scale()
    assert scale == 2.0**15
    losses = [runner.take(np.arange(8))[0] for _ in range(25)]
    assert losses[-1] < 0.9 * first
    assert runner.scaler.get_scale() == scale


class Kept:
    """Checkpoints that remember who saved."""

    def __init__(self):
        self.saved = []

    def load(self, state):
        return 0

    def save(self, state, step, *, now):
        self.saved.append((step, now))


def test_one_wish_to_stop_stops_all_and_the_main_process_keeps_the_state(encoder):
    encoded = rows_of(16)
    loss_of = TaskLoss(TASK_TYPES["classification"], encoded.labels)
    kept = [Kept(), Kept()]

    def run(own):
        model = copy.deepcopy(encoder)
        done = []
        with pytest.raises(KeyboardInterrupt):
            train(
                model,
                encoded,
                plan=Plan(20, 8, 0.1, 0),
                groups=[Group(list(model.classifier.parameters()), 1e-3)],
                task_loss=loss_of,
                callbacks=TrainerCallback(),
                placement=CpuPlacement("cpu", processes=own),
                checkpoints=kept[own.rank],
                on_step=lambda now: done.append(now.step),
                stop=lambda: own.rank == 1 and len(done) == 4,
            )
        return done

    assert side_by_side(2, run) == [[1, 2, 3, 4, 5]] * 2
    assert kept[0].saved == [(1, False), (2, False), (3, False), (4, False), (5, True)]
    assert kept[1].saved == []


@pytest.fixture
def fitted(request_for, monkeypatch):
    """A function: results of `fit_task` in each of some processes, and the artifact that they wrote."""

    def fit(count, out, *, between=lambda request, rank: request, **options):
        def work(processes):
            request = replace(request_for(out, **options), device="together")
            return fit_task(between(request, processes.rank))

        results = placed_side_by_side(monkeypatch)(count, work)
        return results, open_artifact(request_for(out).out)

    return fit


RUNS = {
    "usual": {},
    "a twin teaches": {"teacher": "twin"},
    "a size": {"target_bytes": 1500},
    "patience": {"patience": 2, "steps": 36},
    "drawn": {"estimator": "bernoulli", "sparsity": 0.3},
    "all that can be trained": {"train_bias": True, "train_norm": True, "train_scales": True},
    "rounding": {"simulate": "int8"},
    "peers": {"teacher": "peer", "snapshots": True},
    "a snapshot teaches": {"teacher": "snapshot", "schedule": "restarts", "cycles": 2},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_whole_run_over_processes_learns_what_one_process_learns(fitted, options):
    plain = {"dropout": 0.0, "margin": 0.5, **options}
    (alone,), one = fitted(1, "one", **plain)
    results, other = fitted(2, "other", **plain, accumulate=2)
    assert results[0].scores == results[1].scores
    assert results[0].zeros == results[1].zeros
    assert results[0].score == pytest.approx(alone.score, abs=0.07)  # two rows of 32
    if options.get("teacher") == "twin":
        return  # it has its own dropout, which differs from part to part
    left, right = one.patch("sst2"), other.patch("sst2")
    for name, mask in left.masks.items():
        ours, theirs = ~mask.to_bool(), ~right.masks[name].to_bool()
        assert (ours != theirs).sum() <= max(1, 0.02 * (ours | theirs).sum()), name


def test_what_one_process_cannot_read_ends_all_with_its_error(fitted, tmp_path):
    def elsewhere(request, rank):
        return request if rank == 0 else replace(request, data=tmp_path / "nowhere")

    with pytest.raises((DataError, ConfigError), match="in process 1: .*nowhere"):
        fitted(2, "out", between=elsewhere)
    assert not (tmp_path / "out").exists()


def test_processes_with_other_options_or_rows_are_refused(fitted):
    def slower(request, rank):
        return request if rank == 0 else replace(request, config=replace(request.config, lr=1e-5))

    with pytest.raises(ConfigError, match="process 1 has another set of options, data and model"):
        fitted(2, "out", between=slower)


def test_processes_with_other_versions_are_refused(fitted, monkeypatch):
    import threading

    from maskpack.compressor import fit as recipe

    seen = []

    def version(name):
        seen.append(threading.get_ident())
        return "1.0" if seen[-1] == seen[0] else "2.0"

    monkeypatch.setattr(recipe, "version", version)
    with pytest.raises(
        ConfigError, match="process 1 has another version of maskpack than process 0: "
    ):
        fitted(2, "out")


def test_options_of_a_step_reach_it():
    options = {"accumulate": 3, "max_grad_norm": 0.5, "gradient_checkpointing": True}
    expected = StepOptions(3, 0.5, gradient_checkpointing=True, compile=True)
    for kind in (FitConfig, BaselineConfig):
        assert Plan.of(kind(**options, compile=True), 100).step == expected
        assert not any(name in kind().record() for name in options), "old runs keep their digest"


def test_a_baseline_takes_its_steps_in_parts_too(encoder):
    config = BaselineConfig(method=Method.HEAD)
    groups = trained_groups(encoder, config)
    assert sum(len(group.parameters) for group in groups) == 2
    assert steps.StepOptions.of(config) == StepOptions()
