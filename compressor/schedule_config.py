"""How rates change over a run, as options. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.compressor.schedules import LINEAR, SCHEDULES
from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options


@dataclass(frozen=True)
class ScheduleConfig(Options):
    """The shape of the learning rates."""

    schedule: Annotated[
        str,
        Opt(
            f"Shape of the learning rates over the steps: {', '.join(SCHEDULES)}.",
            one_of=SCHEDULES,
            later=True,
        ),
    ] = LINEAR
    cycles: Annotated[
        int,
        Opt(
            "How often a cyclical schedule begins anew: triangular, triangular2, restarts.",
            within="[1, inf)",
            later=True,
        ),
    ] = 1

    @property
    def stops(self) -> tuple[str, ...]:
        """What the names of tasks that a run leaves on its way end in; none here."""
        return ()

    @property
    def shape(self) -> tuple[str, int]:
        """Name and cycles of the schedule."""
        return self.schedule, self.cycles

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycles > 1 and not SCHEDULES[self.schedule].cyclical:
            some = ", ".join(name for name, each in SCHEDULES.items() if each.cyclical)
            raise ConfigError(
                f"`schedule` {self.schedule} has one cycle, `cycles` asks for {self.cycles}",
                f"schedules with cycles: {some}",
            )
