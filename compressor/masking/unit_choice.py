"""What the options of a run choose of a model's units: groups, a target, a cost model. Refuses what cannot be reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.unit_targets import (
    KeptShares,
    PredictedSpeed,
    UnitTarget,
    kept_of,
    whole_layers,
)
from maskpack.formats import ConfigError
from maskpack.formats.unit_costs import UnitCosts, UnitShape, default_rates
from maskpack.formats.units import UnitGroup, Units
from maskpack.models.units import KINDS, LAYERS, unit_groups, unit_shape


@dataclass(frozen=True, eq=False)
class ChosenUnits:
    """Units of a run.

    Attributes:
        groups: of which some are removed.
        target: how many of them, and which.
        costs: the cost model of the model's graphs; None: it has no units.
    """

    groups: tuple[UnitGroup, ...] = ()
    target: UnitTarget = field(default_factory=lambda: KeptShares({}))
    costs: UnitCosts | None = None


def choose_units(config: FitConfig, masked: Sequence[str], model: Any) -> ChosenUnits:
    """What the options choose.

    Args:
        config: the options.
        masked: names of the linears that get a mask.
        model: configuration of transformers.

    Raises:
        ConfigError: a kind that is not there, a speed out of reach, costs of another shape.
    """
    groups = chosen_groups(unit_groups(model), masked, config, model_type=model.model_type)
    costs = costs_for(config, unit_shape(model))
    return ChosenUnits(groups, target_of(config, groups, costs), costs)


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
    names, found = set(masked), dict[tuple[str, int], UnitGroup]()
    for kind in config.unit_kinds():
        parts = KINDS if kind == LAYERS else (kind,)
        of_kind = [group for part in parts for group in groups if group.kind == part]
        if not of_kind:
            raise ConfigError(
                f"it is not known where the {kind} of `{model_type}` lie", "leave `units` out"
            )
        whole = [group for group in of_kind if {part.name for part in group.parts} <= names]
        total = sum(group.count for group in whole)
        if kind == LAYERS:
            total = len(whole_layers(whole))
        if not total:
            raise ConfigError(
                f"`{'` and `'.join(_limits(config))}` leave no layer whose {_said(kind)} masked as a whole",
                "mask all linears of a layer, or leave `units` out",
            )
        share = config.keep_units
        if share is not None and kept_of(total, share) == total:
            raise ConfigError(
                f"`keep_units` {share} of {total} {kind} is all of them", "give a smaller share"
            )
        found |= {(group.kind, group.layer): group for group in whole}
    return tuple(sorted(found.values(), key=lambda group: KINDS.index(group.kind)))


def _limits(config: FitConfig) -> list[str]:
    """The options that leave linears without a mask."""
    limits = {"layers": config.layers, "trunk": config.trunk_layers, "modules": config.modules}
    return [name for name, value in limits.items() if value is not None]


def _said(kind: str) -> str:
    return "linears are" if kind == LAYERS else f"{kind} are"


def costs_for(config: FitConfig, shape: UnitShape | None) -> UnitCosts | None:
    """The cost model that the options name, or the one that ships; None for a model without units.

    Raises:
        ConfigError: a file that cannot be read, or of another shape.
    """
    if shape is None:
        return None
    if config.unit_costs is None:
        return default_rates().costs(shape)
    costs = UnitCosts.read(Path(config.unit_costs))
    costs.check_shape(shape, name=config.unit_costs)
    return costs


def target_of(
    config: FitConfig, groups: Sequence[UnitGroup], costs: UnitCosts | None
) -> UnitTarget:
    """What the options ask for.

    Args:
        config: the options.
        groups: see `chosen_groups`.
        costs: of the model; None: it has no units.

    Raises:
        ConfigError: a speed that is out of reach.
    """
    if config.speedup is None:
        return KeptShares(config.unit_shares())
    assert costs is not None
    target = PredictedSpeed(costs, config.speedup, config.unit_kinds())
    most = math.floor(100 * target.most(groups)) / 100
    if config.speedup > most:
        raise ConfigError(
            f"`speedup` {config.speedup:g} is out of reach: without any of the units that may go the graph is "
            f"predicted to be {most:.2f} times as fast",
            "give a smaller `speedup`, or more kinds of `units`",
        )
    return target


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
