"""The unit of a regression's targets: a head learns numbers near 0 of about size 1, answers are in the target's own unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskpack.formats.errors import ArtifactError

if TYPE_CHECKING:
    from maskpack.formats.schema import TaskEntry

FEATURE = "target-scale"
"""As `requires` of a task names it."""

_KEY = "target"
_LARGEST = 3.4028234663852886e38  # float32
_SMALLEST = 1.1754943508222875e-38


@dataclass(frozen=True)
class TargetScale:
    """A task answers `x * scale + mean` where its head says `x`; both are values of float32.

    Attributes:
        mean: of the training rows' targets.
        scale: their standard deviation.
    """

    mean: float
    scale: float

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("scale", self.scale)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or abs(value) > _LARGEST:
                raise ArtifactError(f"the {name} of a target is {value!r}, no number of float32")
        if self.scale < _SMALLEST:
            raise ArtifactError(
                f"the scale of a target is {self.scale!r}, expected a number above 0"
            )

    def standard(self, values: Any) -> Any:
        """Targets or answers in the head's unit."""
        return (values - self.mean) / self.scale

    def natural(self, values: Any) -> Any:
        """What the head says, in the target's unit."""
        return values * self.scale + self.mean

    def fields(self) -> dict[str, Any]:
        """What a task's entry says of it: `requires` and `config`."""
        target = {"mean": self.mean, "scale": self.scale}
        return {"requires": (FEATURE,), "config": {_KEY: target}}

    @classmethod
    def of(cls, entry: TaskEntry) -> TargetScale | None:
        """The scale of a task's target, if it has one.

        Raises:
            ArtifactError: the entry names the feature and lacks its values, or has labels.
        """
        if FEATURE not in entry.requires:
            return None
        told = entry.config.get(_KEY)
        if not isinstance(told, Mapping) or not {"mean", "scale"} <= told.keys():
            raise ArtifactError(
                f"task `{entry.name}` requires `{FEATURE}` and has no mean and scale"
            )
        if entry.labels:
            raise ArtifactError(f"task `{entry.name}` has labels, and a scale of its target")
        return cls(told["mean"], told["scale"])
