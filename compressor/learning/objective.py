"""What a step minimises: the error against the labels and, with a teacher, against its logits.

Distillation as in Hinton et al. 2015 (arXiv 1503.02531), mixed as in SMP (Jiang et al. 2023):

    (1 - a) CE(labels) + a T^2 KL(teacher / T || student / T)

Where a row may have several labels each of them is a yes or no of its own: CE is then the mean binary
cross-entropy of the labels, and KL the mean divergence of as many coins.

The teacher runs over the training rows once, before the first step, without dropout: its logits are
a small table, and a step costs no more than without it. Hidden states are no small table: where a
student follows those too (`states.py`), the teacher runs along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maskpack.compressor.learning.states import Guide


@dataclass(frozen=True, eq=False)
class Teaching:
    """A teacher's opinion of every training row.

    Attributes:
        logits: float32 `(rows, c)`.
        share: weight `a` of the teacher against the labels.
        temperature: `T`.
        guide: the teacher itself, where its hidden states are followed.
    """

    logits: NDArray[np.float32]
    share: float
    temperature: float
    guide: Guide | None = None


@dataclass(frozen=True, eq=False)
class Objective:
    """Maps logits of some rows to a loss.

    Attributes:
        labels: of all training rows: class numbers, float targets of a regression, or 0 and 1
            `(rows, c)` where a row may have several labels.
        teaching: the teacher, or None.
    """

    labels: NDArray[Any]
    teaching: Teaching | None = None

    @property
    def guide(self) -> Guide | None:
        """Whose hidden states a step follows, or None."""
        return None if self.teaching is None else self.teaching.guide

    def __call__(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """Loss of `logits (b, c)` for these rows."""
        labels = torch.from_numpy(self.labels[rows])
        own = _own_loss(logits, labels)
        if self.teaching is None:
            return own
        wanted = torch.from_numpy(self.teaching.logits[rows])
        share = self.teaching.share
        taught = _taught_coins if labels.ndim == 2 else _taught
        return (1.0 - share) * own + share * taught(logits, wanted, self.teaching.temperature)


def _own_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error for one output, cross-entropy for more, binary for several labels a row."""
    if labels.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits, labels.float())
    if logits.shape[1] == 1:
        return functional.mse_loss(logits[:, 0], labels.float())
    return functional.cross_entropy(logits, labels)


def _taught(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, wanted)
    divergence = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(wanted / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def _taught_coins(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Divergence of yes-or-no answers, one a label, from the teacher's."""
    own, other = logits / temperature, wanted / temperature
    yes = other.sigmoid() * (functional.logsigmoid(other) - functional.logsigmoid(own))
    no = (-other).sigmoid() * (functional.logsigmoid(-other) - functional.logsigmoid(-own))
    return temperature**2 * (yes + no).mean()
