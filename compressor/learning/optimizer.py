"""Adam with a floor: weights that matter move their scores, the others stay where they are.

Plain Adam divides each gradient by its own size, so that a score with a tiny gradient moves as far
as one with a large gradient: most flips are then noise. Flipping a weight changes the loss by about
`-w dL/dw`, the score's gradient itself, so its size is worth keeping. The floor does that:

    step = lr * m / (sqrt(v) + floor * R),   R = sqrt(mean of v over the whole group)

`floor = 0` is Adam (Kingma & Ba 2015); a large floor is momentum SGD with one normalised rate, which
is what movement scores are (Sanh et al. 2020). Between them, at 1, a score of typical gradient moves
at half of Adam's speed and one of a tenth of it at a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_EVERY = 20  # steps between looks at R; each of the first `_EVERY` steps looks
_TINY = 1e-12  # score gradients are products of small numbers: Adam's usual 1e-8 would stall them


class FlooredAdam(torch.optim.Adam):
    """Adam whose parameter groups may carry a `floor`."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        filled = [{"floor": 0.0, "peak": group["lr"], **group} for group in groups]
        super().__init__(filled, eps=_TINY, fused=True)

    def set_rates(self, share: float) -> None:
        """Set every group's rate to a share of its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * share

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, then a look at the size of the gradients every `_EVERY` steps."""
        loss: float | None = super().step(closure)
        for group in self.param_groups:
            if group["floor"] > 0:
                self._raise_floor(group)
        return loss

    def _raise_floor(self, group: dict[str, Any]) -> None:
        """Set the group's `eps` from the mean of its second moments, bias corrected."""
        states = [self.state[parameter] for parameter in group["params"]]
        taken = int(states[0]["step"])
        if taken > _EVERY and taken % _EVERY:
            return
        squares = sum(float(state["exp_avg_sq"].sum()) for state in states)
        count = sum(state["exp_avg_sq"].numel() for state in states)
        correction = 1.0 - group["betas"][1] ** taken
        group["eps"] = max(_TINY, group["floor"] * (squares / count / correction) ** 0.5)
