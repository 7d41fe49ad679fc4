"""Options of learning and of what follows it that look at labels, each declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from maskpack.formats.options import Opt, Options


class ClassWeight(StrEnum):
    """How much the labels of rows count in the loss."""

    NONE = "none"
    BALANCED = "balanced"


@dataclass(frozen=True)
class LabelConfig(Options):
    """How labels count in the loss, for masks and baselines."""

    class_weight: Annotated[
        ClassWeight,
        Opt(
            "Weight of each label in the loss; `balanced`: the rarer it is, the more it counts.",
            later=True,
        ),
    ] = ClassWeight.NONE


class Calibrate(StrEnum):
    """How probabilities are made to fit frequencies after training."""

    NONE = "none"
    TEMPERATURE = "temperature"


class Threshold(StrEnum):
    """Where a label is given."""

    NONE = "none"
    TUNED = "tuned"


@dataclass(frozen=True)
class TuningConfig(LabelConfig):
    """What is done with labels, and what is fitted after the mask, on training rows that are held out for it."""

    calibrate: Annotated[
        Calibrate,
        Opt(
            "Divide the logits by a number fitted on a tenth of the training rows, held out, so that probabilities "
            "fit frequencies.",
            later=True,
        ),
    ] = Calibrate.NONE

    threshold: Annotated[
        Threshold,
        Opt(
            "Fit on the same rows where a label is given, so that its F1 is best: each of several labels a row, the "
            "rarer of two.",
            later=True,
        ),
    ] = Threshold.NONE

    @property
    def tunes_head(self) -> bool:
        """Whether the head changes after training."""
        return self.calibrate is not Calibrate.NONE or self.threshold is not Threshold.NONE
