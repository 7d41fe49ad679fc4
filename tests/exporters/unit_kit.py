"""Patches whose masks remove whole units, for tests of graphs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from maskpack.formats import BitMask
from maskpack.formats.reader import Artifact
from maskpack.formats.units import Units
from maskpack.models.units import unit_groups
from maskpack.tasks.context import task_config


def random_units(groups, *, share=0.5, seed=0, empty=1):
    """`Units` that keep a share of every group's units; the first `empty` groups of each kind lose all."""
    rng = np.random.default_rng(seed)
    kept = []
    for number, group in enumerate(groups):
        alive = np.zeros(group.count, dtype=np.bool_)
        if number >= 2 * empty:
            alive[rng.permutation(group.count)[: max(1, round(share * group.count))]] = True
        kept.append(alive)
    return Units(tuple(groups), tuple(kept))


def without_units(patch, backbone, units):
    """A patch whose masks remove the weights of units beside what they remove already."""
    shapes = {name: tensor.shape for name, tensor in backbone.linears.items()}
    masks = dict(patch.masks)
    for name, keep in units.masks(shapes).items():
        own = masks[name].to_bool() if name in masks else True
        masks[name] = BitMask.from_bool(keep & own)
    return replace(patch, masks=masks, units=units)


@contextmanager
def units_removed(*, share=0.5, known=True, empty=1, tasks=None, change=None, last_layer=False):
    """Every artifact's patches remove random units, and say so if `known`; the task decides which."""
    plain = Artifact.patch

    def patch(self, task):
        own = plain(self, task)
        if tasks is not None and task not in tasks:
            return own
        groups = unit_groups(task_config(self, self.entry(task)))
        if change is not None:
            groups = tuple(map(change, groups))
        if last_layer:
            last = max(group.layer for group in groups)
            groups = tuple(group for group in groups if group.layer == last)
        units = random_units(groups, share=share, seed=len(task), empty=0 if last_layer else empty)
        found = without_units(own, self.backbone, units)
        return found if known else replace(found, units=None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Artifact, "patch", patch)
        yield
