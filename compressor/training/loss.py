"""The loss of a step: the error against the labels and, with a teacher, the distance to its logits and states.

Distillation as in Hinton et al. 2015 (arXiv 1503.02531), mixed as in SMP (Jiang et al. 2023):

    (1 - a) CE(labels) + a T^2 KL(teacher / T || model / T)

The teacher runs over the training rows once, before the first step, without dropout: its logits are a small
table, and a step costs no more than without it. Hidden states are kept on the disk (`kept_states.py`), or
the teacher runs in every step; with them the loss gains the squared error of every layer over that layer's variance, so that
all layers count equally. As in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, eq. 8), whose projection is not
needed between models of one shape. A narrow backbone follows the float model's states in the same way
(`quantization/refine.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maskpack.formats.target import TargetScale
from maskpack.models.families import token_kinds
from maskpack.models.inputs import ATTENTION
from maskpack.tasks.batches import Encoded, known_labels
from maskpack.tasks.types import TaskType

_NO_SHARE = -1e4
"""A logit whose exponential is 0 beside any other; no infinity, of which differences would be no number."""


class StateTeacher(Protocol):
    """Has the hidden states that a student follows: a model, or what was kept of its states."""

    @property
    def weight(self) -> float:
        """Of the distance in a step's loss."""

    def states(self, inputs: Mapping[str, Tensor], rows: NDArray[np.intp]) -> list[Tensor]:
        """The states of a batch.

        Args:
            inputs: the batch.
            rows: which of the training rows it holds, in its order.

        Returns:
            float32 `(tokens, i)` for each layer, without padding, see `states_of`.
        """


@dataclass(frozen=True, eq=False)
class DistillationTargets:
    """A teacher's logits for every training row, or the teacher itself where a row is another one in every epoch.

    Attributes:
        logits: float32 `(rows, c)`, or `(rows, tokens, c)`; None: the teacher answers in every step.
        share: weight `a` of the teacher against the labels.
        temperature: `T`.
        state_teacher: has its hidden states, if they are part of the loss.
        asked: answers in every step, in place of `logits`.
    """

    logits: NDArray[np.float32] | None
    share: float
    temperature: float
    state_teacher: StateTeacher | None = None
    asked: HiddenStateTeacher | None = None

    @property
    def weight(self) -> float:
        """The share as it is in this step."""
        return self.share

    def told(self, rows: NDArray[np.intp]) -> Tensor:
        """The teacher's logits for these rows."""
        assert self.logits is not None
        return torch.from_numpy(self.logits[rows])


