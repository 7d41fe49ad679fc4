"""Options of iterative magnitude pruning with rewinding, a baseline that trains weights. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from maskpack.formats.options import Opt, Options

_FIFTH = 0.2  # of the weights that are left, in a round (Frankle & Carbin 2019)
_EARLY = 20  # the usual step to go back to is the steps over this


@dataclass(frozen=True)
class RewindConfig(Options):
    """How many weights go, in how many rounds, and what the others go back to."""

    sparsity: Annotated[
        float | None,
        Opt(
            "Share of the linears' weights that imp removes.",
            within="(0, 1)",
            default="",
            later=True,
        ),
    ] = None
    rounds: Annotated[
        int | None,
        Opt(
            "Rounds of imp: in each the smallest weights go, the others are rewound and trained again.",
            within="(0, inf)",
            default="so many that at most a fifth goes in each",
            later=True,
        ),
    ] = None
    rewind: Annotated[
        int | None,
        Opt(
            "Step of imp to whose weights those that stay go back; 0: the first ones.",
            within="[0, inf)",
            default="a twentieth of the steps",
            later=True,
        ),
    ] = None

    @property
    def given_rounds(self) -> list[str]:
        """Those of the options that are given."""
        names = ("sparsity", "rounds", "rewind")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def all_rounds(self) -> int:
        """Rounds of pruning, with the default resolved.

        >>> RewindConfig(sparsity=0.2).all_rounds, RewindConfig(sparsity=0.9).all_rounds
        (1, 11)
        """
        assert self.sparsity is not None
        least = math.log1p(-self.sparsity) / math.log1p(-_FIFTH)
        return math.ceil(round(least, 9)) if self.rounds is None else self.rounds

    def share_after(self, number: int) -> float:
        """Share of zeros after round `number`, from 1: in each round the same part of what is left goes.

        >>> [round(RewindConfig(sparsity=0.488).share_after(number), 3) for number in (1, 2, 3)]
        [0.2, 0.36, 0.488]
        """
        assert self.sparsity is not None
        return float(1.0 - (1.0 - self.sparsity) ** (number / self.all_rounds))

    def rewind_step(self, steps: int) -> int:
        """The step to go back to in a run of so many steps."""
        return steps // _EARLY if self.rewind is None else self.rewind
