"""Steer the share of zeros to a target while scores learn.

The threshold follows the quantile of all scores: at step t the lowest `s(t)` of them are out, with
the cubic rise of Zhu & Gupta 2017 (arXiv 1710.01878), `s(t) = s - s (1 - t / T)**3`, over the first
60 % of the run, then `s` with free swapping (as in Jiang et al. 2023, arXiv 2210.06210). The
quantile is global: matrices compete, so the budget moves to where removing weights helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maskpack.compressor.masked import MaskedLinear

_RISE = 0.6
_EVERY = 20  # steps between looks; the exact quantile is taken at the last step
_SAMPLE = 1 << 20  # scores in a look


@dataclass(frozen=True)
class NoTarget:
    """The margin alone decides how many weights flip."""

    def steer(self, layers: Sequence[MaskedLinear], step: int, steps: int) -> None:
        """Leave the thresholds alone."""


@dataclass(frozen=True)
class SparsityTarget:
    """Reach `sparsity` zeros over all layers together."""

    sparsity: float

    def steer(self, layers: Sequence[MaskedLinear], step: int, steps: int) -> None:
        """Set all thresholds for the step after `step` of `steps` (counted from 1)."""
        last = step == steps
        if step % _EVERY and not last:
            return
        progress = min(1.0, step / (steps * _RISE))
        share = self.sparsity * (1.0 - (1.0 - progress) ** 3)
        # a weight that is zero anyway costs no bit and counts as kept
        scores = torch.cat([layer.score.detach()[layer.weight != 0] for layer in layers])
        total = sum(layer.score.numel() for layer in layers)
        stride = 1 if last else max(1, scores.numel() // _SAMPLE)
        sample = scores[::stride]
        rank = min(max(1, round(share * total * sample.numel() / scores.numel())), sample.numel())
        threshold = sample.kthvalue(rank).values
        for layer in layers:
            layer.threshold.copy_(threshold)


def steering(sparsity: float | None) -> NoTarget | SparsityTarget:
    """The steering for a target, or for none."""
    return NoTarget() if sparsity is None else SparsityTarget(sparsity)
