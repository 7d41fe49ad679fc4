"""How far logits are from a reference. Pure functions on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def relative_error(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Root mean square of the difference over that of `right`; not a number if one is in there."""
    size = float(np.sqrt(np.mean(np.square(right, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(left - right, dtype=np.float64))))
    return error / size if size != 0 else float(error > 0)


def agreement(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Share of rows `(b, c)` with the same class; of a regression, with the same number."""
    if left.shape[1] == 1:
        return float(np.mean(np.isclose(left, right, atol=1e-4)))
    return float(np.mean(left.argmax(axis=1) == right.argmax(axis=1)))
