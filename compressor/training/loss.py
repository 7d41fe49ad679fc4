"""The loss of a step: the error against the labels and, with a teacher, the distance to its logits and states.

Distillation as in Hinton et al. 2015 (arXiv 1503.02531), mixed as in SMP (Jiang et al. 2023):

    (1 - a) CE(labels) + a T^2 KL(teacher / T || model / T)

The teacher runs over the training rows once, before the first step, without dropout: its logits are a small
table, and a step costs no more than without it. Hidden states are too large for a table: with them
the teacher runs in every step, and the loss gains the squared error of every layer over that layer's variance, so that
all layers count equally. As in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, eq. 8), whose projection is not
needed between models of one shape. A narrow backbone follows the float model's states in the same way
(`quantization/refine.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maskpack.models.families import token_kinds
from maskpack.tasks.types import TaskType


@dataclass(frozen=True, eq=False)
class DistillationTargets:
    """A teacher's logits for every training row.

    Attributes:
        logits: float32 `(rows, c)`.
        share: weight `a` of the teacher against the labels.
        temperature: `T`.
        state_teacher: the teacher itself, if its hidden states are part of the loss.
    """

    logits: NDArray[np.float32]
    share: float
    temperature: float
    state_teacher: HiddenStateTeacher | None = None


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """Maps logits of some rows to a loss.

    Attributes:
        kind: type of the task.
        labels: of all training rows, as the type encodes them.
        targets: the teacher's, or None.
    """

    kind: TaskType
    labels: NDArray[Any]
    targets: DistillationTargets | None = None

    @property
    def state_teacher(self) -> HiddenStateTeacher | None:
        """The teacher whose hidden states are part of the loss, or None."""
        return None if self.targets is None else self.targets.state_teacher

    def __call__(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """Loss of `logits (b, c)` for these rows."""
        own = self.kind.loss(logits, torch.from_numpy(self.labels[rows]).to(logits.device))
        if self.targets is None:
            return own
        wanted = torch.from_numpy(self.targets.logits[rows]).to(logits.device)
        share, temperature = self.targets.share, self.targets.temperature
        taught = self.kind.distillation_loss(logits, wanted, temperature)
        return (1.0 - share) * own + share * taught


@dataclass(frozen=True, eq=False)
class HiddenStateTeacher:
    """A teacher whose hidden states are part of a student's loss.

    Attributes:
        model: the teacher, in evaluation mode.
        weight: of the distance in a step's loss.
    """

    model: Any
    weight: float

    def states(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The teacher's states of a batch, without gradients; it gets the inputs of its family."""
        known = inputs
        if not self._reads_types:
            known = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        with torch.no_grad():
            return states_of(self.model(**known, output_hidden_states=True), inputs)

    @cached_property
    def _reads_types(self) -> bool:
        return token_kinds(self.model.config.to_dict()) > 0


def states_of(outputs: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Hidden states of each layer for the tokens that are no padding.

    Args:
        outputs: of a model, with hidden states.
        inputs: the batch, with `attention_mask`.

    Returns:
        float32 `(tokens, i)` for each layer; last the pooler's `(b, i)`, where the model shows it.
    """
    present = inputs["attention_mask"].bool()
    states = [state[present].float() for state in outputs.hidden_states[1:]]
    pooled = getattr(outputs, "pooler_output", None)
    return states if pooled is None else [*states, pooled.float()]


def distance(states: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared error over the variance of the wanted states, a mean over layers.

    >>> wanted = [torch.tensor([[1.0, -1.0]]), torch.tensor([[10.0, -10.0]])]
    >>> states = [torch.zeros(1, 2), torch.tensor([[10.0, -10.0]])]
    >>> distance(states, wanted)  # 1 / 2 at the first layer (torch's variance is 2), 0 at the second
    tensor(0.2500)
    """
    pairs = zip(states, wanted, strict=True)
    return torch.stack([functional.mse_loss(a, b) / b.var() for a, b in pairs]).mean()
