"""Classifiers whose integer weights take no memory until they compute.

An *outline* has the modules, the dense parameters and the head of a classifier; each integer weight is a zero that is
spread over the shape of its matrix. A graph is traced from it, because tracing reads no values. `fill_weights` puts the
floats in: all at once, or those of a large backbone layer by layer, for as long as the layer computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from maskpack.formats import Backbone, Patch
from maskpack.models.build import base_of, check_parameters, fresh_classifier, used_by
from maskpack.models.families import attention_of
from maskpack.models.linears import holder_of, linearize


def build_outline(backbone: Backbone, config: Any, *, attention: str | None = None) -> Any:
    """A float32 classifier in evaluation mode, without integer weights and with a head of zeros.

    Args:
        backbone: the weights; dense ones are there.
        config: from `classifier_config`.
        attention: implementation of attention; None: transformers' default.

    Raises:
        ArtifactError: backbone and architecture disagree about a parameter.
    """
    attention = attention_of(config, attention)
    # heads that were pruned are looked up by values
    with nullcontext() if getattr(config, "pruned_heads", None) else _without_values():
        model = linearize(fresh_classifier(config, attn_implementation=attention).float())
    base = base_of(model)
    backbone = used_by(base, backbone)
    check_parameters(base, backbone, config)
    inside = {id(parameter): name for name, parameter in base.named_parameters()}
    shared = names_of(model)
    for parameter in list(model.parameters()):
        own = inside.get(id(parameter))
        if own is None:
            value = torch.zeros(parameter.shape)
        elif own in backbone.dense:
            value = torch.from_numpy(backbone.dense[own].astype("f4"))
        else:
            value = torch.zeros(()).expand(parameter.shape)
        _set_all(model, shared[id(parameter)], nn.Parameter(value))
    return model.eval()


def fill_weights(
    model: Any, backbone: Backbone, patch: Patch | None = None, *, for_answers: bool = False
) -> Any:
    """Put dequantised weights into an outline, as the patch masks them; return it.

    Args:
        model: of `build_outline`.
        backbone: the weights.
        patch: of a task; None: the backbone's own weights.
        for_answers: whether the model is only called. Then layers of a large backbone are filled when they are called,
            and emptied again: nothing else may read their weights.
    """
    base, shared = base_of(model), names_of(model)
    backbone, held = used_by(base, backbone), dict(base.named_parameters())

    def value(name: str) -> Tensor:
        tensor = (
            backbone.embeddings[name]
            if name in backbone.embeddings
            else backbone.linears[name]
            if patch is None
            else patch.linear_over(backbone, name)
        )
        return torch.from_numpy(tensor.dequantize())

    layers: dict[str, list[str]] = {}
    large = for_answers and backbone.is_large
    for name in (*backbone.linears, *backbone.embeddings):
        holder = holder_of(name) if large else ""
        if holder:
            layers.setdefault(holder, []).append(name)
        else:
            _set_all(model, shared[id(held[name])], nn.Parameter(value(name)))
    for holder, names in layers.items():
        _fill_when_called(base, base.get_submodule(holder), names, value)
    return model


def _fill_when_called(base: nn.Module, layer: nn.Module, names: list[str], value: Any) -> None:
    empty = dict(base.named_parameters())

    def fill(*_: Any) -> None:
        for name in names:
            filled = value(name).to(empty[name].device)
            _set(base, name, nn.Parameter(filled, requires_grad=False))

    def clear(*_: Any) -> None:
        for name in names:
            _set(base, name, empty[name])

    layer.register_forward_pre_hook(fill)
    layer.register_forward_hook(clear)


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """Identity of each parameter -> all of its names: a decoder may be the table of embeddings once more."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return found


def _set_all(model: nn.Module, names: list[str], parameter: nn.Parameter) -> None:
    for name in names:
        _set(model, name, parameter)


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


@contextmanager
def _without_values() -> Iterator[None]:
    """Modules that are made have parameters without values; buffers, which a graph holds, have theirs."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # one that has no values already may be another module's too, and stays the same object
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"))
        register(module, name, parameter)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
