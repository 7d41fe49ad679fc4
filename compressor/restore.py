"""An artifact's task back to a plain torch model: dequantised weights times the mask.

Training starts from the same function, without a mask: what is learned on is, bit for bit, what the
artifact holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from maskpack.compressor.data.tasks import Kind
from maskpack.compressor.models.families import check_rotary, family_of, settings_of
from maskpack.compressor.models.linearize import linearize
from maskpack.formats import Artifact, ArtifactError, Backbone, Patch, QuantTensor, TaskEntry
from maskpack.formats.schema import CONFIG

PROBLEM_TYPES = {
    Kind.CLASSIFICATION: "single_label_classification",
    Kind.REGRESSION: "regression",
    Kind.MULTI_LABEL: "multi_label_classification",
}
"""What transformers calls each kind in `config.json`."""


def restore_task(artifact: Artifact, task: str, *, attention: str | None = None) -> Any:
    """The torch model of one task, in evaluation mode.

    Args:
        artifact: an open artifact.
        task: one of its tasks.
        attention: implementation of attention; None: what transformers prefers; `eager` traces best.
    """
    entry = artifact.entry(task)
    config = task_config(artifact, entry)
    return apply_patch(
        build_classifier(artifact.backbone, config, seed=0, attention=attention),
        artifact.backbone,
        artifact.patch(task),
    )


def task_config(artifact: Artifact, entry: TaskEntry) -> Any:
    """The configuration of one of an artifact's tasks."""
    return classifier_config(
        artifact.file(CONFIG), entry.labels, outputs=entry.outputs, kind=Kind(entry.kind)
    )


def classifier_config(
    data: bytes, labels: Sequence[str], *, outputs: int, kind: Kind = Kind.CLASSIFICATION
) -> Any:
    """A transformers configuration for a classifier.

    Args:
        data: bytes of `config.json`.
        labels: names in the order of the logits; empty for a regression.
        outputs: width of the logits; one is a regression, whatever the kind.
        kind: what the logits mean.
    """
    tree = json.loads(data)
    config = CONFIG_MAPPING[tree["model_type"]].from_dict(tree)
    config.update(settings_of(config))
    check_rotary(config)
    config.num_labels = outputs
    names = list(labels) or ["LABEL_0"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: place for place, name in enumerate(names)}
    config.problem_type = PROBLEM_TYPES[Kind.REGRESSION if outputs == 1 else kind]
    config.architectures = [
        AutoModelForSequenceClassification._model_mapping[type(config)].__name__  # noqa: SLF001
    ]
    return config


def build_classifier(
    backbone: Backbone, config: Any, *, seed: int, attention: str | None = None
) -> Any:
    """A float32 classifier with the backbone's dequantised weights and a fresh head.

    Args:
        backbone: the weights.
        config: from `classifier_config`.
        seed: of the head's initialisation.
        attention: implementation of attention; None: what transformers prefers.

    Raises:
        ArtifactError: backbone and architecture disagree about a parameter.
    """
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
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
    """Write what a patch changes into a model of `build_classifier`, in place."""
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


def base_of(model: Any) -> nn.Module:
    """The encoder inside a classifier."""
    base = getattr(model, family_of(model.config.model_type).base)
    assert isinstance(base, nn.Module)
    return base


def head_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The dense, task-specific parameters: all that lies outside the encoder."""
    prefix = family_of(model.config.model_type).base + "."
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(prefix)
    }


def _integers(backbone: Backbone) -> Mapping[str, QuantTensor]:
    return {**backbone.linears, **backbone.embeddings}
