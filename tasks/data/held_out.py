"""Which rows of one file are held out for evaluation: a tenth of every label or of all contexts, the same for every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE = 10  # one row in so many
SEED = 0  # the same rows for every run: runs differ, data does not


@dataclass(frozen=True)
class HeldOut:
    """Rows that were held out of one file or split.

    Attributes:
        rows, total: held out, and in all.
        by_label: whether every label was given its share.
        together: whether rows of one context are on one side.
    """

    rows: int
    total: int
    by_label: bool
    together: bool = False


def held_out_places(groups: Sequence[str]) -> NDArray[np.intp]:
    """Indices of the rows that are held out, in order.

    A tenth of all, divided among the groups by their size; a group of two rows or more is in both
    splits whatever its size, and a group of one stays in training.

    Args:
        groups: the group of each row.
    """
    names = sorted(set(groups))
    number = {name: index for index, name in enumerate(names)}
    own = np.fromiter((number[group] for group in groups), dtype=np.int32, count=len(groups))
    order = np.random.default_rng(SEED).permutation(len(groups))
    order = order[np.argsort(own[order], kind="stable")]  # by group, at random within each
    sizes = np.bincount(own, minlength=len(names))
    quota = sizes // SHARE
    left = len(groups) // SHARE - int(quota.sum())
    quota[np.argsort(-(sizes % SHARE), kind="stable")[:left]] += 1
    quota = np.minimum(np.maximum(quota, 1), sizes - 1)
    starts = np.cumsum(sizes) - sizes
    kept = [order[start : start + some] for start, some in zip(starts, quota, strict=True)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.intp), *kept]))


def whole_groups(groups: Sequence[str]) -> NDArray[np.intp]:
    """Indices of rows that are held out, in order: whole groups, drawn at random, until a tenth of all rows is reached.

    Args:
        groups: the group of each row; of one group alone nothing is held out.
    """
    names = sorted(set(groups))
    number = {name: index for index, name in enumerate(names)}
    own = np.fromiter((number[group] for group in groups), dtype=np.int64, count=len(groups))
    sizes = np.bincount(own, minlength=len(names))
    order = np.random.default_rng(SEED).permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = order[before < len(groups) // SHARE][: len(names) - 1]
    return np.flatnonzero(np.isin(own, chosen))


def groups_of(labels: Sequence[Sequence[str]]) -> list[str]:
    """For each row its rarest label, so that rare labels are divided first; `` for a row without labels."""
    counts = Counter(label for row in labels for label in row)
    known = {
        label: label for label in (*counts, "")
    }  # one object for a label, not one for each row
    return [known[min(row, key=lambda label: (counts[label], label), default="")] for row in labels]
