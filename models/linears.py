"""Every weight matrix of a classifier as an `nn.Linear`; replacing linears by name; the old forms for saving.

Quantisers, masks and graph passes handle linears only. Two architectures hold matrices in other
forms, which compute the same:

    GPT-2   `Conv1D`, weight (i, o)                          a linear with the transposed weight
    XLNet   q, k, v, r: parameters (i, heads, size)          linears (heads * size, i)
            o: a parameter (o, heads, size)                  a linear (o, heads * size)

XLNet's five are 38 % of a layer's weights: leaving them in float16 would keep most of its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention
from transformers.pytorch_utils import Conv1D

_INWARD = ("q", "k", "v", "r")  # XLNet's projections into heads; `o` leads out of them


class FormerConv1D(nn.Linear):
    """A linear that transformers saves as `Conv1D`."""


class LinearXLNetAttention(XLNetRelativeAttention):  # type: ignore[misc]  # transformers' is untyped
    """XLNet's attention over one segment, with linears for its projections.

    Memory and the second stream, which only pretraining and generation need, are left out.
    """

    def __init__(self, attention: XLNetRelativeAttention) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(
            (name, value) for name, value in vars(attention).items() if not name.startswith("_")
        )
        for name in _INWARD:
            weight = getattr(attention, name).detach()
            setattr(self, name, _linear(nn.Linear, weight.flatten(1).T))
        self.o = _linear(nn.Linear, attention.o.detach().flatten(1))
        for name in ("r_r_bias", "r_s_bias", "r_w_bias", "seg_embed", "layer_norm", "dropout"):
            setattr(self, name, getattr(attention, name))

    def forward(
        self,
        h: Tensor,
        g: None,
        attn_mask_h: Tensor,
        attn_mask_g: Tensor,
        r: Tensor,
        seg_mat: Tensor | None,
        **unused: Any,
    ) -> tuple[Tensor, ...]:
        """As transformers' layer, `(s, b, i)` to the same shape."""
        del g, attn_mask_g
        heads = self.rel_attn_core(
            self._heads(self.q, h),
            self._heads(self.k, h),
            self._heads(self.v, h),
            self._heads(self.r, r),
            seg_mat=seg_mat,
            attn_mask=attn_mask_h,
            output_attentions=unused.get("output_attentions", False),
        )
        attended = heads if isinstance(heads, tuple) else (heads,)
        return (self.post_attention(h, attended[0]), None, *attended[1:])

    def post_attention(self, h: Tensor, attn_vec: Tensor, residual: bool = True) -> Tensor:
        """Project the heads `(s, b, heads, size)` to `(s, b, i)`, and add the residual."""
        out = self.dropout(self.o(attn_vec.flatten(2)))
        normal: Tensor = self.layer_norm(out + h if residual else out)
        return normal

    def _heads(self, projection: nn.Module, inputs: Tensor) -> Tensor:
        """`(s, b, i)` to `(s, b, heads, size)`."""
        projected: Tensor = projection(inputs)
        return projected.view(*projected.shape[:2], self.n_head, self.d_head)


class _InFloat32:
    """Before an attention: it computes in float32 where the rest of a model computes in half precision."""

    def forward(self, hidden_states: Tensor, *inputs: Any, **named: Any) -> Any:
        """As of the attention."""
        attention: Any = super()
        device = hidden_states.device.type
        if not torch.is_autocast_enabled(device):
            return attention.forward(hidden_states, *inputs, **named)
        with torch.autocast(device, enabled=False):
            return attention.forward(hidden_states.float(), *inputs, **named)


def _overflows(module: nn.Module) -> bool:
    """Whether it is the attention of the first DeBERTa, as transformers has it; the second one's has no `in_proj`."""
    if isinstance(module, _InFloat32):
        return False
    return type(module).__name__ == "DisentangledSelfAttention" and hasattr(module, "in_proj")


@cache
def _in_float32(kind: type) -> type:
    return type(kind.__name__, (_InFloat32, kind), {"__module__": __name__})


def linearize(model: Any) -> Any:
    """Put linears in place of other forms, in place; return the model.

    The attention of the first DeBERTa, which masks with a number that half precision has not, computes in float32 besides.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = _linear(FormerConv1D, child.weight.detach().T, child.bias)
                setattr(module, name, linear)
            elif type(child) is XLNetRelativeAttention:
                setattr(module, name, LinearXLNetAttention(child))
            elif _overflows(child):
                child.__class__ = _in_float32(child.__class__)
    return model


def plain_state(model: Any) -> dict[str, Tensor]:
    """The state that transformers saves and loads for this architecture; inverse of `linearize`."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for path, module in model.named_modules():
        if isinstance(module, FormerConv1D):
            state[f"{path}.weight"] = module.weight.detach().T.contiguous()
        elif isinstance(module, LinearXLNetAttention):
            shape = (-1, module.n_head, module.d_head)
            for name in _INWARD:
                weight = state.pop(f"{path}.{name}.weight")
                state[f"{path}.{name}"] = weight.T.reshape(shape)
            weight = state.pop(f"{path}.o.weight")
            state[f"{path}.o"] = weight.reshape(shape)
    return state


def _linear(kind: type[nn.Linear], weight: Tensor, bias: nn.Parameter | None = None) -> nn.Linear:
    """A linear with the weight `(o, i)`; made without drawing random numbers."""
    outputs, inputs = weight.shape
    linear = kind(inputs, outputs, bias=False, device=torch.device("meta"))
    linear.weight = nn.Parameter(weight.contiguous())
    linear.bias = bias  # type: ignore[assignment]  # torch's stubs do not know a linear without one
    return linear


_LAYER = re.compile(r"\.(\d+)\.")
Module = TypeVar("Module", bound=nn.Module)


def swap_linear(base: nn.Module, name: str, make: Callable[[nn.Linear], Module]) -> Module:
    """Put `make(linear)` in place of the linear whose weight is called `name`, and return it."""
    parent, _, leaf = name.removesuffix(".weight").rpartition(".")
    holder = base.get_submodule(parent)
    linear = holder.get_submodule(leaf)
    assert isinstance(linear, nn.Linear), name
    swapped = make(linear)
    setattr(holder, leaf, swapped)
    return swapped


def holder_of(name: str) -> str:
    """Path of the encoder layer that a parameter lies in; empty outside of layers.

    >>> holder_of("encoder.layer.3.output.dense.weight"), holder_of("pooler.dense.weight")
    ('encoder.layer.3', '')
    """
    match = _LAYER.search(name)
    return name[: match.end(1)] if match else ""


def layer_of(name: str) -> int | None:
    """Number of the encoder layer a parameter lies in, or None.

    >>> layer_of("encoder.layer.3.output.dense.weight"), layer_of("pooler.dense.weight")
    (3, None)
    """
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def fold_factors(model: nn.Module) -> None:
    """Add the factors of `lora` to their weights, so that a plain model is evaluated and saved."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer"):
                layer: Any = child  # peft ships no types
                layer.merge()
                setattr(module, name, layer.get_base_layer())
