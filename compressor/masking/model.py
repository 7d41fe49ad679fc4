"""A classifier over a backbone with masked linears, and its scores back to bits.

`build_masked_model` chooses the masked layers, the other trained parameters and the callbacks. `freeze` makes the
patch that is evaluated and stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.config import FitConfig
from maskpack.compressor.mask_config import SCORE_INITS
from maskpack.compressor.masking.gates import Gate
from maskpack.compressor.masking.learner import Learning, MaskLearner
from maskpack.compressor.masking.linear import MaskedLinear, mask_linears
from maskpack.compressor.masking.patterns import MaskPattern
from maskpack.compressor.masking.rounding import SimulatedRounding
from maskpack.compressor.masking.score_init import ScoreInit, initial_scores, worth_of
from maskpack.compressor.masking.sparsity import ScoreAverage, TailAverage, target_sparsity
from maskpack.compressor.masking.trunk import above_trunk
from maskpack.compressor.masking.unit_choice import groups_with_gaps
from maskpack.compressor.masking.unit_targets import UnitTarget
from maskpack.compressor.masking.units import RANKINGS, UnitRemoval
from maskpack.compressor.training.callbacks import Noise, TrainerCallback, use_fast_dropout
from maskpack.compressor.training.loss import TaskLoss
from maskpack.compressor.training.train import Group, Plan
from maskpack.compressor.unit_config import UnitOrder
from maskpack.formats import Backbone, BitMask, ConfigError, ModelError, Patch
from maskpack.formats.channels import Divisors
from maskpack.formats.units import UnitGroup, Units
from maskpack.models.build import ParameterShapes, base_of, head_parameters
from maskpack.models.linears import layer_of
from maskpack.models.placement import Placement, to_numpy
from maskpack.tasks.batches import Encoded

if TYPE_CHECKING:
    from maskpack.compressor.masking.snapshots import Snapshot


class KeepsPatches(Protocol):
    """Has patches that a run leaves on its way."""

    def taken(self) -> tuple[Snapshot, ...]:
        """Them, after the last step."""


@dataclass(frozen=True, eq=False)
class MaskedModel:
    """A model with masks, and how its parts are trained.

    Attributes:
        model: the classifier.
        layers: parameter name -> masked linear.
        dense: names of the base model's other parameters that are trained.
        groups: all trained parameters, by learning rate.
        callbacks: noise, averages, steering of the size, and removal of units.
        units: that removal; None: no unit is removed.
        rounding: the callback that simulates the rounding of exported graphs; None: none is simulated.
        snapshots: has the masks that were frozen on the way; None: none is kept.
    """

    model: Any
    layers: Mapping[str, MaskedLinear]
    dense: tuple[str, ...]
    groups: list[Group]
    callbacks: list[TrainerCallback]
    units: UnitRemoval | None = None
    rounding: SimulatedRounding | None = None
    snapshots: KeepsPatches | None = None


def masked_names(names: Iterable[str], config: FitConfig) -> list[str]:
    """The linears that the options `layers` and `modules` select for masks.

    Raises:
        ConfigError: none is left, or a part names nothing.
    """
    chosen, numbers = list(names), config.layer_numbers()
    if numbers is not None:
        missing = sorted(numbers - {layer_of(name) for name in chosen})
        if missing:
            raise ConfigError(f"`layers` names layer {missing[0]}, which the encoder does not have")
        chosen = [name for name in chosen if layer_of(name) in numbers]
    if config.trunk_layers is not None:
        chosen = above_trunk(chosen, config.trunk_layers)
    if config.modules is not None:
        parts = [part.strip() for part in config.modules.split(",")]
        for part in parts:
            if not any(part in name.split(".") for name in chosen):
                raise ConfigError(
                    f"`modules` names `{part}`, which is part of no linear's name",
                    f"one is `{next(iter(names), '')}`",
                )
        chosen = [name for name in chosen if set(parts) & set(name.split("."))]
    if not chosen:
        raise ConfigError(f"`layers` is `{config.layers}`, which leaves no linear to mask")
    return chosen


def trained_dense(shapes: ParameterShapes, config: FitConfig) -> tuple[str, ...]:
    """Names of the biases and LayerNorm parameters that the options train; with a trunk, those in layers above it."""
    trunk = config.trunk_layers
    return tuple(
        name
        for name in shapes.dense
        if (config.train_bias if name in shapes.biases_of_linears else config.train_norm)
        and (trunk is None or (layer_of(name) or 0) >= trunk)
    )


def extra_bytes(shapes: ParameterShapes, config: FitConfig) -> int:
    """Bytes that trained biases, LayerNorm parameters and scales add to a patch."""
    dense = sum(2 * shapes.dense[name] for name in trained_dense(shapes, config))
    if not config.train_scales:
        return dense
    return dense + sum(2 * shapes.linears[n][0] for n in masked_names(shapes.linears, config))


def sparsity_of(shapes: ParameterShapes, config: FitConfig) -> float | None:
    """Share of zeros to reach, or None if the margin alone decides.

    Raises:
        ConfigError: the options ask for a size that cannot be met.
    """
    sizes = [shapes.linears[name] for name in masked_names(shapes.linears, config)]
    other = shapes.head_bytes + extra_bytes(shapes, config)
    weights = sum(rows * width for rows, width in sizes)
    return target_sparsity(config, weights=weights, other_bytes=other)


def build_masked_model(
    model: Any,
    shapes: ParameterShapes,
    config: FitConfig,
    *,
    pattern: MaskPattern,
    plan: Plan,
    rows: Encoded,
    task_loss: TaskLoss,
    sparsity: float | None,
    byte_dropout: bool = True,
) -> MaskedModel:
    """Put masks into a classifier of `build_classifier`, in place.

    Args:
        model: the classifier.
        shapes: of its linears and the rest, by name.
        config: the options.
        pattern: what a score stands for.
        plan: a score's first height is stated in the noise of its rates.
        rows: for score initialisations that use gradients.
        task_loss: for the same.
        sparsity: share of zeros to reach, or None.
        byte_dropout: as of the placement.
    """
    noise = Noise(config.seed)
    use_fast_dropout(model, noise, p=config.dropout, as_bytes=byte_dropout)
    learner: MaskLearner = config.estimator_entry.load()
    gate, height = partial(_gate, learner, pattern, noise), start_height(config, plan)
    starts = dict.fromkeys(masked_names(shapes.linears, config), height)
    gains, base = config.train_scales, base_of(model)
    masked = mask_linears(base, starts, gate=gate, gains=gains, pattern=pattern)
    learning = Learning(masked, config, plan, noise, sparsity=sparsity, height=height)
    if learner.first is not None:
        learner.first(learning)
    elif config.score_init != "constant" or learner.logits:
        _set_scores(learning, _gradients(model, learning, rows, task_loss), logits=learner.logits)
    dense = trained_dense(shapes, config)
    callbacks = [noise, *_steering(learner, learning)]
    return MaskedModel(model, masked, dense, _groups(model, masked, dense, config), callbacks)


def _gate(learner: MaskLearner, pattern: MaskPattern, noise: Noise, number: int) -> Gate:
    """The gate of a linear, whose numbers differ from those of every other linear."""
    return pattern.gate(learner.gate(partial(noise.uniform, number)))


@torch.no_grad()
def start_from(masked: MaskedModel, patch: Patch, *, height: float) -> None:
    """Let a model start where a patch of the same shapes ended, in place.

    A removed weight starts as far below the threshold as a kept one starts above it, so that it can return.

    Args:
        masked: from `build_masked_model`.
        patch: mask, head, if it has one, and other trained tensors; those that the model does not train are left out.
        height: distance of a score from the threshold.
    """
    base = dict(base_of(masked.model).named_parameters())
    for name, layer in masked.layers.items():
        if name in patch.masks:
            kept = torch.from_numpy(patch.masks[name].to_bool()).to(layer.weight)
            layer.start_removed(layer.pattern.gone(kept), height)
        if layer.gain is not None and name in patch.gains:
            layer.gain.copy_(torch.from_numpy(patch.gains[name].astype("f4")))
    for name, parameter in head_parameters(masked.model).items() if patch.head else ():
        parameter.copy_(torch.from_numpy(patch.head[name].astype("f4")))
    for name in masked.dense:
        if name in patch.dense:
            base[name].copy_(torch.from_numpy(patch.dense[name].astype("f4")))


def with_units(
    masked: MaskedModel,
    groups: Sequence[UnitGroup],
    target: UnitTarget,
    order: UnitOrder,
    *,
    plan: Plan,
    rows: Encoded,
    task_loss: TaskLoss,
    placement: Placement,
    start: Units | None,
) -> MaskedModel:
    """The model with a callback that removes units in stages; as it is where there are none.

    Args:
        masked: from `build_masked_model`.
        groups: of the units that may go, see `chosen_groups`.
        target: how many of them go.
        order: what ranks them.
        plan: of the run.
        rows: on which importance is measured.
        task_loss: with which it is measured.
        placement: where.
        start: units of the patch that the run starts from: those that are gone stay gone. None: there are none.
    """
    known = {(group.kind, group.layer) for group in groups}
    gaps = groups_with_gaps(start, masked.layers)
    groups = (*groups, *(group for group in gaps if (group.kind, group.layer) not in known))
    if not groups:
        return masked
    ranking = RANKINGS[order](masked.model, masked.layers, groups, rows, task_loss, plan, placement)
    removal = UnitRemoval(masked.layers, groups, target=target, ranking=ranking)
    if start is not None:
        removal.start_from(start)
    return replace(masked, callbacks=[*masked.callbacks, removal], units=removal)


def with_rounding(
    masked: MaskedModel,
    backbone: Backbone,
    divisors: Divisors | None,
    *,
    first: int,
    dtype: torch.dtype,
) -> MaskedModel:
    """The model with a callback that simulates the rounding of int8 graphs; as it is without divisors.

    Args:
        masked: from `with_units`: rounding leaves out what that removes.
        backbone: the integers.
        divisors: of outlier channels; None: the run simulates no rounding.
        first: step, from 0, in which rounding begins.
        dtype: in which a step multiplies.
    """
    if divisors is None:
        return masked
    base = base_of(masked.model)
    rounding = SimulatedRounding(base, masked.layers, backbone, divisors, first=first, dtype=dtype)
    return replace(masked, callbacks=[*masked.callbacks, rounding], rounding=rounding)


def start_height(config: FitConfig, plan: Plan) -> float:
    """Distance of the first scores from the threshold: the margin in the noise of the run's rates."""
    return config.flip_margin * config.score_lr * plan.drift()


