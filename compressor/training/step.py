"""One optimiser step: the rows of a batch in parts, over all processes, with gradients that are summed once.

Whatever the number of processes and of parts, a step is the same but for the order of sums: every loss is a mean over
the rows of the whole step, and hidden states are compared in units of all its tokens. Losses that compare rows with each other
(`tasks/types/vectors.py`) do so within a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.config import RunConfig
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import (
    Drawn,
    TaskLoss,
    distance,
    joined_spreads,
    spreads_of,
    states_of,
)
from maskpack.formats import ConfigError
from maskpack.models.placement import Placement, to_tensors
from maskpack.tasks.batches import Encoded

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed; but for rounding none of it changes the result, except for a largest norm.

    Attributes:
        accumulate: parts in which a process computes its rows, one after another.
        max_grad_norm: of all gradients together; larger ones are scaled down. None: there is no limit.
        gradient_checkpointing: whether layers are computed again in the backward pass instead of being kept.
        compile: whether torch compiles the forward pass.
    """

    accumulate: int = 1
    max_grad_norm: float | None = None
    gradient_checkpointing: bool = False
    compile: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> StepOptions:
        """Those of a run."""
        return cls(
            config.accumulate, config.max_grad_norm, config.gradient_checkpointing, config.compile
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a step.

    Attributes:
        number: among the parts of all processes.
        rows: indices.
        share: of the rows of the step; 0 where there are fewer rows than parts, and a row stands in.
        inputs: of the model.
        encoded: the training rows as they are in this epoch.
    """

    number: int
    rows: Rows
    share: float
    inputs: dict[str, Tensor]
    encoded: Encoded


@dataclass(frozen=True, eq=False)
class _Told:
    """What a teacher says of a part.

    Attributes:
        logits: of hidden tokens, `(n, c)`; None: they were asked before the first step, or there is no teacher.
        states: of each layer; empty: they do not count.
    """

    logits: Tensor | None
    states: list[Tensor]


@dataclass(frozen=True, eq=False)
class StepRunner:
    """Takes steps on one model.

    Attributes:
        model: in training mode.
        optimizer: of all trained parameters.
        encoded: the training rows.
        task_loss: loss of float32 logits of some rows, and a teacher's hidden states.
        placement: device, precision and processes.
        options: how a step is computed.
        callbacks: told when a part begins and when gradients are there.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    encoded: Encoded
    task_loss: TaskLoss
    placement: Placement
    options: StepOptions = field(default_factory=StepOptions)
    callbacks: TrainerCallback = field(default_factory=TrainerCallback)

    def take(
        self, rows: Rows, *, stop: bool = False, encoded: Encoded | None = None
    ) -> tuple[float, bool]:
        """One step on the rows of a batch.

        Args:
            rows: indices of the whole batch, of all processes.
            stop: whether this process wants to stop after the step.
            encoded: the training rows as they are in this epoch; None: as in all.

        Returns:
            The loss, and whether any process wants to stop.
        """
        parts = list(self._parts(rows, encoded or self.encoded))
        wanted, spreads = self._wanted(parts)
        total = torch.zeros((), device=self.placement.device)
        for part, told in zip(parts, wanted, strict=True):
            self.callbacks.on_part_begin(part.number)
            loss = self._loss(part, told, spreads)
            with self.placement.backward():
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total, stopping = self._summed(total, stop=stop)
        self._update()
        return self._read(total, stopping)

    def _read(self, total: Tensor, stopping: Tensor) -> tuple[float, bool]:
        """Loss and wish as numbers: the one place of a step where the processor waits for a device."""
        loss, wishes = torch.stack([total, stopping]).tolist()
        return loss, wishes > 0.0

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients of float16 from becoming zero."""
        return self.placement.scaler()

    @cached_property
    def _trained(self) -> list[nn.Parameter]:
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        """The model, compiled if that is asked for."""
        return torch.compile(self.model, dynamic=True) if self.options.compile else self.model

    def _parts(self, rows: Rows, encoded: Encoded) -> Iterator[_Part]:
        """The parts of this process. Every n-th row goes to a part, so that all parts have rows of like length."""
        own, processes = self.options.accumulate, self.placement.processes
        every = own * processes.count
        for number in range(processes.rank * own, (processes.rank + 1) * own):
            some = rows[number::every]
            share = len(some) / len(rows)
            if not len(some):
                if number > processes.rank * own:
                    continue  # only a process without any row needs one, to be there when gradients are summed
                some = rows[:1]
            inputs = to_tensors(encoded.feeds(some), self.model)
            yield _Part(number, some, share, inputs, encoded)

    def _told(self, part: _Part) -> _Told:
        """What the teacher says of a part: logits if it is asked in every step, and hidden states if they count."""
        asked, states = self.task_loss.asked, self.task_loss.state_teacher
        if asked is not None:
            return _Told(*asked.answers(part.inputs, states=states is not None))
        read = part.encoded.read_with(part.rows)
        return _Told(None, [] if states is None else states.states(part.inputs, read))

    def _wanted(self, parts: list[_Part]) -> tuple[list[_Told], Tensor | None]:
        """What the teacher says of each part, and the spread of its hidden states in the whole step."""
        with self.placement.training():
            wanted = [self._told(part) for part in parts]
        processes = self.placement.processes
        if self.task_loss.state_teacher is None:
            return wanted, None
        own = [
            spreads_of(told.states) * (part.share > 0.0)
            for part, told in zip(parts, wanted, strict=True)
        ]
        if processes.alone:
            return wanted, joined_spreads(torch.stack(own))
        table = own[0].new_zeros(self.options.accumulate * processes.count, *own[0].shape)
        for part, spread in zip(parts, own, strict=True):
            table[part.number] = spread
        processes.sum([table])
        return wanted, joined_spreads(table)

    def _loss(self, part: _Part, told: _Told, spreads: Tensor | None) -> Tensor:
        """What a part adds to the loss of the step."""
        teacher = self.task_loss.state_teacher
        asked = {} if teacher is None else {"output_hidden_states": True}
        with self.placement.training():
            outputs = self._forward(**part.inputs, **asked)
        drawn = Drawn.of(part.inputs, told.logits)
        logits = outputs.logits.float()
        loss = part.share * self.task_loss(logits, part.rows, drawn, part.encoded)
        if teacher is None:
            return loss
        apart = distance(states_of(outputs, part.inputs), told.states, spreads)
        return loss + teacher.weight * (part.share > 0.0) * apart

    def _summed(self, total: Tensor, *, stop: bool) -> tuple[Tensor, Tensor]:
        """The loss and the wish to stop, over all processes; gradients are summed in place along with them."""
        stopping = total.new_full((), float(stop))
        gradients = [each.grad for each in self._trained if each.grad is not None]
        self.placement.processes.sum([*gradients, total, stopping])
        return total, stopping

    def _update(self) -> None:
        """Change the trained parameters."""
        self.scaler.unscale_(self.optimizer)
        self.callbacks.on_gradients()
        if self.options.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained, self.options.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


@contextmanager
def recomputed_layers(model: Any, callbacks: TrainerCallback, *, if_asked: bool) -> Iterator[None]:
    """Let a model compute its layers again in the backward pass, where that is wanted.

    Args:
        model: of transformers.
        callbacks: hold the noise that both passes must share.
        if_asked: whether it is wanted.

    Raises:
        ConfigError: the architecture cannot.
    """
    if not if_asked:
        yield
        return
    options = {"use_reentrant": False, "context_fn": callbacks.recomputing}
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    except ValueError as error:
        raise ConfigError(
            f"`{model.config.model_type}` has no gradient checkpointing",
            "use `accumulate`, which takes less memory too",
        ) from error
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
