"""The training loop: batches in, trained parameters out. No files, no printing, no task names.

Masks and dense baselines use the same loop with other parameters. The optimiser is
Adam with a floor, which keeps the size of gradients in the step. Plain Adam divides
each gradient by its own size, so that a score with a tiny gradient moves as far as one with a large gradient:
most flips are then noise. Flipping a weight changes the loss by about `-w dL/dw`, the score's gradient
itself, so its size carries information:

    step = lr * m / (sqrt(v) + floor * R),   R = sqrt(mean of v over the whole group)

`floor = 0` is Adam (Kingma & Ba 2015); a large floor is momentum SGD with one normalised rate, which is what
movement scores are (Sanh et al. 2020). Between them, at 1, a score of typical gradient moves at half of Adam's
speed and one of a tenth of it at a tenth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.config import RunConfig
from maskpack.compressor.schedules import LINEAR, SCHEDULES, Span
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.step import StepOptions, StepRunner, recomputed_layers
from maskpack.formats import ConfigError, ModelError
from maskpack.models.build import base_of, head_parameters
from maskpack.models.placement import Placement
from maskpack.tasks.batches import Encoded, training_batches

_EVERY = 20  # steps between updates of R; each of the first `_EVERY` steps updates it
_DIVERGED = "lower `lr` or `head_lr`; in a regression look for numbers far from all others"
_TINY = 1e-12  # score gradients are products of small numbers: Adam's usual 1e-8 would stall them


class FlooredAdam(torch.optim.Adam):
    """Adam whose parameter groups may carry a `floor`."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        filled = [{"floor": 0.0, "peak": group["lr"], "alive": None, **group} for group in groups]
        super().__init__(filled, eps=_TINY, fused=True)

    def set_rates(self, share: float) -> None:
        """Set every group's rate to a share of its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * share

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; every `_EVERY` steps an update of the size of the gradients."""
        loss: float | None = super().step(closure)
        for group in self.param_groups:
            if group["floor"] > 0:
                self._raise_floor(group)
        return loss

    def _raise_floor(self, group: dict[str, Any]) -> None:
        """Set the group's `eps` from the mean of its second moments, bias corrected."""
        states = [self.state[parameter] for parameter in group["params"]]
        taken = max((int(state["step"]) for state in states if state), default=0)
        if taken == 0 or (taken > _EVERY and taken % _EVERY):
            return  # 0: a step that overflowed in float16 was left out
        some = [None] * len(states) if group["alive"] is None else group["alive"]()
        moments = [
            state["exp_avg_sq"] if own is None else state["exp_avg_sq"][own]
            for state, own in zip(states, some, strict=True)
            if state  # an expert that no text has chosen yet has none
        ]
        squares = sum(float(each.sum()) for each in moments)
        count = max(1, sum(each.numel() for each in moments))
        correction = 1.0 - group["betas"][1] ** taken
        group["eps"] = max(_TINY, group["floor"] * (squares / count / correction) ** 0.5)


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that share a peak learning rate and a floor (see above).

    Attributes:
        parameters: trained.
        lr: their peak rate.
        floor: how much the size of a gradient counts.
        alive: says which values of each parameter still change anything, bool in its shape, or None where all do: the
            others would make the mean of all gradients smaller, and so every step larger. None: all of all do.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    floor: float = 0.0
    alive: Callable[[], Sequence[Tensor | None]] | None = None

    def settings(self) -> dict[str, Any]:
        """The group as an optimiser takes it."""
        shared = {"lr": self.lr, "floor": self.floor, "alive": self.alive}
        return {"params": list(self.parameters), **shared}


def every_weight(model: Any, *, lr: float, head_lr: float) -> list[Group]:
    """All parameters of a classifier: those of its encoder, and its head's with a rate of its own."""
    base, head = base_of(model).parameters(), head_parameters(model).values()
    return [Group(list(base), lr), Group(list(head), head_lr)]


