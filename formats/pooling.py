"""How the states of a text's tokens become the one vector that a head reads. As an entry of a task says it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from maskpack.formats.errors import ArtifactError

if TYPE_CHECKING:
    from maskpack.formats.schema import TaskEntry

FEATURE = "pooling"
"""As `requires` of a task names it."""


class Pooling(StrEnum):
    """What a head reads of the last layer's states.

    The first token's; the last one's that is no padding; the mean over all tokens but padding; or the first token's behind the
    pooler, a linear of the encoder with a tanh.
    """

    CLS = "cls"
    LAST = "last"
    MEAN = "mean"
    POOLER = "pooler"


def pooling_fields(pooling: Pooling | None) -> dict[str, Any]:
    """What a task's entry says of it: `requires` and `config`; nothing where the family's own head pools."""
    if pooling is None:
        return {}
    return {"requires": (FEATURE,), "config": {FEATURE: str(pooling)}}


def uses_pooler(entry: TaskEntry) -> bool:
    """Whether a task may use the backbone's parameters of a pooler: its head is its family's, or reads the pooler."""
    return pooling_of(entry) in {None, Pooling.POOLER}


def pooling_of(entry: TaskEntry) -> Pooling | None:
    """The pooling of a task; None: that of the head which its family has in transformers.

    Raises:
        ArtifactError: the entry names the feature and no pooling that this release knows.
    """
    if FEATURE not in entry.requires:
        return None
    told = entry.config.get(FEATURE)
    if not isinstance(told, str) or told not in set(Pooling):
        raise ArtifactError(f"task `{entry.name}` has the unknown pooling {told!r:.40}")
    return Pooling(told)
