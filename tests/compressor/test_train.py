from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from maskpack.compressor.config import Precision
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.train import Group, NoCheckpoints, Plan, train
from maskpack.models.placement import CpuPlacement
from maskpack.tasks.batches import EncodedTokens, training_batches
from maskpack.tasks.types import TASK_TYPES

WORDS = 12
CLASSES, NUMBERS = TASK_TYPES["classification"], TASK_TYPES["regression"]
FP32, BF16 = CpuPlacement.of("cpu", "fp32"), CpuPlacement.of("cpu", "bf16")


class Bag(nn.Module):
    """The smallest model of the right shape: a mean of word vectors and a linear layer."""

    def __init__(self, outputs: int):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, 8)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(8, outputs)
        self.seen: list[list[list[int]]] = []

    def forward(self, input_ids, attention_mask):
        self.seen.append(input_ids.tolist())
        mask = attention_mask[..., None]
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.head(self.dropout(mean)))


def rows_of(count: int, *, regression: bool = False) -> EncodedTokens:
    """Rows of low words are of class 0, of high words of class 1; as a number: their mean."""
    rng = np.random.default_rng(0)
    classes = np.arange(count) % 2
    ids = tuple(rng.integers(1, 6, size=rng.integers(2, 6)) + 5 * label for label in classes)
    means = np.array([row.mean() / 5 for row in ids], dtype=np.float32)
    return EncodedTokens(ids, None, means if regression else classes.astype(np.int64), pad=0)


def run(
    model,
    encoded,
    *,
    kind=CLASSES,
    steps=40,
    batch_size=8,
    lr=0.02,
    placement=FP32,
    checkpoints=None,
    groups=None,
):
    """Train and return the loss of every step."""
    losses = []
    train(
        model,
        encoded,
        plan=Plan(steps, batch_size, 0.1, seed=3),
        groups=groups or [Group(list(model.parameters()), lr)],
        task_loss=TaskLoss(kind, encoded.labels),
        callbacks=TrainerCallback(),
        placement=placement,
        checkpoints=checkpoints or NoCheckpoints(),
        on_step=lambda progress: losses.append(progress.loss),
    )
    return losses


@pytest.mark.parametrize(
    ("steps", "warmup"), [(100, 0.1), (7, 0.5), (10, 0.0), (1, 0.9), (3, 0.99)]
)
def test_the_rate_rises_to_its_peak_and_falls_in_equal_steps_to_near_zero(steps, warmup):
    rates = [Plan(steps, 1, warmup, 0).rate(step) for step in range(steps)]
    top = rates.index(max(rates))
    rise, fall = np.diff(rates[: top + 1]), np.diff(rates[top:])
    assert max(rates) == 1.0
    assert min(rates) > 0.0
    assert np.allclose(rise, rates[0])
    assert (rise > 0).all()
    assert (fall <= 1e-12).all()
    assert np.allclose(fall[1:], fall[1:].mean() if len(fall) > 1 else 0)


def test_the_rate_has_the_stated_values():
    plan = Plan(10, 1, 0.2, 0)
    rates = [plan.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.6])
def test_the_drift_is_the_spread_of_a_random_walk_of_such_steps(warmup):
    plan = Plan(200, 1, warmup, 0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(20_000, 200))
    ends = signs @ np.array([plan.rate(step) for step in range(200)])
    assert plan.drift() == pytest.approx(ends.std(), rel=0.02)


def test_the_loss_falls_and_the_model_ends_in_evaluation_mode():
    model = Bag(2)
    losses = run(model, rows_of(64), steps=80)
    assert np.mean(losses[:5]) == pytest.approx(np.log(2), abs=0.2)
    assert np.mean(losses[-5:]) < 0.2
    assert not model.training


def first_loss(model, encoded, of):
    """The loss of the first batch as it should be, before any step."""
    rows = training_batches(encoded.lengths, batch_size=8, seed=3, epoch=0)[0]
    feeds = {name: torch.from_numpy(array) for name, array in encoded.feeds(rows).items()}
    model.dropout.p = 0.0
    return of(model(**feeds).logits.detach(), torch.from_numpy(encoded.labels[rows])).item()


def test_classes_are_learned_by_cross_entropy():
    model, encoded = Bag(3), rows_of(32)
    expected = first_loss(model, encoded, functional.cross_entropy)
    assert run(model, encoded, steps=1) == [pytest.approx(expected, rel=1e-5)]


def test_numbers_are_learned_by_squared_error():
    model, encoded = Bag(1), rows_of(32, regression=True)
    expected = first_loss(model, encoded, lambda logits, y: (logits[:, 0] - y).square().mean())
    losses = run(model, encoded, kind=NUMBERS, steps=60)
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert np.mean(losses[-5:]) < 0.3 * losses[0]


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own():
    model, encoded = Bag(2), rows_of(20)
    run(model, encoded, steps=6, batch_size=8)  # three steps an epoch, the last one short
    assert [len(batch) for batch in model.seen] != [8] * 6
    for epoch in (model.seen[:3], model.seen[3:]):
        seen = sorted(tuple(w for w in row if w) for batch in epoch for row in batch)
        assert seen == sorted(tuple(row.tolist()) for row in encoded.ids)
    assert model.seen[:3] != model.seen[3:]


