"""What a task's head reads, as an option. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats.options import Opt, Options
from maskpack.formats.pooling import ASKED, Pooling

AUTO = "auto"
_NAMES = (AUTO, *ASKED)


def _other(text: str) -> str | None:
    return None if text in _NAMES else ", ".join(_NAMES)


@dataclass(frozen=True)
class PoolingConfig(Options):
    """How the states of a text's tokens become the one vector that the head reads."""

    pooling: Annotated[
        str,
        Opt(
            "What the head reads of a text: cls, last, mean, pooler; auto: as transformers does; where that is a pooler, what sentence-transformers names for the model, or mean if there are no weights of one.",
            check=_other,
            later=True,
        ),
    ] = AUTO

    @property
    def wanted_pooling(self) -> Pooling | None:
        """The pooling that is asked for; None: the model says."""
        return None if self.pooling == AUTO else Pooling(self.pooling)
