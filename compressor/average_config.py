"""Averages over a run and snapshots of it, as options. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options


@dataclass(frozen=True)
class AverageConfig(Options):
    """What is made of the scores on the way."""

    ema: Annotated[
        float,
        Opt(
            "Decay, a step, of an average of the scores that the mask is cut from; 0: none.",
            within="[0, 1)",
        ),
    ] = 0.0
    tail: Annotated[
        float,
        Opt(
            "Share of the last steps whose scores are averaged, each alike, and the mask is cut from that; 0: none.",
            within="[0, 1)",
            later=True,
        ),
    ] = 0.0
    snapshots: Annotated[
        bool,
        Opt(
            "Keep the mask and head at the end of each cycle as tasks of their own, NAME-1, NAME-2 and so on; the last is NAME. With the teacher `peer`: keep the other mask, NAME-peer.",
            later=True,
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema and self.tail:
            raise ConfigError("`ema` and `tail` are two averages of the scores", "give one of them")