class From(NoCheckpoints):
    def __init__(self, step: int):
        self.step = step

    def load(self, state):
        return self.step


@pytest.mark.parametrize("first", [0, 1, 3, 4, 7, 8])
def test_a_run_that_goes_on_sees_the_batches_it_would_have_seen(first):
    whole, rest = Bag(2), Bag(2)
    run(whole, rows_of(20), steps=8)
    assert len(run(rest, rows_of(20), steps=8, checkpoints=From(first))) == 8 - first
    assert rest.seen == whole.seen[first:]


def test_after_a_step_come_the_company_then_the_checkpoint_then_the_watcher():
    told = []

    class Talker(TrainerCallback):
        def on_step_begin(self, step):
            told.append(("before", step))

        def on_step_end(self, step, steps):
            told.append(("after", step, steps))

        def on_train_end(self):
            told.append(("finish", model.training))

    class Record(NoCheckpoints):
        def save(self, state, step, *, now):
            told.append(("save", step))
            assert now is False

    model, encoded = Bag(2), rows_of(16)
    train(
        model,
        encoded,
        plan=Plan(2, 8, 0.0, 0),
        groups=[Group(list(model.parameters()), 0.1)],
        task_loss=TaskLoss(CLASSES, encoded.labels),
        callbacks=Talker(),
        placement=FP32,
        checkpoints=Record(),
        on_step=lambda news: told.append(("watch", news.step, news.steps)),
    )
    assert told == [
        ("before", 0), ("after", 1, 2), ("save", 1), ("watch", 1, 2),
        ("before", 1), ("after", 2, 2), ("save", 2), ("watch", 2, 2),
        ("finish", True),
    ]  # fmt: skip


def test_a_run_told_to_stop_keeps_its_state_at_the_end_of_that_step():
    told = []

    class Record(NoCheckpoints):
        def save(self, state, step, *, now):
            told.append((step, now))

    model, encoded = Bag(2), rows_of(16)
    with pytest.raises(KeyboardInterrupt):
        train(
            model,
            encoded,
            plan=Plan(9, 8, 0.0, 0),
            groups=[Group(list(model.parameters()), 0.1)],
            task_loss=TaskLoss(CLASSES, encoded.labels),
            callbacks=TrainerCallback(),
            placement=FP32,
            checkpoints=Record(),
            on_step=lambda news: told.append(news.step),
            stop=lambda: len(told) == 4,
        )
    assert told == [(1, False), 1, (2, False), 2, (3, True), 3]


def test_groups_move_at_their_own_rates_and_nothing_else_moves():
    model = Bag(2)
    model.dropout.p = 0.0
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(
        model,
        rows_of(8),
        steps=1,
        groups=[Group([model.head.weight], 0.5), Group([model.head.bias], 0.001)],
    )
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    assert moved["head.weight"] == pytest.approx(0.5, rel=1e-3)  # warm-up is one step of one
    assert moved["head.bias"] == pytest.approx(0.001, rel=1e-3)
    assert moved["table.weight"] == 0.0


def test_the_floor_of_a_group_slows_small_gradients_down():
    plain, floored = Bag(2), Bag(2)
    start = plain.table.weight.detach().clone()
    for model, floor in ((plain, 0.0), (floored, 5.0)):
        group = Group([model.table.weight], 0.01, floor)
        run(model, rows_of(64), steps=30, groups=[group])
    assert (floored.table.weight - start).norm() < 0.5 * (plain.table.weight - start).norm()


def test_bfloat16_learns_too_and_keeps_weights_in_float32():
    model, exact = Bag(2), Bag(2)
    losses = run(model, rows_of(64), steps=60, placement=BF16)
    assert losses != run(exact, rows_of(64), steps=60)
    assert np.mean(losses[-5:]) < 0.35
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_two_runs_from_one_seed_are_the_same():
    assert run(Bag(2), rows_of(32)) == run(Bag(2), rows_of(32))


@pytest.mark.parametrize(
    ("precision", "flags", "expected"),
    [
        (Precision.BF16, (False, False), True),
        (Precision.FP32, (True, True), False),
        (Precision.AUTO, (False, False), False),
        (Precision.AUTO, (True, False), True),
        (Precision.AUTO, (False, True), True),
    ],
)
def test_automatic_precision_asks_the_processor(precision, flags, expected, monkeypatch):
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    for name, flag in zip(names, flags, strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda flag=flag: flag, raising=False)
    assert CpuPlacement.of("cpu", precision).precision == ("bf16" if expected else "fp32")


def test_automatic_precision_is_float32_where_torch_cannot_tell(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert CpuPlacement.of("cpu", Precision.AUTO).precision == "fp32"
