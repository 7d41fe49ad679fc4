"""Swap the linears of an encoder for masked ones, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from maskpack.compressor.masked import MaskedLinear


def mask_linears(base: nn.Module, names: Iterable[str], *, start: float) -> dict[str, MaskedLinear]:
    """Replace the linears whose weights are `names` in place, and freeze all that is left.

    Args:
        base: the base model; modified.
        names: parameter names such as `encoder.layer.0.output.dense.weight`.
        start: first value of every score.

    Returns:
        Parameter name -> the masked linear that now stands there.
    """
    base.requires_grad_(requires_grad=False)
    masked = {}
    for name in names:
        path = name.removesuffix(".weight")
        parent, _, leaf = path.rpartition(".")
        holder = base.get_submodule(parent)
        linear = holder.get_submodule(leaf)
        assert isinstance(linear, nn.Linear), name
        masked[name] = MaskedLinear(linear, start=start)
        setattr(holder, leaf, masked[name])
    return masked


def masked_linears(model: nn.Module) -> Iterator[MaskedLinear]:
    """All masked linears of a model, in the order of its modules."""
    return (module for module in model.modules() if isinstance(module, MaskedLinear))