@dataclass(frozen=True)
class Plan:
    """How long, in what order and at what rate.

    Attributes:
        steps: optimiser steps in all.
        batch_size: rows a step.
        warmup: share of the steps in which the rate rises.
        seed: of the data order.
        step: how a step is computed.
        schedule: shape of the rate, a name in `SCHEDULES`.
        cycles: of that shape.
    """

    steps: int
    batch_size: int
    warmup: float
    seed: int
    step: StepOptions = field(default_factory=StepOptions)
    schedule: str = LINEAR
    cycles: int = 1

    @classmethod
    def of(cls, config: RunConfig, rows: int) -> Plan:
        """The plan of a run over `rows` training rows.

        Raises:
            ConfigError: the run has fewer steps than cycles.
        """
        steps, step, shape = config.total_steps(rows), StepOptions.of(config), config.shape
        least, what = max((shape[1], "cycles of its rates"), (1 + len(config.stops), "parts"))
        if steps < least:
            raise ConfigError(
                f"the run has {steps} steps, fewer than the {least} {what}",
                "give more `epochs`, or fewer of them",
            )
        return cls(steps, config.batch_size, config.warmup, config.seed, step, *shape)

    def linear(self) -> Plan:
        """As many steps over the same rows at linear rates."""
        return replace(self, schedule=LINEAR, cycles=1)

    def parts(self, count: int) -> tuple[int, ...]:
        """Steps after which equal parts of the run end, as cycles do; the last step included."""
        return Span(self.steps, 0, count).ends()

    @property
    def span(self) -> Span:
        """The steps as a schedule sees them."""
        return Span(self.steps, math.ceil(self.steps * self.warmup), self.cycles)

    def per_epoch(self, rows: int) -> int:
        """Steps of an epoch over so many rows."""
        return -(-rows // self.batch_size)

    def rows_at(self, step: int, encoded: Encoded) -> Encoded:
        """The training rows as they are in the epoch of a step."""
        return encoded.of_epoch(self.seed, step // self.per_epoch(len(encoded)))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at `step` (from 0); by default a linear rise, a linear fall."""
        return SCHEDULES[self.schedule].rate(step, self.span)

    def drift(self) -> float:
        """How far noise alone drives a score, as a standard deviation in peak learning rates.

        Adam's steps have about unit size; with random signs their sum over the run has a variance
        of the sum of squared rates.
        """
        return self.drifts()[-1]

    def drifts(self) -> list[float]:
        """The same after 0, 1, 2, ... steps."""
        squares = (self.rate(step) ** 2 for step in range(self.steps))
        return [math.sqrt(total) for total in itertools.accumulate(squares, initial=0.0)]


@dataclass(frozen=True, eq=False)
class TrainStep:
    """A finished step, for callbacks and progress."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, eq=False)
class State:
    """State that changes during training, kept by checkpoints."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    callbacks: TrainerCallback
    scaler: torch.amp.GradScaler


class Checkpoints(Protocol):
    """Where a run keeps its state; see `checkpoint.py`."""

    def load(self, state: State) -> int:
        """Restore the newest state in place and return its step, or 0 if there is none."""

    def save(self, state: State, step: int, *, now: bool) -> None:
        """Keep the state after `step`, if one is due or wanted `now`."""


class NoCheckpoints:
    """Keep nothing."""

    def load(self, state: State) -> int:
        """Start at 0."""
        del state
        return 0

    def save(self, state: State, step: int, *, now: bool) -> None:
        """Do nothing."""


def train(
    model: nn.Module,
    encoded: Encoded,
    *,
    plan: Plan,
    groups: Sequence[Group],
    task_loss: TaskLoss,
    callbacks: TrainerCallback,
    placement: Placement,
    checkpoints: Checkpoints,
    on_step: Callable[[TrainStep], None],
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train `groups` in place with Adam; return the number of steps taken. All else must be frozen already.

    `callbacks` are called around every step, `on_step` last in it. A run goes on from what `checkpoints`
    load. When `stop` returns True, in any process, they keep the state and KeyboardInterrupt is raised in all.
    """
    optimizer = FlooredAdam(group.settings() for group in groups)
    runner = StepRunner(model, optimizer, encoded, task_loss, placement, plan.step, callbacks)
    done = checkpoints.load(state := State(model, optimizer, callbacks, runner.scaler))
    placement.processes.check_same([("checkpoint, of step", done)])
    model.train()
    with recomputed_layers(model, callbacks, if_asked=plan.step.gradient_checkpointing):
        for step, rows in planned_batches(encoded.lengths, plan, done):
            if callbacks.should_stop():
                break
            optimizer.set_rates(plan.rate(step))
            callbacks.on_step_begin(step)
            loss, stopping = runner.take(rows, stop=stop(), encoded=plan.rows_at(step, encoded))
            callbacks.on_loss(_finite(loss, done := step + 1))
            callbacks.on_step_end(done, plan.steps)
            if placement.processes.is_main:
                checkpoints.save(state, done, now=stopping)
            on_step(TrainStep(done, plan.steps, loss))
            if stopping:
                raise KeyboardInterrupt
    callbacks.on_train_end()
    model.eval()
    return done


def _finite(loss: float, step: int) -> float:
    """A loss, unless it is no number."""
    if not math.isfinite(loss):
        raise ModelError(f"training diverged: the loss of step {step} is {loss}", _DIVERGED)
    return loss


def planned_batches(
    lengths: NDArray[np.int64], plan: Plan, first: int = 0
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """(step, rows) from step `first` on; the order depends on seed and epoch only."""
    per_epoch = plan.per_epoch(len(lengths))
    for epoch in range(first // per_epoch, -(-plan.steps // per_epoch)):
        batches = training_batches(lengths, batch_size=plan.batch_size, seed=plan.seed, epoch=epoch)
        for index, rows in enumerate(batches):
            step = epoch * per_epoch + index
            if first <= step < plan.steps:
                yield step, rows
