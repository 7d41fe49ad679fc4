"""Changes of a trained head that change no other byte; pure functions of numpy.

A head ends in a linear whose outputs are the logits. Its parameters divided by a number divide the logits, and a
change of its bias shifts them. So devices, graphs and plain models compute the change without knowing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ModelError
from maskpack.models.build import LastLinear

Head = Mapping[str, NDArray[np.float16]]
"""Parameter name -> value, as a patch stores it."""


def divided(head: Head, last: LastLinear, temperature: float) -> dict[str, NDArray[np.float16]]:
    """The head whose logits are divided by a temperature, to the precision of float16.

    >>> head = {"w": np.array([[2.0, 4.0]], dtype=np.float16), "b": np.array([1.0], dtype=np.float16)}
    >>> found = divided(head, LastLinear("w", "b"), 2.0)
    >>> found["w"].tolist(), found["b"].tolist(), head["b"].tolist()
    ([[1.0, 2.0]], [0.5], [1.0])
    """
    names = {last.weight, last.bias}
    return {
        name: _half(name, value.astype(np.float64) / temperature) if name in names else value
        for name, value in head.items()
    }


def shifted(
    head: Head, last: LastLinear, shifts: Mapping[int, float]
) -> dict[str, NDArray[np.float16]]:
    """The head with something added to single logits, to the precision of float16.

    Args:
        head: to be changed.
        last: its last linear, which has a bias.
        shifts: number of a logit -> what is added to it.

    >>> head = {"b": np.array([1.0, 2.0], dtype=np.float16)}
    >>> shifted(head, LastLinear("w", "b"), {1: -0.5})["b"].tolist()
    [1.0, 1.5]
    """
    assert last.bias is not None
    bias = head[last.bias].astype(np.float64)
    for logit, shift in shifts.items():
        bias[logit] += shift
    return {**head, last.bias: _half(last.bias, bias)}


def _half(name: str, value: NDArray[Any]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(f"`{name}` of the tuned head does not fit into float16")
    return half
