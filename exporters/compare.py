"""How far logits are from a reference. Pure functions on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def relative_error(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Root mean square of the difference over that of `right`; not a number if one is in there."""
    size = float(np.sqrt(np.mean(np.square(right, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(left - right, dtype=np.float64))))
    return error / size if size != 0 else float(error > 0)


def agreement(
    left: NDArray[np.float32], right: NDArray[np.float32], *, kind: str = "classification"
) -> float:
    """Share of rows `(b, c)` that mean the same: class, labels, or of a regression the number."""
    return float(np.mean(same_answers(left, right, kind=kind)))


def same_answers(
    left: NDArray[np.float32], right: NDArray[np.float32], *, kind: str = "classification"
) -> NDArray[np.bool_]:
    """For each row `(b, c)` whether both mean the same; one column is a regression."""
    if kind == "multi-label":
        return np.asarray(((left > 0) == (right > 0)).all(axis=1))
    if left.shape[1] == 1:
        return np.isclose(left, right, atol=1e-4)[:, 0]
    return np.asarray(left.argmax(axis=1) == right.argmax(axis=1))
