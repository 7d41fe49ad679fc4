"""Masks of one run at several steps, each a patch of its own.

With rates that begin anew, a run ends each cycle at another good mask (snapshot ensembles: Huang et al. 2017, arXiv
1704.00109, over weights). Over one backbone a snapshot costs the bytes of a patch: the masks can vote
(`formats/vote.py`), or answer together (`runtime/ensemble.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskpack.compressor.masking.model import MaskedModel, freeze
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.types import Curves
from maskpack.formats import BitMask, Patch
from maskpack.formats.tensors import Dense

Part = NDArray[np.uint8] | NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run as it was on the way.

    Attributes:
        step: after which.
        patch: as it would have been written then.
        curves: how it was learned; None: as the run's own mask, of which it is an earlier form.
    """

    step: int
    patch: Patch
    curves: Curves | None = None


class Snapshots(TrainerCallback):
    """Freezes the model after certain steps; a resumed run has the same patches, because a checkpoint keeps them.

    Args:
        frozen: makes the patch of the model as it stands.
        steps: after which it is called, in order.
    """

    def __init__(self, frozen: Callable[[], Patch], steps: Sequence[int]) -> None:
        self._frozen, self._steps = frozen, tuple(steps)
        self._empty = frozen()
        self._kept = [
            {name: torch.zeros_like(torch.from_numpy(part)) for name, part in parts_of(self._empty)}
            for _ in self._steps
        ]

    def state(self) -> Mapping[str, Tensor]:
        """All values of all patches; 0 of those that are still to come."""
        return {
            f"{place}/{name}": tensor
            for place, kept in enumerate(self._kept)
            for name, tensor in kept.items()
        }

    def on_step_end(self, step: int, steps: int) -> None:
        """Freeze the model, if it is time."""
        del steps
        if step not in self._steps:
            return
        kept = self._kept[self._steps.index(step)]
        for name, part in parts_of(self._frozen()):
            kept[name].copy_(torch.from_numpy(part))

    def taken(self) -> tuple[Snapshot, ...]:
        """The patches, in order; after the last step."""
        each = zip(self._steps, self._kept, strict=True)
        return tuple(
            Snapshot(step, with_parts(self._empty, {n: t.numpy() for n, t in kept.items()}))
            for step, kept in each
        )


def with_snapshots(masked: MaskedModel, steps: Sequence[int]) -> MaskedModel:
    """The model with a callback that takes snapshots after these steps; as it is without steps."""
    if not steps:
        return masked
    taken = Snapshots(lambda: freeze(masked.model, masked.layers, masked.dense), steps)
    return replace(masked, callbacks=[*masked.callbacks, taken], snapshots=taken)


def parts_of(patch: Patch) -> Iterator[tuple[str, Part]]:
    """Name -> array of all that a patch without units holds. Inverse of `with_parts`."""
    for name, mask in patch.masks.items():
        yield f"mask/{name}", mask.packed
    for kind, values in _dense(patch).items():
        for name, value in values.items():
            yield f"{kind}/{name}", value


def with_parts(like: Patch, parts: Mapping[str, Any]) -> Patch:
    """A patch of the same names and shapes with other values. Inverse of `parts_of`."""
    masks = {name: BitMask(parts[f"mask/{name}"], mask.shape) for name, mask in like.masks.items()}
    head, dense, gains = (
        {name: parts[f"{kind}/{name}"] for name in values} for kind, values in _dense(like).items()
    )
    return Patch(masks, head, dense, gains)


def _dense(patch: Patch) -> dict[str, Dense]:
    return {"head": patch.head, "dense": patch.dense, "gains": patch.gains}
