"""Several patches of one task as one: masks by majority, all other values as their mean.

Masks that one run leaves behind differ where it was not sure. A weight that most of them remove is removed for a reason; one that few
remove was a chance of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ConfigError
from maskpack.formats.tensors import BitMask, Dense, Patch

MEMBERS = "vote"
"""Key of an entry's `training`: names of the tasks whose masks voted."""


def majority_patch(patches: Sequence[Patch]) -> Patch:
    """A weight goes where more than half of the masks remove it; heads, biases, norms and gains are means.

    Args:
        patches: of one shape, over one backbone, without units.

    Raises:
        ConfigError: fewer than two, or they differ in what they hold.
    """
    if len(patches) < 2:
        raise ConfigError(f"a vote is of two patches or more, not of {len(patches)}")
    first = patches[0]
    if any(patch.units is not None for patch in patches):
        raise ConfigError("a patch without some heads or neurons takes part in no vote")
    for patch in patches[1:]:
        if _shapes(patch) != _shapes(first):
            raise ConfigError("the patches differ in the names or shapes of what they hold")
    masks = {
        name: BitMask.from_bool(majority([patch.masks[name].to_bool() for patch in patches]))
        for name in first.masks
    }
    return Patch(
        masks,
        _means([patch.head for patch in patches]),
        _means([patch.dense for patch in patches]),
        _means([patch.gains for patch in patches]),
    )


def majority(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Where at least half of the masks keep: of an even number of them a tie keeps.

    >>> majority([np.array([True, False]), np.array([True, False]), np.array([False, True])])
    array([ True, False])
    >>> majority([np.array([True, False]), np.array([False, False])])
    array([ True, False])
    """
    kept = np.sum(masks, axis=0, dtype=np.int32)
    return np.asarray(2 * kept >= len(masks))


def _means(values: Sequence[Dense]) -> Dense:
    return {name: _mean([one[name] for one in values]) for name in values[0]}


def _mean(values: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    return np.asarray(np.mean(values, axis=0, dtype=np.float32), dtype=np.float16)


def _shapes(patch: Patch) -> Mapping[str, tuple[int, ...]]:
    dense = {**patch.head, **patch.dense, **{f"gain/{name}": g for name, g in patch.gains.items()}}
    return {
        **{f"mask/{name}": mask.shape for name, mask in patch.masks.items()},
        **{name: value.shape for name, value in dense.items()},
    }
