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
    pooler, a linear of the encoder with a tanh, or behind one that the task has itself, because the backbone has none.
    """

    CLS = "cls"
    LAST = "last"
    MEAN = "mean"
    POOLER = "pooler"
    OWN = "own-pooler"


OWN_POOLER = str(Pooling.OWN)
"""As `requires` of a task names a pooler in its head."""

ASKED = tuple(one for one in Pooling if one is not Pooling.OWN)
"""What a head may be asked to read; a pooler of its own comes with a head that was learned."""


def pooling_fields(pooling: Pooling | None) -> dict[str, Any]:
    """What a task's entry says of it: `requires` and `config`; nothing where the family's own head pools."""
    if pooling is None:
        return {}
    if pooling is Pooling.OWN:
        return {"requires": (OWN_POOLER,)}
    return {"requires": (FEATURE,), "config": {FEATURE: str(pooling)}}


def uses_pooler(entry: TaskEntry) -> bool:
    """Whether a task may use the backbone's parameters of a pooler: its head is its family's, or reads the pooler."""
    return pooling_of(entry) in {None, Pooling.POOLER}


def pooling_of(entry: TaskEntry) -> Pooling | None:
    """The pooling of a task; None: that of the head which its family has in transformers.

    Raises:
        ArtifactError: the entry names the feature and no pooling that this release knows, or both features.
    """
    if OWN_POOLER in entry.requires and FEATURE in entry.requires:
        raise ArtifactError(
            f"task `{entry.name}` requires `{OWN_POOLER}` and `{FEATURE}`, one of which it can have"
        )
    if OWN_POOLER in entry.requires:
        return Pooling.OWN
    if FEATURE not in entry.requires:
        return None
    told = entry.config.get(FEATURE)
    if not isinstance(told, str) or told not in ASKED:
        raise ArtifactError(f"task `{entry.name}` has the unknown pooling {told!r:.40}")
    return Pooling(told)
