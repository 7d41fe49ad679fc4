"""Options of lower layers that stay the backbone's, each declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options

AUTO = "auto"
_TOLERANCE = 1.0


def _other_than_layers(text: str) -> str | None:
    fits = text == AUTO or (text.isdecimal() and int(text) > 0)
    return None if fits else f"a number of layers of 1 or more, or {AUTO}"


@dataclass(frozen=True)
class TrunkConfig(Options):
    """Which layers a task leaves alone, so that tasks can share a pass over them."""

    trunk: Annotated[
        str | None,
        Opt(
            "Lower layers that the task leaves as they are, so that tasks can share a pass over them: a number, or auto: "
            "as many as cost little on held-out training rows.",
            check=_other_than_layers,
            default="none",
            later=True,
        ),
    ] = None
    trunk_tolerance: Annotated[
        float,
        Opt(
            "Points of the metric that `trunk` auto may cost on held-out training rows.",
            within="[0, inf)",
            later=True,
        ),
    ] = _TOLERANCE

    def __post_init__(self) -> None:
        given: object = self.trunk
        if isinstance(given, int) and not isinstance(given, bool):  # as a YAML file says it
            object.__setattr__(self, "trunk", str(given))
        super().__post_init__()
        if self.trunk_tolerance != _TOLERANCE and not self.finds_trunk:
            raise ConfigError(
                f"`trunk_tolerance` is of `trunk` {AUTO}, and `trunk` is {self.trunk or 'not given'}",
                f"give `trunk` {AUTO}, or leave `trunk_tolerance` out",
            )

    @property
    def finds_trunk(self) -> bool:
        """Whether the run finds out how many layers it leaves alone."""
        return self.trunk == AUTO

    @property
    def trunk_layers(self) -> int | None:
        """Layers that the task leaves alone; None where none are, or where that is not known yet.

        >>> TrunkConfig(trunk="4").trunk_layers, TrunkConfig(trunk="auto").trunk_layers
        (4, None)
        """
        return None if self.trunk is None or self.finds_trunk else int(self.trunk)


def listed_numbers(name: str, text: str) -> frozenset[int]:
    """Whole numbers, and ranges of them, with commas.

    >>> sorted(listed_numbers("layers", "0,2-4"))
    [0, 2, 3, 4]

    Args:
        name: of the option.
        text: its value.

    Raises:
        ConfigError: it is something else, or names none.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"`{name}` is `{text}`", "write it like `2-5` or `0,3`")
        numbers.update(range(int(first), int(last or first) + 1))
    if not numbers:
        raise ConfigError(f"`{name}` is `{text}`, which names no layer")
    return frozenset(numbers)
