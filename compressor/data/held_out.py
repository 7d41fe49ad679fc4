"""Rows to keep back for evaluation, where the data has no split of its own: a tenth of every label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE = 10  # one row in so many
SEED = 0  # the same rows for every run: runs differ, data does not


@dataclass(frozen=True)
class HeldOut:
    """What was kept back of one file or split.

    Attributes:
        rows, total: kept back, and in all.
        by_label: whether every label was given its share.
    """

    rows: int
    total: int
    by_label: bool


def held_out_places(groups: Sequence[str]) -> NDArray[np.intp]:
    """Places of the rows that are kept back, in order.

    A tenth of all, divided among the groups by their size; a group of two rows or more is on both
    sides whatever its size, and a group of one stays in training.

    Args:
        groups: what each row belongs to; rows that are all alike are one group.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place in np.random.default_rng(SEED).permutation(len(groups)):
        places[groups[place]].append(int(place))
    sizes = {group: len(places[group]) for group in sorted(places)}
    quota = {group: size // SHARE for group, size in sizes.items()}
    left = len(groups) // SHARE - sum(quota.values())
    for group in sorted(sizes, key=lambda one: -(sizes[one] % SHARE))[:left]:
        quota[group] += 1
    for group, size in sizes.items():
        quota[group] = min(max(quota[group], 1), size - 1)
    kept = [place for group in sizes for place in places[group][: quota[group]]]
    return np.sort(np.array(kept, dtype=np.intp))


def groups_of(labels: Sequence[Sequence[str]]) -> list[str]:
    """For each row its rarest label, so that rare ones are dealt out first; `` for a row of none."""
    counts = Counter(label for row in labels for label in row)
    return [min(row, key=lambda label: (counts[label], label), default="") for row in labels]
