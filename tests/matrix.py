"""Combinations of options: all of them, most marked slow, and a few that meet every pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest


def matrix(first: Sequence, second: Sequence, *others: Sequence) -> list:
    """Every combination as parameters of a test.

    Slow are all but those in which the place on each other axis is the sum of the first two places, modulo
    its length: each pair of the first two axes occurs once, with the values of the others in turn.
    """
    found = []
    for places in product(*(range(len(axis)) for axis in (first, second, *others))):
        turn = places[0] + places[1]
        picked = all(
            place == turn % len(axis) for place, axis in zip(places[2:], others, strict=True)
        )
        values = [axis[place] for axis, place in zip((first, second, *others), places, strict=True)]
        found.append(pytest.param(*values, marks=() if picked else pytest.mark.slow))
    return found
