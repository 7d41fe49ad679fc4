"""The option to learn on the arithmetic of the exported graph, declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats.options import Opt, Options

INT8 = "int8"
_PART = 3  # the last one of so many parts of the steps: before it scores settle, and the float model takes less time


@dataclass(frozen=True)
class RoundingConfig(Options):
    """Whether a run learns on rounding that its graph will do."""

    simulate: Annotated[
        str | None,
        Opt(
            "Arithmetic of exported graphs whose rounding the last third of the steps simulates.",
            one_of=(INT8,),
            default="none",
            later=True,
        ),
    ] = None

    def first_rounded(self, steps: int) -> int:
        """First of so many steps, from 0, in which rounding is simulated; `steps` where none is.

        >>> RoundingConfig(simulate="int8").first_rounded(400), RoundingConfig().first_rounded(400)
        (267, 400)
        >>> RoundingConfig(simulate="int8").first_rounded(1)
        0
        """
        return steps if self.simulate is None else steps - max(1, steps // _PART)
