"""What may accompany a training run: it looks at every step, may keep state, and has a last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


class Companion:
    """Does nothing at any moment; companions override the moments they care about."""

    def before_step(self, step: int) -> None:
        """Called before step `step` (from 0)."""

    def hear_loss(self, loss: float) -> None:
        """Called with the training loss of a step, before `after_step`."""

    def after_step(self, step: int, steps: int) -> None:
        """Called after the optimiser's update, with the number of finished steps and of all."""

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that a checkpoint keeps; a resumed run writes into them in place."""
        return {}

    def done(self) -> bool:
        """Whether training should end now."""
        return False

    def finish(self) -> None:
        """Called once after the last step."""


class Company(Companion):
    """Several companions as one, in a fixed order."""

    def __init__(self, members: Sequence[Companion] = ()) -> None:
        self._members = members

    def before_step(self, step: int) -> None:
        """Tell every member."""
        for member in self._members:
            member.before_step(step)

    def hear_loss(self, loss: float) -> None:
        """Tell every member."""
        for member in self._members:
            member.hear_loss(loss)

    def after_step(self, step: int, steps: int) -> None:
        """Tell every member."""
        for member in self._members:
            member.after_step(step, steps)

    def state(self) -> Mapping[str, Tensor]:
        """Everybody's tensors, by place."""
        return {
            f"{place}/{name}": tensor
            for place, member in enumerate(self._members)
            for name, tensor in member.state().items()
        }

    def done(self) -> bool:
        """Whether one of them wants to end."""
        return any(member.done() for member in self._members)

    def finish(self) -> None:
        """Tell every member."""
        for member in self._members:
            member.finish()
