"""Which whole units a task removes: measured on the run's own loss, ranked over all layers, removed in stages.

The importance of a unit is the Fisher information of a gate of 1 between the unit and what reads it, the sum over rows
of a squared gradient (Theis et al. 2018, arXiv 1801.05787; Kwon et al. 2022, arXiv 2204.09656):

    F_u = sum_r (dL_r / dg_u)^2

It estimates by how much the loss rises without the unit, needs no second derivative, and is in the same units in every
layer, so that units of one kind compete over all layers (`unit_targets.py`). It is measured in evaluation mode on labels and a teacher's
logits, before each stage anew, because what is left takes over the work of what is gone. After stage k of K

    1 - (1 - k / K)^3

of all units that are to go are gone (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1), from 10 % of the steps to 60 %. Scores of
single weights, the head and all else that is trained go on learning meanwhile, and alone after that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.unit_rankings import (
    MagnitudeRanking,
    RandomRanking,
    UnitRanking,
)
from maskpack.compressor.masking.unit_targets import Importance, UnitTarget, Worth
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import Drawn
from maskpack.compressor.training.train import Plan
from maskpack.compressor.unit_config import UnitOrder
from maskpack.formats import ModelError
from maskpack.formats.units import COLUMNS, UnitGroup, UnitPart, Units
from maskpack.models.families import family_of
from maskpack.models.placement import to_numpy, to_tensors

_LOG = logging.getLogger(__name__)

STAGES = 8
_BEGUN = 0.1  # of the steps: before, a new head has hardly learned and says little
_DONE = 0.6  # of the steps: the last unit goes, and the rest of the run is recovery
_FEWEST_ROWS, _MOST_ROWS = 256, 2048  # on which importance is measured
_SHARE_OF_ROWS = 1 / 4  # of all rows that the run learns from, measured in all stages together
_LARGEST_BATCH = 32
_DIVERGED = "lower `lr` or `head_lr`"
_KEPT_LAYERS = 8  # times as much memory a row, at least, where training would compute layers twice


def stages_of(steps: int) -> dict[int, float]:
    """Step after which a stage comes -> share of the units to be removed that are gone after it.

    >>> {step: round(share, 3) for step, share in stages_of(400).items()}
    {40: 0.33, 69: 0.578, 97: 0.756, 126: 0.875, 154: 0.947, 183: 0.984, 211: 0.998, 240: 1.0}
    >>> stages_of(1)
    {1: 1.0}
    """
    times = [_BEGUN + (_DONE - _BEGUN) * number / (STAGES - 1) for number in range(STAGES)]
    shares = [1.0 - (1.0 - number / STAGES) ** 3 for number in range(1, STAGES + 1)]
    return {max(1, round(steps * t)): share for t, share in zip(times, shares, strict=True)}


def measured_rows(plan: Plan, rows: int) -> int:
    """Training rows on which importance is measured in a stage."""
    share = plan.steps * plan.batch_size * _SHARE_OF_ROWS / STAGES
    return min(rows, _MOST_ROWS, max(_FEWEST_ROWS, int(share)))


class UnitImportance(UnitRanking):
    """Measures how much a run's loss needs each unit, see above."""

    def at(self, step: int) -> Importance:
        """See `UnitRanking`."""
        return self.of(self.batches(step))

    def batches(self, step: int) -> list[NDArray[np.intp]]:
        """Rows of the stage after `step`, other ones in each stage; rows of like length share a batch."""
        rng = np.random.default_rng([self.plan.seed, step])
        count = measured_rows(self.plan, len(self.encoded))
        rows = rng.choice(len(self.encoded), count, replace=False)
        rows = rows[np.argsort(self.encoded.lengths[rows], kind="stable")]
        size = min(_LARGEST_BATCH, self.plan.batch_size // self.plan.step.accumulate)
        size = max(1, size // _KEPT_LAYERS if self.plan.step.gradient_checkpointing else size)
        return [rows[first : first + size] for first in range(0, count, size)]

    def of(self, batches: Sequence[NDArray[np.intp]]) -> Importance:
        """Importance of the units of each group, the same in all processes; each measures some batches."""
        processes, training = self.placement.processes, self.model.training
        found = [np.zeros(group.count) for group in self.groups]
        layers = sorted({group.layer for group in self.groups})
        found += [np.zeros(len(self.groups)), np.zeros(len(layers))]
        self.model.eval()
        for rows in batches[processes.rank :: processes.count]:
            gradients = self._gradients(rows)
            together = np.stack([each.sum(axis=1) for each in gradients])  # (groups, b)
            members = np.array([[g.layer == n for g in self.groups] for n in layers], dtype=float)
            gates = [*gradients, together.T, (members @ together).T]
            squares = [np.square(each).sum(axis=0) for each in gates]
            found = [total + own for total, own in zip(found, squares, strict=True)]
        self.model.train(training)
        told = processes.gather(found)
        sums = [np.sum(each, axis=0) for each in zip(*told, strict=True)]
        if not all(np.isfinite(each).all() for each in sums):
            raise ModelError("training diverged: the importance of a unit is no number", _DIVERGED)
        *units, sublayers, whole = sums
        told_layers = dict(zip(layers, whole.tolist(), strict=True))
        return Importance(tuple(units), sublayers, told_layers)

    def _gradients(self, rows: NDArray[np.intp]) -> list[Worth]:
        """`dL_r / dg_u`, `(b, count)`, of each group."""
        encoded = self.encoded.of_epoch(self.plan.seed, 0)
        inputs = to_tensors(encoded.feeds(rows), self.model)
        # float16 has no room for the gradients of a loss that nothing scales
        narrow = self.placement.precision != "fp16"
        forward = self.placement.training() if narrow else self.placement.backward()
        with torch.enable_grad(), self._gates(len(next(iter(inputs.values())))) as gates:
            with forward:
                logits = self.model(**inputs).logits.float()
            # a sum over rows
            loss = len(rows) * self.task_loss(logits, rows, Drawn.of(inputs), encoded)
            with self.placement.backward():
                gradients = torch.autograd.grad(loss, gates)
        return [to_numpy(each.float()).astype(np.float64) for each in gradients]

    @contextmanager
    def _gates(self, rows: int) -> Iterator[list[Tensor]]:
        """Gates of 1, `(b, count)` for each group, before the linears that read its units."""
        gates, hooks = list[Tensor](), []
        time_first = family_of(self.model.config.model_type).time_first
        for group in self.groups:
            part = _reading(group)
            layer = self.layers[part.name]
            gate = layer.weight.new_ones(rows, group.count).requires_grad_()
            hook = partial(_through_gate, gate=gate, width=part.width, time_first=time_first)
            hooks.append(layer.register_forward_pre_hook(hook))
            gates.append(gate)
        try:
            yield gates
        finally:
            for each in hooks:
                each.remove()


RANKINGS: dict[UnitOrder, type[UnitRanking]] = {
    UnitOrder.FISHER: UnitImportance,
    UnitOrder.MAGNITUDE: MagnitudeRanking,
    UnitOrder.RANDOM: RandomRanking,
}


def _reading(group: UnitGroup) -> UnitPart:
    """The part of the linear that reads the units of a group."""
    (part,) = (part for part in group.parts if part.axis == COLUMNS)
    return part


def _through_gate(
    _: nn.Module, inputs: tuple[Tensor, ...], *, gate: Tensor, width: int, time_first: bool
) -> tuple[Tensor, ...]:
    """Inputs `(b, s, i)` of a linear, or `(s, b, i)`, each value times the gate of its row and unit."""
    wide = gate[:, :, None].expand(-1, -1, width).flatten(1)  # (b, i)
    return (inputs[0] * (wide[None] if time_first else wide[:, None]), *inputs[1:])


class UnitRemoval(TrainerCallback):
    """Removes units in stages until a target is reached; a removed one does not come back.

    Args:
        layers: parameter name -> masked linear.
        groups: of the units; all of their linears are in `layers`.
        target: how many go, and which of them; beside those that are gone in a patch that the run starts from.
        ranking: says what a unit is worth.
    """

    def __init__(
        self,
        layers: Mapping[str, MaskedLinear],
        groups: Sequence[UnitGroup],
        *,
        target: UnitTarget,
        ranking: UnitRanking,
    ) -> None:
        self.ranking = ranking
        self._layers, self._groups, self._target = layers, tuple(groups), target
        # on the processor, where a checkpoint writes into them
        self._kept = tuple(torch.ones(group.count, dtype=torch.bool) for group in groups)
        self._applied = 0

    @property
    def stages(self) -> int:
        """How often importance is measured in a run of many steps."""
        return STAGES if self._target.removes else 0

    @property
    def units(self) -> Units:
        """The units as they are now."""
        return Units(self._groups, tuple(bits.numpy().copy() for bits in self._kept))

    def state(self) -> Mapping[str, Tensor]:
        """Which units stay."""
        pairs = zip(self._groups, self._kept, strict=True)
        return {f"{group.kind}.{group.layer}": bits for group, bits in pairs}

    def start_from(self, units: Units) -> None:
        """Remove the units that are gone in another patch of the same model."""
        gone = {(g.kind, g.layer): bits for g, bits in zip(units.groups, units.kept, strict=True)}
        for group, bits in zip(self._groups, self._kept, strict=True):
            if (group.kind, group.layer) in gone:
                bits.copy_(torch.from_numpy(gone[group.kind, group.layer]))
        self.apply()

    def on_step_begin(self, step: int) -> None:
        """Make the weights 0 whose units are gone in the checkpoint that the run goes on from."""
        del step
        self._settle()

    def on_step_end(self, step: int, steps: int) -> None:
        """Measure and remove, if a stage comes after this step."""
        share = stages_of(steps).get(step)
        if share is None or not self._target.removes:
            return
        found = self.ranking.at(step)
        kept = [bits.numpy() for bits in self._kept]
        for bits, left in zip(
            self._kept, self._target.left(found, self._groups, kept, share), strict=True
        ):
            bits.copy_(torch.from_numpy(left))
        _LOG.debug("after step %d: %d units are removed", step, self.units.removed)
        self.apply()

    def on_train_end(self) -> None:
        """As at the beginning of a step: a run may go on from its last one."""
        self._settle()

    def apply(self) -> None:
        """Make the weights of all removed units 0."""
        self._applied = self.units.removed
        shapes = {name: tuple(layer.weight.shape) for name, layer in self._layers.items()}
        for name, mask in self.units.masks(shapes).items():
            if not mask.all():
                self._layers[name].remove_units(torch.from_numpy(mask))

    def _settle(self) -> None:
        if self.units.removed != self._applied:
            self.apply()
