"""What each baseline trains.

`full` trains every weight, `head` only the task-specific layers, `head-pooler` those and the pooler
(the stricter floor: a pooler that was never trained for anything is a poor input for a linear
classifier), `bitfit` and `lora` the head and a small patch of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.learning.train import Group
from maskpack.compressor.models.families import family_of
from maskpack.compressor.restore import base_of, head_parameters
from maskpack.formats import ConfigError


def trained_groups(model: Any, config: BaselineConfig) -> list[Group]:
    """Freeze what the method does not train, and group the rest by learning rate.

    Raises:
        ConfigError: `head-pooler` for an encoder without a pooler, `bitfit` for one without biases.
    """
    head = Group(list(head_parameters(model).values()), config.head_lr)
    base = base_of(model)
    if config.method is Method.FULL:
        return [Group(list(base.parameters()), config.peak_lr), head]
    base.requires_grad_(requires_grad=False)
    if config.method is Method.HEAD:
        return [head]
    trained = list(_TRAINED[config.method](base, config))
    for parameter in trained:
        parameter.requires_grad = True
    return [Group(trained, config.peak_lr), head]


def _pooler(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """All of the pooler."""
    pooler = getattr(base, "pooler", None)
    if not isinstance(pooler, nn.Module):
        raise ConfigError(
            f"`{base.config.model_type}` has no pooler to train", "use `--method head`"
        )
    del config
    return pooler.parameters()


def _biases(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """Every bias, LayerNorm's too: BitFit (Ben Zaken et al. 2022, arXiv 2106.10199)."""
    del config
    biases = [p for name, p in base.named_parameters() if name.endswith("bias")]
    if not biases:
        raise ConfigError(
            f"`{base.config.model_type}` has no biases to train", "use `--method lora`"
        )
    return biases


def _factors(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """Low-rank factors beside query and value: LoRA (Hu et al. 2021, arXiv 2106.09685)."""
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("`lora` needs the package peft", "pip install peft") from None
    targets = list(family_of(base.config.model_type).projections)
    options = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=targets)
    inject_adapter_in_model(options, base)
    return (p for name, p in base.named_parameters() if "lora_" in name)


def fold_factors(model: nn.Module) -> None:
    """Add the factors of `lora` to their weights, so that what is measured and saved is plain."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer"):
                layer: Any = child  # peft ships no types
                layer.merge()
                setattr(module, name, layer.get_base_layer())


_TRAINED: dict[Method, Callable[[Any, BaselineConfig], Iterable[nn.Parameter]]] = {
    Method.HEAD_POOLER: _pooler,
    Method.BITFIT: _biases,
    Method.LORA: _factors,
}
