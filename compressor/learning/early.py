"""Early stopping on the hard mask, judged by training rows that are held out for it.

The evaluation split is for the report; choosing an epoch by it would flatter the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.learning.companion import Companion


class EarlyStopping(Companion):
    """Keeps the best state and ends a run that has not improved for `patience` looks.

    Args:
        tensors: what is trained, thresholds included; the best values are put back at the end.
        judge: the metric of the model as it stands, higher is better.
        every: steps between looks.
        patience: looks without a new best before the end.
    """

    def __init__(
        self, tensors: Sequence[Tensor], judge: Callable[[], float], *, every: int, patience: int
    ) -> None:
        self._tensors, self._judge = tensors, judge
        self._every, self._patience = every, patience
        self._best = [tensor.detach().clone() for tensor in tensors]
        self._record = torch.tensor([-torch.inf, 0.0], dtype=torch.float64)  # metric, looks since

    def state(self) -> Mapping[str, Tensor]:
        """The best values and the record."""
        best = {str(place): tensor for place, tensor in enumerate(self._best)}
        return {"record": self._record, **best}

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """Look, if it is time."""
        if step % self._every and step != steps:
            return
        metric = self._judge()
        if metric > float(self._record[0]):
            self._record[0], self._record[1] = metric, 0.0
            for kept, tensor in zip(self._best, self._tensors, strict=True):
                kept.copy_(tensor)
        else:
            self._record[1] += 1.0

    def done(self) -> bool:
        """Whether patience is over."""
        return float(self._record[1]) >= self._patience

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best values back."""
        for kept, tensor in zip(self._best, self._tensors, strict=True):
            tensor.copy_(kept)
