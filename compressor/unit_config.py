"""Options of whole units (attention heads, neurons) that a mask removes, each declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options
from maskpack.models.units import KINDS


def _kinds(text: str) -> tuple[str, ...]:
    """The kinds that a text names, in the order in which a layer has them; empty where one is unknown or named twice."""
    named = [part.strip() for part in text.split(",")]
    known = tuple(kind for kind in KINDS if kind in named)
    return known if len(known) == len(named) else ()


def _other_than_kinds(text: str) -> str | None:
    return None if _kinds(text) else f"{', '.join(KINDS)}, or both with a comma"


@dataclass(frozen=True)
class UnitConfig(Options):
    """Which kinds of units a mask removes, and how many of them stay."""

    units: Annotated[
        str | None,
        Opt(
            "Whole units that the mask removes too: heads, neurons or heads,neurons.",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units is not None and self.keep_units is None:
            raise ConfigError("`units` needs the share of them that stays", "give `keep_units`")
        if self.keep_units is not None and self.units is None:
            raise ConfigError(
                "`keep_units` is a share of units, and none are removed", "give `units`"
            )

    def unit_shares(self) -> dict[str, float]:
        """Kind of units -> share of them that stays; empty where none are removed.

        >>> UnitConfig(units="neurons,heads", keep_units=0.5).unit_shares()
        {'heads': 0.5, 'neurons': 0.5}
        """
        if self.units is None or self.keep_units is None:
            return {}
        return dict.fromkeys(_kinds(self.units), self.keep_units)