@dataclass(frozen=True, eq=False)
class Drawn:
    """What belongs to rows that are other ones in every epoch: tokens that are hidden from the model.

    Attributes:
        labels: the right token of each hidden one, `(n)`.
        wanted: the teacher's logits for them, `(n, c)`; None: there is no teacher.
    """

    labels: Tensor
    wanted: Tensor | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor], wanted: Tensor | None = None) -> Drawn | None:
        """That of a batch with `labels (b, s)`, negative where no token is hidden; None: it has none."""
        labels = inputs.get("labels")
        return None if labels is None else cls(labels[labels >= 0], wanted)


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """Maps logits of some rows to a loss.

    Attributes:
        kind: type of the task.
        labels: of all training rows, as the type encodes them.
        targets: the teacher's, or None.
        labelled: bool, one a row: whether its label counts; None: all do. Other rows are the teacher's alone.
        weights: float32 `(c)`, of the type's `weighted_loss`; None: all labels count alike. The distance from a
            teacher is never weighted.
        encoded: the training rows, if a model's outputs must be joined to be those of rows; None: they are already.
    """

    kind: TaskType
    labels: NDArray[Any]
    targets: DistillationTargets | None = None
    labelled: NDArray[np.bool_] | None = None
    weights: NDArray[np.float32] | None = None
    encoded: Encoded | None = None

    @cached_property
    def target(self) -> TargetScale | None:
        """The unit in which the loss is measured, where logits and labels are in a target's own."""
        return self.kind.target_scale(known_labels(self.labels, self.labelled))

    @property
    def state_teacher(self) -> StateTeacher | None:
        """The teacher whose hidden states are part of the loss, or None."""
        return None if self.targets is None else self.targets.state_teacher

    @property
    def asked(self) -> HiddenStateTeacher | None:
        """The teacher that answers in every step, or None."""
        return None if self.targets is None else self.targets.asked

    def __call__(
        self,
        logits: Tensor,
        rows: NDArray[np.intp],
        drawn: Drawn | None = None,
        encoded: Encoded | None = None,
    ) -> Tensor:
        """Loss of `logits (b, c)` for these rows: a mean over them; of vectors `(b g, w)` of the texts of these rows.

        Of `logits (b, s, c)` the mean over the tokens that count, times their number in these rows over the usual one. So the losses
        of parts of a step add up to that of the step, whatever lengths they hold. So are the losses of hidden tokens `(n, c)`.

        Args:
            logits: of the model.
            rows: which rows they are of.
            drawn: what belongs to them where tokens are hidden; else None.
            encoded: the training rows as they are in this epoch, where others are read beside them; None: no others are.
        """
        if drawn is not None:
            return self._hidden(logits, rows, drawn)
        return self.of_rows(self.per_row(logits, rows), rows, encoded)

    def per_row(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """Outputs of a model as those of rows, `(b, ...)`."""
        if self.encoded is not None:
            logits = self.encoded.per_row(logits, rows)
        return logits.view(len(rows), -1, *logits.shape[1:]) if self.kind.grouped else logits

    def of_rows(
        self, logits: Tensor, rows: NDArray[np.intp], encoded: Encoded | None = None
    ) -> Tensor:
        """Loss of logits `(b, ...)`, from `per_row`; `encoded` as of a call."""
        if self.labelled is None or self.labelled[rows].all():
            return self._labelled(logits, rows, encoded)
        known = self.labelled[rows]
        places = (np.flatnonzero(known), np.flatnonzero(~known))
        own, taught = (logits[torch.from_numpy(each).to(logits.device)] for each in places)
        loss = len(places[1]) * self._taught(taught, rows[places[1]], encoded)
        if len(places[0]):
            loss = loss + len(places[0]) * self._labelled(own, rows[places[0]], encoded)
        return loss / len(rows)

    def over(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        rows: NDArray[np.intp],
        encoded: Encoded | None = None,
    ) -> Tensor:
        """The same of a model for a batch of these rows, without a teacher that is asked in every step."""
        return self(model(**inputs).logits.float(), rows, Drawn.of(inputs), encoded)

    def _hidden(self, logits: Tensor, rows: NDArray[np.intp], drawn: Drawn) -> Tensor:
        """Loss of the hidden tokens of these rows, of which there are as many in every epoch."""
        if not len(logits):
            return logits.sum() * 0.0
        own = self.kind.loss(logits, drawn.labels)
        if self.targets is not None and drawn.wanted is not None:
            share = self.targets.share
            apart = self.kind.distillation_loss(logits, drawn.wanted, self.targets.temperature)
            own = (1.0 - share) * own + share * apart
        return self._amount(rows) * own

    def _labelled(self, logits: Tensor, rows: NDArray[np.intp], encoded: Encoded | None) -> Tensor:
        """Error against the labels, mixed with the distance from the teacher if there is one."""
        if self._none_counts(rows):
            return logits.sum() * 0.0
        standard = self._standard(self._counted(logits, rows))
        labels = torch.from_numpy(self._targets[rows])
        if not self.kind.competing:
            labels = self._standard(self._counted(labels, rows, logits))
        own = self._amount(rows) * self._own(standard, labels.to(logits.device))
        if self.targets is None or (share := self.targets.weight) == 0.0:
            return own
        return (1.0 - share) * own + share * self._taught(logits, rows, encoded)

    @cached_property
    def _targets(self) -> NDArray[Any]:
        """Labels of all rows as numbers."""
        return self.kind.targets(self.labels)

    @cached_property
    def _places(self) -> NDArray[np.bool_] | None:
        """Which tokens of each row count, where a model answers for each; else None."""
        return self.kind.places(self.labels)

    @cached_property
    def _usual(self) -> float:
        """Tokens of a row that count, on average."""
        assert self._places is not None
        return max(float(self._places.sum()) / len(self._places), 1.0 / len(self._places))

    def _none_counts(self, rows: NDArray[np.intp]) -> bool:
        """Whether no token of these rows counts: their texts are empty."""
        return self._places is not None and not self._places[rows].any()

    def _amount(self, rows: NDArray[np.intp]) -> float:
        """Tokens of these rows that count, over the usual number; 1 where a row has one output, or one label for all its tokens."""
        if self._places is None or self.kind.competing:
            return 1.0
        return float(self._places[rows].sum()) / (len(rows) * self._usual)

    def _counted(
        self, values: Tensor, rows: NDArray[np.intp], like: Tensor | None = None
    ) -> Tensor:
        """Those of values `(b, s, ...)` that count, `(n, ...)`, row by row; all values of `(b, ...)` where a row has one output.

        Where tokens compete for a label, all of them `(b, s, ...)`, and those that do not count so low that they have no share.

        Args:
            values: logits, or what belongs to them.
            rows: which rows they are of.
            like: logits whose width says which tokens the batch has; None: the values themselves.
        """
        if self._places is None:
            return values
        width = (values if like is None else like).shape[1]
        if self.kind.competing:
            counts = torch.from_numpy(self._places[rows, :width]).to(values.device)
            return values[:, : counts.shape[1]].masked_fill(~counts[:, :, None], _NO_SHARE)
        row, token = (torch.from_numpy(each) for each in self._places[rows, :width].nonzero())
        return values[row.to(values.device), token.to(values.device)]

    def _own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Error against the labels."""
        if self.weights is None:
            return self.kind.loss(logits, labels)
        weights = torch.from_numpy(self.weights).to(logits.device)
        return self.kind.weighted_loss(logits, labels, weights)

    def _taught(self, logits: Tensor, rows: NDArray[np.intp], encoded: Encoded | None) -> Tensor:
        """Distance from the teacher's logits."""
        if self._none_counts(rows):
            return logits.sum() * 0.0
        assert self.targets is not None  # rows without labels come with a teacher
        kept = self.targets.told(rows if encoded is None else encoded.read_with(rows))
        if self.kind.grouped:
            kept = kept.view(len(rows), -1, kept.shape[-1])
        told = self._counted(kept, rows, logits)
        wanted = self._standard(told).to(logits.device)
        own = self._standard(self._counted(logits, rows))
        apart = self.kind.distillation_loss(own, wanted, self.targets.temperature)
        return self._amount(rows) * apart

    def _standard(self, values: Any) -> Any:
        return values if self.target is None else self.target.standard(values)


@dataclass(frozen=True, eq=False)
class HiddenStateTeacher:
    """A teacher that computes its hidden states.

    Attributes:
        model: the teacher, in evaluation mode.
        weight: of the distance in a step's loss.
    """

    model: Any
    weight: float

    def states(
        self, inputs: Mapping[str, Tensor], rows: NDArray[np.intp] | None = None
    ) -> list[Tensor]:
        """The teacher's states of a batch, without gradients; it gets the inputs of its family."""
        del rows  # the inputs say all
        return self.answers(inputs, states=True)[1]

    def answers(
        self, inputs: Mapping[str, Tensor], *, states: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The teacher's logits of a batch in float32, if it has some, and its states if they are wanted."""
        known = inputs
        if not self._reads_types:
            known = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        with torch.no_grad():
            found = self.model(**known, **({"output_hidden_states": True} if states else {}))
        logits = getattr(found, "logits", None)
        wanted = None if logits is None else logits.float()
        return wanted, states_of(found, inputs) if states else []

    @cached_property
    def _reads_types(self) -> bool:
        return token_kinds(self.model.config.to_dict()) > 0


def states_of(outputs: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Hidden states of each layer for the tokens that are no padding.

    Args:
        outputs: of a model, with hidden states.
        inputs: the batch, with `attention_mask` if there may be padding.

    Returns:
        float32 `(tokens, i)` for each layer; last the pooler's `(b, i)`, where the model shows it.
    """
    states = [state.flatten(0, 1) for state in outputs.hidden_states[1:]]
    if ATTENTION in inputs:  # patches of images are never padding
        # once for all layers: a device tells the processor how many there are
        present = inputs[ATTENTION].flatten().nonzero()[:, 0]
        states = [state[present] for state in states]
    states = [state.float() for state in states]
    pooled = getattr(outputs, "pooler_output", None)
    return states if pooled is None else [*states, pooled.float()]


def spreads_of(wanted: Sequence[Tensor]) -> Tensor:
    """Values, mean and variance of the wanted states of each layer, float32 `(layers, 3)`."""
    rows = []
    for states in wanted:
        variance, mean = torch.var_mean(states)
        rows.append(torch.stack([torch.full_like(mean, states.numel()), mean, variance]))
    return torch.stack(rows)


def joined_spreads(parts: Tensor) -> Tensor:
    """The spreads of all values together.

    Args:
        parts: `(parts, layers, 3)`, each as of `spreads_of`.

    Sums of squares about the common mean (Chan, Golub & LeVeque 1979): squares of the values themselves would
    lose the digits in which they differ.

    >>> a, b = torch.tensor([[1.0, -1.0, 4.0]]), torch.tensor([[6.0, 2.0]])
    >>> joined_spreads(torch.stack([spreads_of([a]), spreads_of([b])]))  # of 1, -1, 4, 6 and 2
    tensor([[5.0000, 2.4000, 7.3000]])
    """
    if len(parts) == 1:
        return parts[0]
    values, means, variances = parts.unbind(dim=2)
    count = values.sum(dim=0)
    mean = (values * means).sum(dim=0) / count
    squares = ((values - 1.0).clamp(min=0.0) * variances).sum(dim=0)
    squares = squares + (values * (means - mean).square()).sum(dim=0)
    return torch.stack([count, mean, squares / (count - 1.0)], dim=1)


def distance(
    states: Sequence[Tensor], wanted: Sequence[Tensor], spreads: Tensor | None = None
) -> Tensor:
    """Squared error over the variance of the wanted states, a mean over layers.

    Args:
        states: of each layer.
        wanted: the teacher's.
        spreads: of the wanted states of the whole step, where these are only a part of it; then the distances of all
            parts add up to that of the step.

    >>> wanted = [torch.tensor([[1.0, -1.0]]), torch.tensor([[10.0, -10.0]])]
    >>> states = [torch.zeros(1, 2), torch.tensor([[10.0, -10.0]])]
    >>> distance(states, wanted)  # 1 / 2 at the first layer (torch's variance is 2), 0 at the second
    tensor(0.2500)
    """
    whole = spreads_of(wanted) if spreads is None else spreads
    pairs = zip(states, wanted, whole, strict=True)
    return torch.stack(
        [functional.mse_loss(a, b, reduction="sum") / n / var for a, b, (n, _, var) in pairs]
    ).mean()