def _gradients(
    model: Any, learning: Learning, rows: Encoded, task_loss: TaskLoss
) -> Mapping[str, Tensor]:
    """The gradients that the initialisation asks for."""
    start: ScoreInit = SCORE_INITS[learning.config.score_init]
    if start.gradients is None:
        return {}
    return start.gradients(model, learning.layers, learning.plan, rows, task_loss)


@torch.no_grad()
def _set_scores(learning: Learning, gradients: Mapping[str, Tensor], *, logits: bool) -> None:
    """Give every score the value of the initialisation."""
    config, masked = learning.config, learning.layers
    pattern = next(iter(masked.values())).pattern
    start: ScoreInit = SCORE_INITS[config.score_init]
    weights = {name: layer.weight for name, layer in masked.items()}
    worth = worth_of(start, weights, gradients=gradients, seed=config.seed, pattern=pattern)
    share = 0.0 if config.levels else learning.sparsity or 0.0
    scores = initial_scores(start, worth, height=learning.height, sparsity=share, drawn=logits)
    dead = pattern.dead_score(learning.height)
    for name, layer in masked.items():
        layer.score.copy_(scores[name])
        if dead is not None:
            layer.score.masked_fill_(~layer.live(), dead)


def _groups(
    model: Any, masked: Mapping[str, MaskedLinear], dense: Iterable[str], config: FitConfig
) -> list[Group]:
    """Trained parameters: scores, head, and the rest. All others are frozen."""
    parameters = dict(base_of(model).named_parameters())
    rest: list[nn.Parameter] = [parameters[name] for name in dense]
    rest += [layer.gain for layer in masked.values() if layer.gain is not None]
    for parameter in rest:
        parameter.requires_grad = True
    scores = [layer.score for layer in masked.values()]
    groups = [Group(list(head_parameters(model).values()), config.head_lr)]
    if config.estimator_entry.learns:
        alive = partial(_alive, list(masked.values()))
        groups.insert(0, Group(scores, config.score_lr, config.floor, alive))
    else:
        for score in scores:
            score.requires_grad = False
    return [*groups, Group(rest, config.dense_lr)] if rest else groups


