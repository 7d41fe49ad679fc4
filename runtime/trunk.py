"""Tasks on a trunk: one graph computes hidden states of tokens, and each task has a small graph on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskpack.runtime.task import HIDDEN


@dataclass(frozen=True, eq=False)
class OnTrunk:
    """A task's graph together with the trunk below it, used as one session.

    Attributes:
        trunk: session from tokens to hidden states.
        top: session from hidden states, and what else it reads of the tokens, to logits.
    """

    trunk: Any
    top: Any

    def get_inputs(self) -> list[Any]:
        """Inputs of the trunk, then those that the top alone reads of the tokens."""
        below = self.trunk.get_inputs()
        known = {HIDDEN, *(value.name for value in below)}
        return [*below, *(value for value in self.top.get_inputs() if value.name not in known)]

    def states(self, feeds: Mapping[str, Any]) -> Any:
        """Hidden states of tokens, as the tops read them.

        Args:
            feeds: name of an input -> `(b, s)`; inputs that the trunk does not read may be there.
        """
        return self.trunk.run([HIDDEN], told(self.trunk, feeds))[0]

    def over(
        self,
        states: Any,
        names: Sequence[str] | None,
        feeds: Mapping[str, Any],
        options: Any = None,
    ) -> Any:
        """Outputs of the top over hidden states of the same tokens."""
        return self.top.run(names, {**told(self.top, feeds), HIDDEN: states}, options)

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None
    ) -> Any:
        """As `InferenceSession.run`."""
        return self.over(self.states(feeds), names, feeds, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.top, name)


def told(session: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the feeds that a session reads."""
    return {one.name: feeds[one.name] for one in session.get_inputs() if one.name in feeds}


def reads_states(session: Any) -> bool:
    """Whether a graph reads hidden states of a trunk."""
    return any(value.name == HIDDEN for value in session.get_inputs())
