"""Callbacks of the training loop: hooks around a step, early stopping, learning curves, dropout's noise.

* `EarlyStopping` evaluates training rows that are held out for it: the evaluation split is for the report, and
  choosing an epoch by it would flatter the result.
* `History` keeps a few points of a run for the manifest, through checkpoints too.
* `ByteDropout` draws one random byte a value instead of one random float: torch draws dropout on a CPU one
  value after another, a fifth of a step on a small encoder; bytes from numpy's SFC64 come five times
  faster. The price is a probability in steps of 1/256.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskpack.compressor.types import MOST_POINTS, Curves, spacing


class TrainerCallback:
    """Callback hooks of the training loop, which all do nothing here."""

    def on_step_begin(self, step: int) -> None:
        """Called before step `step` (from 0)."""

    def on_part_begin(self, part: int) -> None:
        """Called before a part of the step's rows is computed; parts of all processes are numbered together."""

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the two passes over a layer that is computed twice."""
        return nullcontext(), nullcontext()

    def on_loss(self, loss: float) -> None:
        """Called with the training loss of a step, before `on_step_end`."""

    def on_gradients(self) -> None:
        """Called when the gradients of a step are those of all its rows, before the optimiser's update."""

    def on_step_end(self, step: int, steps: int) -> None:
        """Called after the optimiser's update, with the number of finished steps and of all."""

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that a checkpoint keeps; a resumed run writes into them in place."""
        return {}

    def should_stop(self) -> bool:
        """Whether training should end now."""
        return False

    def on_train_end(self) -> None:
        """Called once after the last step."""


class CallbackList(TrainerCallback):
    """Several callbacks as one, called in a fixed order."""

    def __init__(self, members: Sequence[TrainerCallback] = ()) -> None:
        self._members = members

    def on_step_begin(self, step: int) -> None:
        """Call every member."""
        for member in self._members:
            member.on_step_begin(step)

    def on_part_begin(self, part: int) -> None:
        """Call every member."""
        for member in self._members:
            member.on_part_begin(part)

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of all members."""
        first, second = zip(*(member.recomputing() for member in self._members), strict=True)
        return _nested(first), _nested(second)

    def on_loss(self, loss: float) -> None:
        """Call every member."""
        for member in self._members:
            member.on_loss(loss)

    def on_gradients(self) -> None:
        """Call every member."""
        for member in self._members:
            member.on_gradients()

    def on_step_end(self, step: int, steps: int) -> None:
        """Call every member."""
        for member in self._members:
            member.on_step_end(step, steps)

    def state(self) -> Mapping[str, Tensor]:
        """The tensors of all members; a name starts with the member's number."""
        return {
            f"{index}/{name}": tensor
            for index, member in enumerate(self._members)
            for name, tensor in member.state().items()
        }

    def should_stop(self) -> bool:
        """Whether a member asks to end training."""
        return any(member.should_stop() for member in self._members)

    def on_train_end(self) -> None:
        """Call every member."""
        for member in self._members:
            member.on_train_end()


