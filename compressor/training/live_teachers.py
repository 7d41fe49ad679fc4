"""Teachers that learn in the run that they teach: a peer, and the run's own mask at the end of the cycle before.

Peers (deep mutual learning: Zhang et al. 2018, arXiv 1706.00384, eq. 7): two masks over one backbone read the same rows in the same steps.
Each has the loss

    (1 - a) CE(labels) + a T^2 KL(other / T || own / T)

in which the other's logits are constants. The paper adds both terms with weight 1 at T = 1, and updates one network after the other; here they
have the weights that distillation has everywhere, and both are updated at once. What differs between the two is their dropout
and the first values of their heads.

Snapshots (snapshot distillation: Yang et al. 2019, arXiv 1812.00123): a run whose rates begin anew learns its first cycle from the
labels alone, and each later one also from the mask as it stood at the end of the one before. Its logits for all training rows are
computed once a cycle, without dropout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.loss import DistillationTargets, Drawn, TaskLoss
from maskpack.models.processes import Processes
from maskpack.tasks.batches import Encoded, predict_all, torch_predict

_BUFFER = "weight"  # of a masked linear: frozen, and no parameter


@dataclass(frozen=True, eq=False)
class PeerTargets(DistillationTargets):
    """What a peer says of the rows of the step.

    Attributes:
        now: rows of the part that is computed, and the peer's logits for them.
    """

    now: list[Any] = field(default_factory=list)

    def tell(self, rows: NDArray[np.intp], logits: Tensor) -> None:
        """Take the peer's logits `(b, ...)` for these rows, each of which is there once."""
        self.now[:] = [rows, logits]

    def told(self, rows: NDArray[np.intp]) -> Tensor:
        """Its logits for some of them.

        >>> targets = PeerTargets(None, 0.5, 1.0)
        >>> targets.tell(np.array([7, 3, 5]), torch.tensor([[7.0], [3.0], [5.0]]))
        >>> targets.told(np.array([5, 7])).flatten().tolist()
        [5.0, 7.0]
        """
        known, logits = self.now
        order = np.argsort(known)
        places = order[np.searchsorted(known, rows, sorter=order)]
        found: Tensor = logits[torch.from_numpy(places).to(logits.device)]
        return found


@dataclass(frozen=True, eq=False)
class PeerLoss(TaskLoss):
    """The losses of two peers in one step, added: each is that of `TaskLoss` with the other as its teacher.

    Attributes:
        members: the loss of each, with `PeerTargets`.
    """

    members: tuple[TaskLoss, ...] = ()

    @classmethod
    def of(cls, loss: TaskLoss, *, share: float, temperature: float) -> PeerLoss:
        """Two losses like one without a teacher.

        Args:
            loss: of each peer, without a teacher.
            share: weight of the other's logits against the labels.
            temperature: of both softmaxes.
        """
        members = (replace(loss, targets=PeerTargets(None, share, temperature)) for _ in range(2))
        return cls(
            loss.kind,
            loss.labels,
            labelled=loss.labelled,
            weights=loss.weights,
            encoded=loss.encoded,
            members=tuple(members),
        )

    def __call__(
        self,
        logits: Tensor,
        rows: NDArray[np.intp],
        drawn: Drawn | None = None,
        encoded: Encoded | None = None,
    ) -> Tensor:
        """Sum of both losses, of `logits (2, ...)` as `Peers` gives them, which hold what is read beside the rows."""
        del encoded
        pairs = zip(self.members, logits, reversed(logits.detach()), strict=True)
        if drawn is not None:
            return sum(
                (loss(own, rows, replace(drawn, wanted=other)) for loss, own, other in pairs),
                start=logits.new_zeros(()),
            )
        total = logits.new_zeros(())
        for loss, own, other in pairs:
            assert isinstance(loss.targets, PeerTargets)
            loss.targets.tell(rows, self.per_row(other, rows))
            total = total + loss.of_rows(self.per_row(own, rows), rows)
        return total


class Peers(nn.Module):
    """Two classifiers over one backbone as one model; the second holds the first one's frozen weights.

    Args:
        first, second: classifiers of the same shapes, whose trained parameters require gradients.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        share_frozen(first, second)
        self.members = nn.ModuleList([first, second])

    def forward(self, **inputs: Tensor) -> Any:
        """Outputs with `logits (2, ...)`."""
        return SimpleNamespace(logits=torch.stack([each(**inputs).logits for each in self.members]))


def share_frozen(first: nn.Module, second: nn.Module) -> None:
    """Let the second model hold the first one's frozen weights in place of equal ones of its own."""
    mates = dict(first.named_modules())
    for path, module in second.named_modules():
        mate = mates[path]
        for name, parameter in module.named_parameters(recurse=False):
            other = getattr(mate, name)
            if not parameter.requires_grad and torch.equal(parameter, other):
                setattr(module, name, other)
        for name, buffer in module.named_buffers(recurse=False):
            if name == _BUFFER and torch.equal(buffer, getattr(mate, name)):
                setattr(module, name, getattr(mate, name))


@dataclass(frozen=True, eq=False)
class SnapshotTargets(DistillationTargets):
    """Logits of the mask at the end of the cycle before; none in the first cycle.

    Attributes:
        known: 1 once there are some.
    """

    known: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def weight(self) -> float:
        """The share, from the second cycle on."""
        return self.share if float(self.known) else 0.0


class SnapshotTeacher(TrainerCallback):
    """Fills the targets after certain steps; a checkpoint keeps them, so that a resumed run has the same.

    Args:
        model: that learns; it is left in training mode.
        rows: the training rows.
        targets: from `snapshot_targets`.
        steps: after which the targets are those of the model as it stands.
        processes: that share the rows out.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Encoded,
        targets: SnapshotTargets,
        steps: Sequence[int],
        processes: Processes,
    ) -> None:
        assert targets.logits is not None
        self._model, self._rows, self._targets = model, rows, targets
        self._steps, self._processes = frozenset(steps), processes
        self._table = torch.from_numpy(targets.logits)

    def state(self) -> Mapping[str, Tensor]:
        """The targets, and whether they are known."""
        return {"logits": self._table, "known": self._targets.known}

    def on_step_end(self, step: int, steps: int) -> None:
        """Ask the model, if a cycle has ended."""
        del steps
        if step not in self._steps:
            return
        found = predict_all(torch_predict(self._model), self._rows, processes=self._processes)
        self._model.train()
        self._table.copy_(torch.from_numpy(found))
        self._targets.known.fill_(1.0)


def snapshot_targets(
    model: nn.Module, rows: Encoded, *, share: float, temperature: float
) -> SnapshotTargets:
    """Targets for all rows, which are not known yet.

    Args:
        model: that will learn; its outputs for the longest row say how wide the table is.
        rows: the training rows.
        share: weight of the snapshot's logits against the labels.
        temperature: of both softmaxes.
    """
    longest = rows.take(np.array([int(np.argmax(rows.lengths))]))
    width = predict_all(torch_predict(model), longest).shape[1:]
    table = np.zeros((len(rows), *width), dtype=np.float32)
    return SnapshotTargets(table, share, temperature)
