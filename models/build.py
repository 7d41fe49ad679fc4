"""Classifiers built from a configuration and integer weights.

The weights are the backbone's dequantised codes, so that training and export start from the same function:
training computes with the weights of the artifact, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

from maskpack.formats import ArtifactError, Backbone, ModelError, Patch, QuantTensor
from maskpack.formats.pooling import Pooling
from maskpack.formats.target import TargetScale
from maskpack.models.cloze import check_tied
from maskpack.models.failures import failure
from maskpack.models.families import attention_of, check_rotary, family_of, settings_of
from maskpack.models.linears import linearize
from maskpack.models.pooling import POOLER, class_for, other_than_habit, set_pooling, set_vectors
from maskpack.models.sketch import class_for_task


def classifier_config(
    data: bytes,
    labels: Sequence[str],
    *,
    problem_type: str | None,
    auto_class: str,
    pooling: Pooling | None = None,
    vectors: bool = False,
) -> Any:
    """A transformers configuration for a classifier, or for a model that gives vectors.

    Args:
        data: bytes of `config.json`.
        labels: names in the order of the logits; empty for a number.
        problem_type: transformers' name of the meaning of the logits; None: it has none.
        auto_class: class of transformers that loads such a model.
        pooling: what the head reads; None: what it does in that class.
        vectors: whether the model has no head and gives the pooled vector.

    Raises:
        ConfigError: the family cannot pool so.
        ModelError: transformers cannot follow the configuration.
    """
    tree = json.loads(data)
    try:
        config = CONFIG_MAPPING[tree["model_type"]].from_dict(tree)
    except Exception as error:  # as of `fresh_classifier`
        raise failure(error, "config.json") from error
    config.update(settings_of(config))
    check_rotary(config)
    config.num_labels = max(1, len(labels))
    config.id2label = dict(enumerate(labels or ["LABEL_0"]))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.problem_type = problem_type
    if vectors:
        set_vectors(config, pooling or Pooling.MEAN)
    else:
        set_pooling(config, other_than_habit(pooling, config))
    config.architectures = [class_for_task(config, auto_class).__name__]
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
    attention = attention_of(config, attention)
    model = linearize(fresh_classifier(config, attn_implementation=attention).float())
    base = base_of(model)
    backbone = used_by(base, backbone)
    check_parameters(base, backbone, config)
    parameters = dict(base.named_parameters())
    with torch.no_grad():
        for name, tensor in _integers(backbone).items():
            parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
        for name, value in backbone.dense.items():
            parameters[name].copy_(torch.from_numpy(value.astype("f4")))
    return model


def used_by(base: nn.Module, backbone: Backbone) -> Backbone:
    """The parameters of a backbone that an encoder has: one whose head pools otherwise is without a pooler."""
    return backbone if getattr(base, POOLER, None) is not None else backbone.without(POOLER)


def check_parameters(base: nn.Module, backbone: Backbone, config: Any) -> None:
    """Raise ArtifactError unless backbone and architecture agree about names and shapes of parameters."""
    shapes = {name: tensor.shape for name, tensor in _integers(backbone).items()}
    shapes |= {name: tensor.shape for name, tensor in backbone.dense.items()}
    found = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    if odd := sorted(found.keys() ^ shapes.keys()):
        raise ArtifactError(f"backbone and `{config.model_type}` disagree about `{odd[0]}`")
    for name, shape in shapes.items():
        if found[name] != shape:
            raise ArtifactError(
                f"`{name}` is {shape} in the backbone, {found[name]} in `config.json`"
            )


def apply_patch(
    model: Any, backbone: Backbone, patch: Patch, target: TargetScale | None = None
) -> Any:
    """Write the masked weights and tensors of a patch into a model of `build_classifier`, in place.

    Its answers are in the unit of a target that has a scale.
    """
    base = dict(base_of(model).named_parameters())
    patch.check_fits(backbone)
    with torch.no_grad():
        for name in patch.masks.keys() | patch.gains.keys():
            own = patch.linear_over(backbone, name).dequantize()
            base[name].copy_(torch.from_numpy(own))
    return apply_dense(model, patch, target)


def apply_dense(model: Any, patch: Patch, target: TargetScale | None = None) -> Any:
    """The part of `apply_patch` that is not a mask's: the head, and dense parameters of the encoder."""
    base, head = dict(base_of(model).named_parameters()), head_parameters(model)
    if set(head) != set(patch.head):
        odd = sorted(set(head) ^ set(patch.head))
        raise ArtifactError(f"the patch's head and the architecture disagree about `{odd[0]}`")
    for name, value in patch.head.items():
        if value.shape != tuple(head[name].shape):
            wanted = tuple(head[name].shape)
            raise ArtifactError(f"`{name}` of the patch's head is {value.shape}, expected {wanted}")
    with torch.no_grad():
        for name, value in patch.dense.items():
            base[name].copy_(torch.from_numpy(value.astype("f4")))
        for name, value in patch.head.items():
            head[name].copy_(torch.from_numpy(value.astype("f4")))
    return fold_scale(model, target).eval()


