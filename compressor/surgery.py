"""Swap the linears of an encoder for masked ones, by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from maskpack.compressor.masked import MaskedLinear


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
        path = name.removesuffix(".weight")
        parent, _, leaf = path.rpartition(".")
        holder = base.get_submodule(parent)
        linear = holder.get_submodule(leaf)
        assert isinstance(linear, nn.Linear), name
        masked[name] = MaskedLinear(linear, start=start, drawn=drawn, gains=gains)
        setattr(holder, leaf, masked[name])
    return masked