@contextmanager
def _nested(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


class EarlyStopping(TrainerCallback):
    """Keeps the best state and ends a run that has not improved for `patience` evaluations.

    Args:
        tensors: trained tensors, thresholds included; the best values are restored at the end.
        evaluate: the metric of the model as it stands, higher is better.
        every: steps between evaluations.
        patience: evaluations without a new best value before the end.
    """

    def __init__(
        self, tensors: Sequence[Tensor], evaluate: Callable[[], float], *, every: int, patience: int
    ) -> None:
        self._tensors, self._evaluate = tensors, evaluate
        self._every, self._patience = every, patience
        self._best = [tensor.detach().clone() for tensor in tensors]
        self._record = torch.tensor(
            [-torch.inf, 0.0], dtype=torch.float64
        )  # metric, evaluations since

    def state(self) -> Mapping[str, Tensor]:
        """The best values and the record."""
        best = {str(index): tensor for index, tensor in enumerate(self._best)}
        return {"record": self._record, **best}

    @torch.no_grad()
    def on_step_end(self, step: int, steps: int) -> None:
        """Evaluate, if it is time."""
        if step % self._every and step != steps:
            return
        metric = self._evaluate()
        if metric > float(self._record[0]):
            self._record[0], self._record[1] = metric, 0.0
            for kept, tensor in zip(self._best, self._tensors, strict=True):
                kept.copy_(tensor)
        else:
            self._record[1] += 1.0

    def should_stop(self) -> bool:
        """Whether patience is over."""
        return float(self._record[1]) >= self._patience

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Restore the best values."""
        for kept, tensor in zip(self._best, self._tensors, strict=True):
            tensor.copy_(kept)


class History(TrainerCallback):
    """Mean loss and zeros at even distances, the metric at the end of epochs.

    A resumed run has the same history, because a checkpoint keeps the points.

    Args:
        evaluate: the metric of the model as it stands.
        count: weights that its mask removes as it stands.
        steps: of the whole run.
        per_epoch: steps of an epoch.
    """

    def __init__(
        self, evaluate: Callable[[], float], count: Callable[[], int], *, steps: int, per_epoch: int
    ) -> None:
        self._evaluate, self._count, self._per_epoch = evaluate, count, per_epoch
        self._every = spacing(steps)
        self._every_score = per_epoch * spacing(steps // per_epoch)
        self._points = torch.full((MOST_POINTS, 3), torch.nan, dtype=torch.float64)
        self._scores = torch.full((MOST_POINTS, 2), torch.nan, dtype=torch.float64)
        self._running = torch.tensor(
            [0.0, 0.0, torch.nan], dtype=torch.float64
        )  # loss, steps, metric

    def state(self) -> Mapping[str, Tensor]:
        """All points so far."""
        return {"points": self._points, "scores": self._scores, "running": self._running}

    def on_loss(self, loss: float) -> None:
        """Add the loss of a step."""
        self._running[0] += loss
        self._running[1] += 1.0

    def on_step_end(self, step: int, steps: int) -> None:
        """Take a point, if it is time."""
        if step % self._every == 0 or step == steps:
            mean = float(self._running[0] / self._running[1].clamp(min=1.0))
            self._note(self._points, -(-step // self._every), (step, mean, self._count()))
            self._running[:2] = 0.0
        if step % self._per_epoch == 0:
            self._running[2] = self._evaluate()
            if step % self._every_score == 0:
                number = step // self._every_score
                self._note(self._scores, number, (step, float(self._running[2])))

    def metric(self) -> float:
        """The metric at the end of the last epoch; NaN in the first."""
        return float(self._running[2])

    def curves(self) -> Curves:
        """The kept points."""
        points = [row for row in self._points.tolist() if all(map(math.isfinite, row))]
        scores = [row for row in self._scores.tolist() if all(map(math.isfinite, row))]
        return Curves(
            steps=tuple(int(row[0]) for row in points),
            loss=tuple(row[1] for row in points),
            zeros=tuple(int(row[2]) for row in points),
            score_steps=tuple(int(row[0]) for row in scores),
            scores=tuple(row[1] for row in scores),
        )

    @staticmethod
    def _note(table: Tensor, number: int, row: tuple[float, ...]) -> None:
        table[number - 1] = torch.tensor(row, dtype=torch.float64)


_LEVELS = 256


class Noise(TrainerCallback):
    """Random values that follow from seed, step and part alone, so that a checkpoint need not keep them.

    Dropout differs from part to part of a step; drawn masks do not, because a step has one mask.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._step = seed, 0
        self._generator = self._begun(0)

    def on_step_begin(self, step: int) -> None:
        """Begin the bytes of a step."""
        self._step = step
        self._generator = self._begun(0)

    def on_part_begin(self, part: int) -> None:
        """Begin the bytes of a part of the step, and what torch draws in it."""
        self._generator = self._begun(part)
        torch.manual_seed(_mixed(self._seed, self._step, part))

    def bytes(self, shape: torch.Size) -> Tensor:
        """The next bytes as uint8 of any shape."""
        drawn = np.frombuffer(bytearray(self._generator.bytes(shape.numel())), dtype=np.uint8)
        return torch.from_numpy(drawn).view(shape)

    def uniform(self, key: int, like: Tensor) -> Tensor:
        """Numbers of [0, 1) of the shape and device of `like`: for one key the same all through a step."""
        generator = torch.Generator(like.device).manual_seed(_mixed(self._seed, self._step, 0, key))
        return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a layer that gradient checkpointing computes twice: both times with the same bytes."""
        begun: list[Any] = []
        return self._noted(begun), self._repeated(begun)

    @contextmanager
    def _noted(self, begun: list[Any]) -> Iterator[None]:
        begun.append(self._generator.bit_generator.state)
        yield

    @contextmanager
    def _repeated(self, begun: list[Any]) -> Iterator[None]:
        later = self._generator.bit_generator.state
        self._generator.bit_generator.state = begun[0]
        yield
        self._generator.bit_generator.state = later

    def _begun(self, part: int) -> np.random.Generator:
        """The generator at the begin of a part of the step."""
        entropy = [self._seed, self._step, *([part] if part else [])]
        return np.random.Generator(np.random.SFC64(entropy))


def _mixed(*numbers: int) -> int:
    """A seed for torch that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class ByteDropout(nn.Module):
    """A drop-in for `nn.Dropout`.

    Attributes:
        p: probability of a zero, rounded to a multiple of 1/256.
    """

    def __init__(self, p: float, noise: Noise) -> None:
        super().__init__()
        self._cut = min(round(p * _LEVELS), _LEVELS - 1)  # at 1 nothing would be left to scale
        self.p = self._cut / _LEVELS
        self._noise = noise

    def forward(self, inputs: Tensor) -> Tensor:
        """Zero each value with probability `p` while training, and scale up the others."""
        if not self.training or self._cut == 0:
            return inputs
        with torch.no_grad():
            keep = self._noise.bytes(inputs.shape).to(inputs.device) >= self._cut
            factor = keep.to(inputs.dtype).mul_(1.0 / (1.0 - self.p))
        return inputs * factor


def use_fast_dropout(
    model: nn.Module, noise: Noise, *, p: float | None = None, as_bytes: bool = True
) -> None:
    """Replace every `nn.Dropout` of `model` in place, and leave out dropout inside attention.

    Dropout of attention probabilities costs a square of the length, and keeps torch from its fused
    kernel; its effect is in docs/RESULTS.md.

    Args:
        model: the classifier.
        noise: where random bytes come from.
        p: probability for all of them; None leaves each its own.
        as_bytes: whether they are drawn as bytes, which is faster on a CPU; else torch's own stay, with the same
            probability.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                inside = hasattr(module, "num_attention_heads") or hasattr(module, "n_heads")
                rate = 0.0 if inside else child.p if p is None else p
                setattr(module, name, ByteDropout(rate, noise) if as_bytes else nn.Dropout(rate))
        for name in ("dropout_prob", "attention_dropout"):  # read by fused attention
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
