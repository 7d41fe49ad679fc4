"""Options of whole units (attention heads, neurons) that a mask removes, each declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options
from maskpack.models.units import KINDS, LAYERS

_NAMES = (*KINDS, LAYERS)


class UnitOrder(StrEnum):
    """What ranks units: how much a loss needs them, or, to compare with, the size of their weights or chance."""

    FISHER = "fisher"
    MAGNITUDE = "magnitude"
    RANDOM = "random"


def _kinds(text: str) -> tuple[str, ...]:
    """The kinds that a text names, in the order in which a layer has them; empty where one is unknown or named twice."""
    named = [part.strip() for part in text.split(",")]
    known = tuple(kind for kind in _NAMES if kind in named)
    return known if len(known) == len(named) else ()


def _other_than_kinds(text: str) -> str | None:
    return None if _kinds(text) else f"{', '.join(_NAMES)}, or several with commas"


@dataclass(frozen=True)
class UnitConfig(Options):
    """Which kinds of units a mask removes, and how many of them stay, or how fast the graph is to be without them."""

    units: Annotated[
        str | None,
        Opt(
            "Whole units that the mask removes too: heads, neurons, layers, or several with commas.",
            check=_other_than_kinds,
            default="none",
            later=True,
        ),
    ] = None
    keep_units: Annotated[
        float | None,
        Opt(
            "Share of those units that stay, of each kind over all layers together.",
            within="(0, 1)",
            later=True,
        ),
    ] = None
    speedup: Annotated[
        float | None,
        Opt(
            "How many times as fast as with all units the graph is to be, as predicted; units go by their importance a millisecond.",
            within="(1, inf)",
            later=True,
        ),
    ] = None
    unit_costs: Annotated[
        str | None,
        Opt(
            "File with a measured cost model that predicts it.",
            default="one that ships: int8, a text of 128 tokens, one thread",
            path=True,
            later=True,
        ),
    ] = None

    unit_order: Annotated[
        UnitOrder,
        Opt(
            "What says which units go: fisher, how much the run's loss needs them; magnitude and random are for comparisons.",
            later=True,
        ),
    ] = UnitOrder.FISHER

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_units is not None and self.speedup is not None:
            raise ConfigError(
                "`keep_units` and `speedup` both say how many units stay", "give one of them"
            )
        if self.units is not None and self.keep_units is None and self.speedup is None:
            raise ConfigError(
                "`units` needs the share of them that stays, or a speed",
                "give `keep_units` or `speedup`",
            )
        if self.keep_units is not None and self.units is None:
            raise ConfigError(
                "`keep_units` is a share of units, and none are removed", "give `units`"
            )
        if self.speedup is not None and self.units is None:
            raise ConfigError(
                "`speedup` is reached without some units, and none are removed", "give `units`"
            )
        if self.unit_costs is not None and self.speedup is None:
            raise ConfigError(
                "`unit_costs` predict a speed, and none is asked for", "give `speedup`"
            )

        if self.unit_order is not UnitOrder.FISHER and self.units is None:
            raise ConfigError("`unit_order` ranks units, and none are removed", "give `units`")

    def unit_kinds(self) -> tuple[str, ...]:
        """Kinds of units that may be removed, `layers` last; empty where none are.

        >>> UnitConfig(units="layers,heads", speedup=2.0).unit_kinds()
        ('heads', 'layers')
        """
        return () if self.units is None else _kinds(self.units)

    def unit_shares(self) -> dict[str, float]:
        """Kind of units -> share of them that stays; empty where none are removed, or until a speed is reached.

        >>> UnitConfig(units="neurons,heads", keep_units=0.5).unit_shares()
        {'heads': 0.5, 'neurons': 0.5}
        """
        return {} if self.keep_units is None else dict.fromkeys(self.unit_kinds(), self.keep_units)
