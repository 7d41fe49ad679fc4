"""An exponential average of the scores: the mask is cut from it, not from the last step.

Polyak averaging for scores; noise flips of the last steps average out, real ones stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.learning.companion import Companion
from maskpack.compressor.learning.masked import MaskedLinear

_EVERY = 5  # steps between updates: an average over hundreds of steps needs no more


class ScoreAverage(Companion):
    """Keeps the average and puts it in place of the scores at the end.

    Args:
        layers: the masked linears.
        decay: weight of the past in each step, such as 0.99; less in the first steps, so that the
            first scores do not stay in the average of a short run.
    """

    def __init__(self, layers: Sequence[MaskedLinear], decay: float) -> None:
        self._layers, self._decay = layers, decay
        self._averages = [layer.score.detach().clone() for layer in layers]

    def state(self) -> Mapping[str, Tensor]:
        """The averages."""
        return {str(place): average for place, average in enumerate(self._averages)}

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """Take in the scores; after the last step, stand in for them."""
        for average, layer in zip(self._averages, self._layers, strict=True):
            if step % _EVERY == 0:
                average.lerp_(layer.score, 1.0 - min(self._decay, step / (step + 10)) ** _EVERY)
            if step == steps:
                layer.score.copy_(average)