@dataclass(frozen=True)
class LastLinear:
    """Names of the parameters of the linear whose outputs are the logits.

    Attributes:
        weight: of its weight.
        bias: of its bias; None: it has none.
    """

    weight: str
    bias: str | None


def last_linear(model: Any) -> LastLinear | None:
    """The linear that a classifier's head ends in; None if it ends in something else."""
    head, outputs = head_parameters(model), model.config.num_labels
    names = [name for name, p in head.items() if p.ndim == 2 and len(p) == outputs]
    if not names:
        return None
    bias = names[-1].removesuffix("weight") + "bias"  # a layer before it may have as many outputs
    return LastLinear(names[-1], bias if bias in head else None)


def last_of_head(model: Any) -> nn.Linear:
    """The linear whose output is the number that a regression answers."""
    names = last_linear(model)
    assert names is not None
    last = model.get_submodule(names.weight.removesuffix(".weight"))
    assert isinstance(last, nn.Linear)
    return last


def fold_scale(model: Any, target: TargetScale | None) -> Any:
    """Put a target's scale into the head, in float32 and in place: its answers are in the target's unit from now on."""
    if target is not None:
        last = last_of_head(model)
        with torch.no_grad():
            old = torch.zeros_like(last.weight[:, 0]) if last.bias is None else last.bias
            last.bias = nn.Parameter(target.natural(old))  # GPT-2 and Llama have none
            last.weight.mul_(target.scale)
    return model


def check_plain(shape: Any, model_type: str, target: TargetScale | None) -> None:
    """Refuse a target's mean where a plain model of the family has no parameter for it.

    Args:
        shape: names of a head's parameters.
        model_type: architecture, for the error.
        target: the scale.

    Raises:
        ModelError: the head has no bias.
    """
    if target is not None and target.mean and not any(name.endswith("bias") for name in shape):
        raise ModelError(
            f"the head of `{model_type}` has no bias, and the targets a mean of {target.mean:g}: a plain model "
            "cannot hold it",
            "take the mean off the numbers yourself, or choose another model",
        )


def unfold_scale(model: Any, target: TargetScale | None) -> Any:
    """Take a target's scale out of a head whose answers are in the target's unit; inverse of `fold_scale`."""
    if target is not None:
        last = last_of_head(model)
        with torch.no_grad():
            last.weight.div_(target.scale)
            if last.bias is not None:
                last.bias.copy_(target.standard(last.bias))
    return model


@torch.no_grad()
def reorder_outputs(model: Any, places: Sequence[int], names: Sequence[str]) -> None:
    """Let output `i` of a fine-tuned model be the one that was at `places[i]`, under these names; in place."""
    last = last_of_head(model)
    for parameter in (last.weight, last.bias):
        if parameter is not None:
            parameter.copy_(parameter[list(places)])
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: place for place, name in enumerate(names)}


def scale_outputs(model: Any, target: TargetScale | None) -> Callable[[], None]:
    """Let a model answer in the target's unit, in float32, while its head learns in its own.

    Returns:
        Function that takes it back.
    """
    if target is None:
        return lambda: None

    def scaled(_: nn.Module, __: Any, outputs: Any) -> Any:
        outputs.logits = target.natural(outputs.logits.float())
        return outputs

    return cast("nn.Module", model).register_forward_hook(scaled).remove


def model_class(config: Any) -> Any:
    """The class of transformers for a configuration of `classifier_config`."""
    return class_for(config, getattr(transformers, config.architectures[0]))


def fresh_classifier(config: Any, **options: Any) -> Any:
    """A classifier of transformers with random weights.

    Args:
        config: of `classifier_config`.
        **options: of transformers' `_from_config`.

    Raises:
        ModelError: transformers cannot follow the configuration, whose values may be of any type.
    """
    try:
        model = model_class(config)._from_config(config, **options)  # noqa: SLF001
    except Exception as error:
        raise failure(error, "config.json") from error
    return check_tied(model)


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
        values: of all parameters of the encoder.
        last: the linear whose outputs are the logits; None: there is none.
    """

    linears: Mapping[str, tuple[int, int]]
    dense: Mapping[str, int]
    head_bytes: int
    values: int = 0
    last: LastLinear | None = None

    @property
    def biases_of_linears(self) -> frozenset[str]:
        """Names that a linear's bias has, or would have."""
        return frozenset(name.removesuffix("weight") + "bias" for name in self.linears)


def parameter_shapes(config: Any) -> ParameterShapes:
    """The shape of the classifier that a transformers configuration describes."""
    # heads that were pruned are looked up by values, which parameters of the meta device have not
    with torch.device("cpu" if getattr(config, "pruned_heads", None) else "meta"):
        model = linearize(fresh_classifier(config))
    head = sum(2 * parameter.numel() for parameter in head_parameters(model).values())
    return replace(shapes_of(base_of(model), head_bytes=head), last=last_linear(model))


def shapes_of(base: nn.Module, *, head_bytes: int = 0) -> ParameterShapes:
    """The shape of an encoder whose linears are `nn.Linear`."""
    linears = {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear)
    }
    dense = {name: p.numel() for name, p in base.named_parameters() if p.ndim == 1}
    values = sum(parameter.numel() for parameter in base.parameters())
    return ParameterShapes(linears, dense, head_bytes, values)
