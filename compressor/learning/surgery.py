"""Find and swap the linears of an encoder, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from maskpack.compressor.learning.masked import MaskedLinear

_LAYER = re.compile(r"\.(\d+)\.")
Module = TypeVar("Module", bound=nn.Module)


def mask_linears(
    base: nn.Module,
    starts: Mapping[str, float | Tensor],
    *,
    drawn: bool = False,
    gains: bool = False,
) -> dict[str, MaskedLinear]:
    """Replace the linears whose weights are named in `starts` in place, and freeze all that is left.

    Args:
        base: the base model; modified.
        starts: parameter name, such as `encoder.layer.0.output.dense.weight`, -> first scores:
            `(o, i)`, or one number for all.
        drawn: whether mask bits are drawn, see `MaskedLinear`.
        gains: whether rows get learned factors.

    Returns:
        Parameter name -> the masked linear that now stands there.
    """
    base.requires_grad_(requires_grad=False)
    masked = {}
    for name, start in starts.items():
        make = partial(MaskedLinear, start=start, drawn=drawn, gains=gains)
        masked[name] = swap_linear(base, name, make)
    return masked


def swap_linear(base: nn.Module, name: str, make: Callable[[nn.Linear], Module]) -> Module:
    """Put `make(linear)` in place of the linear whose weight is called `name`, and return it."""
    parent, _, leaf = name.removesuffix(".weight").rpartition(".")
    holder = base.get_submodule(parent)
    linear = holder.get_submodule(leaf)
    assert isinstance(linear, nn.Linear), name
    swapped = make(linear)
    setattr(holder, leaf, swapped)
    return swapped


def layer_of(name: str) -> int | None:
    """Number of the encoder layer a parameter lies in, or None.

    >>> layer_of("encoder.layer.3.output.dense.weight"), layer_of("pooler.dense.weight")
    (3, None)
    """
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None
