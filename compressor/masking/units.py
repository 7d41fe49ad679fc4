"""Which whole units a task removes: measured on the run's own loss, ranked over all layers, removed in stages.

The importance of a unit is the Fisher information of a gate of 1 between the unit and what reads it, the sum over rows
of a squared gradient (Theis et al. 2018, arXiv 1801.05787; Kwon et al. 2022, arXiv 2204.09656):

    F_u = sum_r (dL_r / dg_u)^2

It estimates by how much the loss rises without the unit, needs no second derivative, and is in the same units in every
layer, so that units of one kind compete over all layers. It is measured in evaluation mode on labels and a teacher's
logits, before each stage anew, because what is left takes over the work of what is gone. After stage k of K

    1 - (1 - k / K)^3

of all units that are to go are gone (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1), from 10 % of the steps to 60 %. Scores of
single weights, the head and all else that is trained go on learning meanwhile, and alone after that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.train import Plan
from maskpack.formats import ConfigError, ModelError
from maskpack.formats.units import COLUMNS, UnitGroup, UnitPart, Units
from maskpack.models.families import family_of
from maskpack.models.placement import Placement, to_numpy, to_tensors
from maskpack.tasks.batches import Encoded

_LOG = logging.getLogger(__name__)

STAGES = 8
_BEGUN = 0.1  # of the steps: before, a new head has hardly learned and says little
_DONE = 0.6  # of the steps: the last unit goes, and the rest of the run is recovery
_FEWEST_ROWS, _MOST_ROWS = 256, 2048  # on which importance is measured
_SHARE_OF_ROWS = 1 / 4  # of all rows that the run learns from, measured in all stages together
_LARGEST_BATCH = 32
_DIVERGED = "lower `lr` or `head_lr`"
_KEPT_LAYERS = 8  # times as much memory a row, at least, where training would compute layers twice

Worth = NDArray[np.float64]
Bits = NDArray[np.bool_]


def chosen_groups(
    groups: Sequence[UnitGroup], masked: Sequence[str], config: FitConfig, *, model_type: str
) -> tuple[UnitGroup, ...]:
    """The groups whose units a run may remove: of the kinds that are asked for, with a mask on each of their linears.

    Args:
        groups: of the model.
        masked: names of the linears that get a mask.
        config: the options.
        model_type: architecture, for the error.

    Raises:
        ConfigError: there is none of a kind, or all of them would stay.
    """
    names, found = set(masked), list[UnitGroup]()
    for kind, share in config.unit_shares().items():
        of_kind = [group for group in groups if group.kind == kind]
        if not of_kind:
            raise ConfigError(
                f"it is not known where the {kind} of `{model_type}` lie", "leave `units` out"
            )
        whole = [group for group in of_kind if {part.name for part in group.parts} <= names]
        if not whole:
            given = [name for name in ("layers", "modules") if getattr(config, name) is not None]
            raise ConfigError(
                f"`{'` and `'.join(given)}` leave no layer whose {kind} are masked as a whole",
                "mask all linears of a layer, or leave `units` out",
            )
        total = sum(group.count for group in whole)
        if kept_of(total, share) == total:
            raise ConfigError(
                f"`keep_units` {share} of {total} {kind} is all of them", "give a smaller share"
            )
        found += whole
    return tuple(found)


def groups_with_gaps(units: Units | None, masked: Iterable[str]) -> Iterator[UnitGroup]:
    """The groups that lack a unit in a patch, and whose linears all get a mask.

    Args:
        units: of the patch; None: it knows of none.
        masked: names of the linears that get a mask.
    """
    names = set(masked)
    for group, kept in zip(
        *(((), ()) if units is None else (units.groups, units.kept)), strict=True
    ):
        if not kept.all() and {part.name for part in group.parts} <= names:
            yield group


def kept_of(total: int, share: float) -> int:
    """How many units stay: the share rounded to the nearest number, halves upwards, and at least one.

    >>> kept_of(8, 0.5), kept_of(5, 0.5), kept_of(5, 0.01)
    (4, 3, 1)
    """
    return max(1, math.floor(total * share + 0.5))


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


def without_weakest(worth: Sequence[Worth], kept: Sequence[Bits], count: int) -> list[Bits]:
    """Which units stay when `count` of all are gone: those that are gone already, then the least important ones.

    Args:
        worth: importance of each unit of each group.
        kept: which stay until now.
        count: how many units of all groups are to be gone; never fewer than are gone already.

    >>> worth = [np.array([3.0, 0.5]), np.array([1.0, 2.0])]
    >>> kept = [np.array([True, True]), np.array([True, False])]
    >>> [bits.tolist() for bits in without_weakest(worth, kept, 2)]
    [[True, False], [True, False]]
    """
    stays = np.concatenate(kept)
    order = np.argsort(np.where(stays, np.concatenate(worth), -np.inf), kind="stable")
    stays[order[:count]] = False
    ends = np.cumsum([len(bits) for bits in kept])[:-1]
    return [bits.copy() for bits in np.split(stays, ends)]


@dataclass(frozen=True, eq=False)
class UnitImportance:
    """Measures how much a run's loss needs each unit, see above.

    Attributes:
        model: the classifier.
        layers: parameter name -> masked linear.
        groups: of the units.
        encoded: the training rows.
        task_loss: of some rows: labels and the teacher's logits.
        plan: of the run.
        placement: precision, and processes, which share the rows.
    """

    model: Any
    layers: Mapping[str, MaskedLinear]
    groups: Sequence[UnitGroup]
    encoded: Encoded
    task_loss: TaskLoss
    plan: Plan
    placement: Placement

    def batches(self, step: int) -> list[NDArray[np.intp]]:
        """Rows of the stage after `step`, other ones in each stage; rows of like length share a batch."""
        rng = np.random.default_rng([self.plan.seed, step])
        count = measured_rows(self.plan, len(self.encoded))
        rows = rng.choice(len(self.encoded), count, replace=False)
        rows = rows[np.argsort(self.encoded.lengths[rows], kind="stable")]
        size = min(_LARGEST_BATCH, self.plan.batch_size // self.plan.step.accumulate)
        size = max(1, size // _KEPT_LAYERS if self.plan.step.gradient_checkpointing else size)
        return [rows[first : first + size] for first in range(0, count, size)]

    def of(self, batches: Sequence[NDArray[np.intp]]) -> list[Worth]:
        """Importance `(count)` of the units of each group, the same in all processes; each measures some batches."""
        processes, training = self.placement.processes, self.model.training
        found = [np.zeros(group.count) for group in self.groups]
        self.model.eval()
        for rows in batches[processes.rank :: processes.count]:
            squares = [np.square(each).sum(axis=0) for each in self._gradients(rows)]
            found = [total + own for total, own in zip(found, squares, strict=True)]
        self.model.train(training)
        told = processes.gather(found)
        sums = [np.sum(each, axis=0) for each in zip(*told, strict=True)]
        if not all(np.isfinite(each).all() for each in sums):
            raise ModelError("training diverged: the importance of a unit is no number", _DIVERGED)
        return sums

    def _gradients(self, rows: NDArray[np.intp]) -> list[Worth]:
        """`dL_r / dg_u`, `(b, count)`, of each group."""
        inputs = to_tensors(self.encoded.feeds(rows), self.model)
        # float16 has no room for the gradients of a loss that nothing scales
        narrow = self.placement.precision != "fp16"
        forward = self.placement.training() if narrow else self.placement.backward()
        with torch.enable_grad(), self._gates(len(rows)) as gates:
            with forward:
                logits = self.model(**inputs).logits.float()
            loss = len(rows) * self.task_loss(logits, rows)  # a sum over rows
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
    """Removes units in stages until the wanted share of each kind stays; a removed one does not come back.

    Args:
        layers: parameter name -> masked linear.
        groups: of the units; all of their linears are in `layers`.
        keep: kind -> share of its units that stays, rounded as `kept_of` says; of a kind that is not there no unit goes
            but those that are gone in a patch that the run starts from.
        importance: measures it.
    """

    def __init__(
        self,
        layers: Mapping[str, MaskedLinear],
        groups: Sequence[UnitGroup],
        *,
        keep: Mapping[str, float],
        importance: UnitImportance,
    ) -> None:
        self.importance = importance
        self._layers, self._groups, self._keep = layers, tuple(groups), keep
        # on the processor, where a checkpoint writes into them
        self._kept = tuple(torch.ones(group.count, dtype=torch.bool) for group in groups)
        self._applied = 0

    @property
    def stages(self) -> int:
        """How often importance is measured in a run of many steps."""
        return STAGES if self._keep else 0

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
        if share is None or not self._keep:
            return
        worth = self.importance.of(self.importance.batches(step))
        for kind, keep in self._keep.items():
            places = [place for place, group in enumerate(self._groups) if group.kind == kind]
            total = sum(self._groups[place].count for place in places)
            going = round(share * (total - kept_of(total, keep)))
            self._remove([worth[place] for place in places], places, going)
            _LOG.debug("after step %d: %d of %d %s are removed", step, going, total, kind)
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

    def _remove(self, worth: Sequence[Worth], places: Sequence[int], going: int) -> None:
        kept = [self._kept[place].numpy() for place in places]
        left = without_weakest(worth, kept, going)
        for place, bits in zip(places, left, strict=True):
            self._kept[place].copy_(torch.from_numpy(bits))
