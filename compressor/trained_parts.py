"""What each baseline trains: the parameters of a method, grouped by learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from maskpack.compressor.config import BaselineConfig, Method
from maskpack.compressor.training.train import Group, every_weight
from maskpack.formats import ConfigError, ModelError
from maskpack.formats.extras import needed_for
from maskpack.models.build import base_of, head_parameters
from maskpack.models.families import projections_of


def trained_groups(model: Any, config: BaselineConfig) -> list[Group]:
    """Freeze the parameters that the method does not train, and group the others by learning rate.

    Raises:
        ConfigError: `head-pooler` for an encoder without a pooler, `bitfit` for one without biases.
    """
    if config.method in {Method.FULL, Method.IMP}:
        return every_weight(model, lr=config.peak_lr, head_lr=config.head_lr)
    head, base = Group(list(head_parameters(model).values()), config.head_lr), base_of(model)
    base.requires_grad_(requires_grad=False)
    if config.method is Method.HEAD:
        return [head]
    trained = list(_trained_in(base, config))
    for parameter in trained:
        parameter.requires_grad = True
    return [Group(trained, config.peak_lr), head]


def _trained_in(base: Any, config: BaselineConfig) -> Iterable[nn.Parameter]:
    """The parameters of a frozen encoder that the method trains.

    All of the pooler; every bias, LayerNorm's too: BitFit (Ben Zaken et al. 2022, arXiv 2106.10199);
    or low-rank factors beside query and value: LoRA (Hu et al. 2021, arXiv 2106.09685).
    """
    family = base.config.model_type
    if config.method is Method.HEAD_POOLER:
        pooler = getattr(base, "pooler", None)
        if not isinstance(pooler, nn.Module):
            raise ConfigError(f"`{family}` has no pooler to train", "use the method `head`")
        return pooler.parameters()
    if config.method is Method.BITFIT:
        biases = [p for name, p in base.named_parameters() if name.endswith("bias")]
        if not biases:
            raise ConfigError(f"`{family}` has no biases to train", "use the method `lora`")
        return biases
    with needed_for("`lora`"):
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - optional
    targets = projections_of(family)
    options = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=targets)
    inject_adapter_in_model(options, base)
    return (p for name, p in base.named_parameters() if "lora_" in name)


def check_finite(model: nn.Module) -> nn.Module:
    """`model` itself, if no parameter has diverged."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"training diverged: `{name}` holds a value that is not finite",
                "lower `lr` or `head_lr`",
            )
    return model
