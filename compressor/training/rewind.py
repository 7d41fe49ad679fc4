"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, arXiv 1912.05671).

A network is trained, its smallest weights go, those that stay go back to what they were at an early step, and the steps from there are
taken again, with the same rates and rows; so round after round. What is compared with a mask over frozen weights is the network of the
last round, whose weights are trained.

What differs: weights of the encoder's linears go, ranked all together; tables, biases and norms stay (Chen et al. 2020, arXiv 2007.12223, prune
BERT's tables too). The moments of Adam go back as well. The first network is usually a pretrained one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from maskpack.compressor.rewind_config import RewindConfig
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.train import State
from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint

_LOG = logging.getLogger(__name__)

TrainOnce = Callable[["Rewinding"], int]
"""Takes the steps of a run from what it loads, with it among the callbacks; returns the number of the last one."""


@dataclass(eq=False)
class Pruned:
    """Weights of linears of which some are 0 from now on.

    Attributes:
        weights: name -> weight of a linear.
        kept: name -> which of them stay.
    """

    weights: Mapping[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}

    @property
    def zeros(self) -> int:
        """Weights that are removed."""
        return sum(int((~kept).sum()) for kept in self.kept.values())

    @property
    def size(self) -> int:
        """Weights in all."""
        return sum(kept.numel() for kept in self.kept.values())

    @torch.no_grad()
    def prune(self, zeros: int) -> None:
        """Remove the smallest weights, over all linears together, until so many are removed.

        >>> pruned = Pruned({"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([2.0, -4.0])})
        >>> pruned.prune(2)
        >>> {name: weight.tolist() for name, weight in pruned.weights.items()}
        {'a': [3.0, 0.0], 'b': [0.0, -4.0]}
        """
        size = torch.cat([self._size_of(name).flatten() for name in self.weights])
        gone = torch.zeros(len(size), dtype=torch.bool, device=size.device)
        gone[size.topk(zeros, largest=False).indices] = True
        start = 0
        for name, kept in self.kept.items():
            self.kept[name] = ~gone[start : start + kept.numel()].view_as(kept)
            start += kept.numel()
        self.apply()

    def _size_of(self, name: str) -> Tensor:
        """Magnitudes; a weight that is removed is below all others."""
        return self.weights[name].detach().abs().masked_fill(~self.kept[name], -1.0)

    @torch.no_grad()
    def apply(self) -> None:
        """Set removed weights to 0."""
        for name, weight in self.weights.items():
            weight.mul_(self.kept[name])


class Rewinding(TrainerCallback):
    """Checkpoints in memory, of one step: kept in the first round, loaded in all others. In every step removed weights stay 0.

    Args:
        step: number of finished steps after which the state is kept; 0: before the first.
        pruned: the weights that stay 0.
    """

    def __init__(self, step: int, pruned: Pruned) -> None:
        self._step, self._pruned = step, pruned
        self._state: State | None = None
        self._kept: dict[str, Tensor] = {}

    def load(self, state: State) -> int:
        """In the first round nothing; later weights and moments of the step, the removed ones at 0."""
        self._state = state
        if not self._kept:
            self._keep(0)
            return 0
        with torch.no_grad():
            for name, tensor in _tensors(state, create=self._step > 0):
                if name in self._kept:
                    tensor.copy_(self._kept[name])
        self._pruned.apply()
        return self._step

    def save(self, state: State, step: int, *, now: bool) -> None:
        """Do nothing: only one process is asked to, and each keeps its own."""

    def on_step_end(self, step: int, steps: int) -> None:
        """After the optimiser's update, which moves removed weights too."""
        del steps
        self._pruned.apply()
        self._keep(step)

    def _keep(self, step: int) -> None:
        if step == self._step and not self._kept:
            assert self._state is not None
            self._kept = {name: tensor.detach().clone() for name, tensor in _tensors(self._state)}


def _tensors(state: State, *, create: bool = False) -> list[tuple[str, Tensor]]:
    """Trained parameters and their moments by name; with `create` moments are made where there are none yet."""
    found: list[tuple[str, Tensor]] = []
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            name, moments = names[id(parameter)], state.optimizer.state[parameter]
            if create and not moments:
                moments["step"] = parameter.new_zeros((), dtype=torch.float32)
                moments["exp_avg"] = torch.zeros_like(parameter)
                moments["exp_avg_sq"] = torch.zeros_like(parameter)
            found.append((name, parameter))
            found += [(f"{name}/{key}", tensor) for key, tensor in moments.items()]
    return found


def prune_in_rounds(
    base: nn.Module, config: RewindConfig, steps: int, train_once: TrainOnce
) -> tuple[Pruned, int]:
    """Train, prune and rewind until the asked share of the linears' weights is 0; the last network is trained to its end.

    Args:
        base: the encoder, trained in place.
        config: share of zeros, rounds, and the step to go back to.
        steps: of a round from the start.
        train_once: trains the classifier; see `TrainOnce`.

    Returns:
        The weights that are left, and the optimiser steps of all rounds.

    Raises:
        ConfigError: no step is left to train after the one to go back to, or a round would remove nothing.
    """
    rewind = config.rewind_step(steps)
    if rewind >= steps:
        raise ConfigError(
            f"`rewind` goes back to step {rewind}, and the run has {steps}",
            Hint("give a `rewind` below {steps}", steps=steps),
        )
    linears = {n: each for n, each in base.named_modules() if isinstance(each, nn.Linear)}
    pruned = Pruned({f"{name}.weight": each.weight for name, each in linears.items()})
    targets = _targets(config, pruned.size)
    rewinding = Rewinding(rewind, pruned)
    taken = train_once(rewinding)
    for number, zeros in enumerate(targets, start=1):
        pruned.prune(zeros)
        _LOG.info(
            "round %d of %d: %s of %s weights are 0",
            number,
            len(targets),
            f"{zeros:,}",
            f"{pruned.size:,}",
        )
        taken += train_once(rewinding) - rewind
    return pruned, taken


def _targets(config: RewindConfig, size: int) -> list[int]:
    """Weights that are removed after each round.

    Raises:
        ConfigError: a round would remove none.
    """
    targets = [round(config.share_after(n + 1) * size) for n in range(config.all_rounds)]
    if len({0, *targets}) <= len(targets):
        raise ConfigError(
            f"`rounds` is {config.all_rounds}, and {targets[-1]:,} of {size:,} weights go: a round would remove none",
            "give fewer `rounds`",
        )
    return targets
