"""Which of two values of a metric is better, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable

SMALLER = frozenset({"mae", "rmse", "perplexity"})
"""Metrics that are smaller where a task is better."""


def gain(metric: str, value: float, reference: float) -> float:
    """By how many points a value of a metric is better than another one; below 0 where it is worse.

    A point is a hundredth of a metric that is larger where a task is better, and one percent of the reference of any other.

    >>> round(gain("accuracy", 0.91, 0.9), 6), round(gain("perplexity", 10.5, 10.0), 6)
    (1.0, -5.0)
    """
    if metric not in SMALLER:
        return 100.0 * (value - reference)
    if value == reference:
        return 0.0
    return 100.0 * (reference - value) / reference if reference else -math.inf


def best_of(metric: str, values: Iterable[float]) -> float:
    """The best of some values of a metric."""
    return (min if metric in SMALLER else max)(values)
