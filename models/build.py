"""Classifiers built from a configuration and integer weights.

The weights are the backbone's dequantised codes, so that training and export start from the same function:
training computes with the weights of the artifact, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

from maskpack.formats import ArtifactError, Backbone, Patch, QuantTensor
from maskpack.models.families import check_rotary, family_of, settings_of
from maskpack.models.linears import linearize


def classifier_config(
    data: bytes, labels: Sequence[str], *, problem_type: str, auto_class: str
) -> Any:
    """A transformers configuration for a classifier.

    Args:
        data: bytes of `config.json`.
        labels: names in the order of the logits; empty for a number.
        problem_type: transformers' name of the meaning of the logits.
        auto_class: class of transformers that loads such a model.
    """
    tree = json.loads(data)
    config = CONFIG_MAPPING[tree["model_type"]].from_dict(tree)
    config.update(settings_of(config))
    check_rotary(config)
    config.num_labels = max(1, len(labels))
    names = list(labels) or ["LABEL_0"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = problem_type
    auto = getattr(transformers, auto_class)
    config.architectures = [auto._model_mapping[type(config)].__name__]  # noqa: SLF001
    return config


def build_classifier(
    backbone: Backbone, config: Any, *, seed: int, attention: str | None = None
) -> Any:
    """A float32 classifier with the backbone's dequantised weights and a fresh head.

    Args:
        backbone: the weights.
        config: from `classifier_config`.
        seed: of the head's initialisation.
        attention: implementation of attention; None: transformers' default.

    Raises:
        ArtifactError: backbone and architecture disagree about a parameter.
    """
    torch.manual_seed(seed)
    model = model_class(config)._from_config(config, attn_implementation=attention)  # noqa: SLF001
    model = linearize(model.float())
    base = base_of(model)
    values = {name: tensor.dequantize() for name, tensor in _integers(backbone).items()}
    values.update({name: tensor.astype("f4") for name, tensor in backbone.dense.items()})
    parameters = dict(base.named_parameters())
    if set(parameters) != set(values):
        odd = sorted(set(parameters) ^ set(values))
        raise ArtifactError(f"backbone and `{config.model_type}` disagree about `{odd[0]}`")
    with torch.no_grad():
        for name, value in values.items():
            if tuple(parameters[name].shape) != value.shape:
                raise ArtifactError(
                    f"`{name}` is {value.shape} in the backbone, "
                    f"{tuple(parameters[name].shape)} in `config.json`"
                )
            parameters[name].copy_(torch.from_numpy(value))
    return model


def apply_patch(model: Any, backbone: Backbone, patch: Patch) -> Any:
    """Write the masked weights and tensors of a patch into a model of `build_classifier`, in place."""
    base = dict(base_of(model).named_parameters())
    head = head_parameters(model)
    if set(head) != set(patch.head):
        odd = sorted(set(head) ^ set(patch.head))
        raise ArtifactError(f"the patch's head and the architecture disagree about `{odd[0]}`")
    for name, value in patch.head.items():
        if value.shape != tuple(head[name].shape):
            wanted = tuple(head[name].shape)
            raise ArtifactError(f"`{name}` of the patch's head is {value.shape}, expected {wanted}")
    with torch.no_grad():
        own = patch.over(backbone)
        for name in patch.masks.keys() | patch.gains.keys():
            base[name].copy_(torch.from_numpy(own.linears[name].dequantize()))
        for name, value in patch.dense.items():
            base[name].copy_(torch.from_numpy(value.astype("f4")))
        for name, value in patch.head.items():
            head[name].copy_(torch.from_numpy(value.astype("f4")))
    return model.eval()


def model_class(config: Any) -> Any:
    """The class of transformers for a configuration of `classifier_config`."""
    return getattr(transformers, config.architectures[0])


def base_of(model: Any) -> nn.Module:
    """The encoder inside a classifier."""
    base = getattr(model, family_of(model.config.model_type).base)
    assert isinstance(base, nn.Module)
    return base


def head_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The dense, task-specific parameters: all parameters outside the encoder."""
    prefix = family_of(model.config.model_type).base + "."
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(prefix)
    }


def _integers(backbone: Backbone) -> Mapping[str, QuantTensor]:
    return {**backbone.linears, **backbone.embeddings}


@dataclass(frozen=True)
class ParameterShapes:
    """Names and sizes, as a backbone has them.

    Attributes:
        linears: parameter name -> `(o, i)`.
        dense: parameter name of a bias or LayerNorm parameter -> values.
        head_bytes: of the task's own layers in float16.
    """

    linears: Mapping[str, tuple[int, int]]
    dense: Mapping[str, int]
    head_bytes: int

    @property
    def biases_of_linears(self) -> frozenset[str]:
        """Names that a linear's bias has, or would have."""
        return frozenset(name.removesuffix("weight") + "bias" for name in self.linears)


def parameter_shapes(config: Any) -> ParameterShapes:
    """The shape of the classifier that a transformers configuration describes."""
    with torch.device("meta"):
        model = linearize(model_class(config)._from_config(config))  # noqa: SLF001
    base = base_of(model)
    linears = {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear)
    }
    dense = {name: p.numel() for name, p in base.named_parameters() if p.ndim == 1}
    head = sum(2 * parameter.numel() for parameter in head_parameters(model).values())
    return ParameterShapes(linears, dense, head)
