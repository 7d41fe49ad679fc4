"""A share of zeros in every matrix, as movement and edge-popup reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.sparsity import EVERY, global_threshold, risen
from maskpack.compressor.training.callbacks import TrainerCallback


class EvenSparsity(TrainerCallback):
    """Reach `sparsity` zeros in every matrix.

    Args:
        layers: the masked linears.
        sparsity: share of zeros at the end.
        start: share of zeros in the first step; None: in each matrix those of the mask that the run starts from, whose scores
            are below 0.
    """

    def __init__(
        self, layers: Sequence[MaskedLinear], sparsity: float, start: float | None = None
    ) -> None:
        self._layers, self._sparsity, self._found = layers, sparsity, start is None
        self._starts = torch.full((len(layers),), start or 0.0, dtype=torch.float64)

    def state(self) -> Mapping[str, Tensor]:
        """The zeros of each matrix before the first step, where they are not given."""
        return {"starts": self._starts} if self._found else {}

    def on_step_begin(self, step: int) -> None:
        """Set the thresholds of the first step."""
        if step:
            return
        if self._found:
            for place, layer in enumerate(self._layers):
                removed = int((layer.live_scores() < 0).sum())
                self._starts[place] = removed / layer.score.numel()
        self._rise(0, 1)

    def on_step_end(self, step: int, steps: int) -> None:
        """Set every matrix's threshold for the next step."""
        if step % EVERY == 0 or step == steps:
            self._rise(step, steps)

    def _rise(self, step: int, steps: int) -> None:
        for layer, start in zip(self._layers, self._starts.tolist(), strict=True):
            share = risen(start, self._sparsity, step, steps)
            layer.threshold.fill_(global_threshold([layer], share, exact=True))