def _alive(layers: Sequence[MaskedLinear]) -> list[Tensor | None]:
    return [layer.alive() for layer in layers]


def _steering(learner: MaskLearner, learning: Learning) -> list[TrainerCallback]:
    """Callbacks that steer the scores, in the order in which they act."""
    layers, config = list(learning.layers.values()), learning.config
    averages: list[TrainerCallback] = [ScoreAverage(layers, config.ema)] if config.ema else []
    if config.tail:
        averages = [TailAverage(layers, round(learning.plan.steps * (1.0 - config.tail)))]
    return [*averages, *learner.steer(learning)]


_LEAST_GAIN = 2.0**-14  # smallest normal float16


def freeze(
    model: Any,
    masked: Mapping[str, MaskedLinear],
    dense: Iterable[str] = (),
    units: Units | None = None,
) -> Patch:
    """The learned masks as bits; the head and other trained parameters as float16.

    Args:
        model: the trained classifier.
        masked: parameter name -> masked linear, from `mask_linears`.
        dense: names of the base model's biases and LayerNorm parameters that were trained.
        units: which units stay; the masks have the zeros of the others already. None: none was removed.

    Raises:
        ModelError: training diverged: a value is not finite.
    """
    base = dict(base_of(model).named_parameters())
    for name, layer in masked.items():
        # the mask of a score that is no number would remove its weight
        _check_finite(name, not bool(layer.live_scores().isnan().any()))
    masks = {name: BitMask.from_bool(to_numpy(layer.keep())) for name, layer in masked.items()}
    gains = {
        name: _half(name, layer.gain.clamp(min=_LEAST_GAIN))
        for name, layer in masked.items()
        if layer.gain is not None
    }
    head = {name: _half(name, value) for name, value in head_parameters(model).items()}
    trained = {name: _half(name, base[name]) for name in dense}
    return Patch(masks, head, trained, gains, units)


def _half(name: str, tensor: Tensor) -> NDArray[np.float16]:
    value = to_numpy(tensor).astype(np.float16)
    _check_finite(name, bool(np.isfinite(value).all()))
    return value


def _check_finite(name: str, finite: bool) -> None:
    if not finite:
        raise ModelError(
            f"training diverged: `{name}` holds a value that is not finite",
            "lower `lr` or `head_lr`",
        )
