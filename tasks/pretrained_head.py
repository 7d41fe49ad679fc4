"""A fine-tuned classifier as the model of a run: the task's head starts as its head.

This needs as many labels of the same names. The task's labels then get the
model's order, so that a logit keeps its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskpack.formats import ArtifactError, ModelError
from maskpack.formats.pooling import Pooling
from maskpack.formats.target import TargetScale
from maskpack.models.build import (
    fresh_classifier,
    head_parameters,
    reorder_outputs,
    scale_outputs,
    unfold_scale,
)
from maskpack.models.cloze import ENDING
from maskpack.models.config import load_config
from maskpack.models.failures import NotFiniteError
from maskpack.models.labels import label_names, label_problem, unnamed
from maskpack.models.load import load_finetuned
from maskpack.models.locate import resolve
from maskpack.models.padding import set_pad_token
from maskpack.models.pooling import actual_pooling, own_pooler
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.types import TaskType, has_several

_PRETRAINED = (ENDING, "ForPreTraining")
"""How classes end with which pretrained models are saved that fill masks."""

FRESH = ": the task gets a fresh head"
"""How a note about a head that does not fit ends."""

_MANY = 6  # labels that a note spells out


@dataclass(frozen=True, eq=False)
class PretrainedHead:
    """The head of a fine-tuned model.

    Attributes:
        model: folder, hub id or alias.
        labels: the task's labels in the order of its logits; empty for a regression.
        parameters: name -> value.
    """

    model: str
    labels: tuple[str, ...]
    parameters: Mapping[str, Tensor]

    def copy_to(self, classifier: Any) -> None:
        """Put the head into a classifier of the same architecture, in place."""
        own = head_parameters(classifier)
        if {name: p.shape for name, p in own.items()} != {
            name: value.shape for name, value in self.parameters.items()
        }:
            raise ArtifactError(f"the head of `{self.model}` is not that of its architecture")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(self.parameters[name])

    def scale(self, target: TargetScale | None) -> TargetScale | None:
        """A target's scale for this head, which answers in the target's unit; without a bias it has the mean in its weights."""
        biased = any(p.ndim == 1 and len(p) == 1 for p in self.parameters.values())
        return target if target is None or biased else TargetScale(0.0, target.scale)


def start_head(classifier: Any, head: PretrainedHead | None, target: TargetScale | None) -> Any:
    """Let a classifier start with a head, or its fresh one, and answer in the target's unit; in place."""
    if head is not None:
        head.copy_to(classifier)
        unfold_scale(classifier, target)
    scale_outputs(classifier, target)
    return classifier


def scale_for(
    kind: TaskType, labels: NDArray[Any], head: PretrainedHead | None
) -> TargetScale | None:
    """The scale of the targets of training rows, for a head or a fresh one."""
    target = kind.target_scale(labels)
    return target if head is None else head.scale(target)


@dataclass(frozen=True, eq=False)
class Finding:
    """The head of a model for a task, if it has one.

    Attributes:
        head: the head; None: the task gets a fresh one.
        note: one line about it; None where the model is no classifier.
        classifier: the model itself if it has a head, so that it is loaded once.
        pretrained: whether it is the pretrained model itself, which fills masks: it has no pooler, and has not seen the texts yet.
    """

    head: PretrainedHead | None = None
    note: str | None = None
    classifier: Any = None
    pretrained: bool = False

    @property
    def encoder(self) -> Any:
        """The model, if it has all of the encoder that tasks of other types use."""
        return None if self.pretrained else self.classifier

    def metrics(
        self, kind: TaskType, dev: Encoded, names: Sequence[str]
    ) -> dict[str, float] | None:
        """Metric name -> value of the original model in float32 on the evaluation rows; None without a head."""
        logits = self.logits(dev)
        return None if logits is None else compute_metrics(kind, logits, dev.labels, names)

    def logits(self, rows: Encoded) -> NDArray[np.float32] | None:
        """Logits `(rows, c)` of the original model; None without a head."""
        if self.classifier is None:
            return None
        own = rows.read_by(self.classifier.config.to_dict())
        return predict_all(torch_predict(set_pad_token(self.classifier, rows.pad)), own)

    @property
    def head_with_pooler(self) -> PretrainedHead | None:
        """The head with the model's pooler in it, for a backbone that has none."""
        if self.head is None or actual_pooling(self.classifier.config) is Pooling.OWN:
            return self.head
        parameters = own_pooler(self.classifier)
        assert parameters is not None  # `pooling_for` refuses others
        return replace(self.head, parameters=parameters)

    @property
    def refused(self) -> bool:
        """Whether the model has a head of another task."""
        return self.head is None and self.note is not None


def find_head(model: str, data: TaskData, *, revision: str | None = None) -> Finding:
    """The head of a model, if it is a classifier of this task's labels.

    Args:
        model: folder, hub id or alias.
        data: the task's rows and labels.
        revision: of a hub model.

    Raises:
        ModelError: the model cannot be read.
    """
    config = load_config(resolve(model), revision=revision)
    if data.task.type.own_label:
        return _head_of_masks(model, config, data.task.type.auto_class, revision)
    kind = data.task.type
    if kind.decoder.vectors or not is_of_class(config, kind.auto_class):
        return Finding()
    if problem := _mismatch(config, data):
        return Finding(None, f"`{model}` is a classifier, but {problem}{FRESH}")
    try:
        classifier = load_finetuned(model, revision=revision, auto_class=kind.auto_class)
    except NotFiniteError:
        raise
    except ModelError:
        return Finding(None, f"`{model}` was saved without its head: the task gets a fresh one")
    names = label_names(config)
    labels = label_order(names, data.labels) if data.labels else ()
    assert labels is not None
    if kind.one_order:
        reorder_outputs(classifier, [labels.index(label) for label in data.labels], data.labels)
    kept = {name: p.detach().clone() for name, p in head_parameters(classifier).items()}
    if not data.labels:
        note = f"`{model}` brings a head for one number, which is where the task's head starts"
        note += _activation(config)
        return Finding(PretrainedHead(model, (), kept), note, classifier)
    pairs = ", ".join(f"{left} = {right}" for left, right in zip(names, labels, strict=True))
    what = pairs if unnamed(names) and len(names) <= _MANY else f"{len(names)} labels match"
    note = f"`{model}` brings a head ({what}), which is where the task's head starts"
    own = data.labels if kind.one_order else labels
    return Finding(PretrainedHead(model, own, kept), note, classifier)


def is_of_class(config: Any, auto_class: str) -> bool:
    """Whether a model was saved by a class of transformers that this auto class loads, and has a head."""
    ending = auto_class.removeprefix("AutoModel")
    return bool(ending) and any(str(name).endswith(ending) for name in config.architectures or ())


def _head_of_masks(model: str, config: Any, auto_class: str, revision: str | None) -> Finding:
    """The head with which a model was pretrained to fill masks, if it was saved with it."""
    fresh = f"`{model}` was saved without a head for masks{FRESH}, which has more to learn"
    if not any(str(name).endswith(_PRETRAINED) for name in config.architectures or ()):
        return Finding(None, fresh)
    try:
        whole = load_finetuned(model, revision=revision, auto_class=auto_class)
    except NotFiniteError:
        raise
    except ModelError:
        return Finding(None, fresh)
    kept = {name: p.detach().clone() for name, p in head_parameters(whole).items()}
    note = f"`{model}` brings a head for masks, which is where the task's head starts"
    return Finding(PretrainedHead(model, (), kept), note, whole, pretrained=True)


def label_order(names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...] | None:
    """A task's labels in a model's order; None if they are not the same.

    Letter case, blanks and hyphens do not count. A model without names of its labels, and labels
    that are the numbers 0, 1, 2, ..., are matched by position.

    >>> label_order(["NEGATIVE", "POSITIVE"], ["positive", "negative"])
    ('negative', 'positive')
    """
    if len(names) != len(labels):
        return None
    by_name = {_plain(label): label for label in labels}
    wanted = [_plain(name) for name in names]
    if len(by_name) == len(labels) and set(by_name) == set(wanted):
        return tuple(by_name[name] for name in wanted)
    numbers = [str(index) for index in range(len(labels))]
    return tuple(labels) if unnamed(names) or list(labels) == numbers else None


def renew_head(classifier: Any, config: Any) -> None:
    """Replace the head of a classifier by a fresh one of this configuration, in place."""
    fresh = head_parameters(fresh_classifier(config).float())
    with torch.no_grad():
        for name, parameter in head_parameters(classifier).items():
            parameter.copy_(fresh[name])


def _mismatch(config: Any, data: TaskData) -> str | None:
    """Why a classifier does not fit the task; None if it does."""
    kind, meaning = data.task.type, config.problem_type
    if config.num_labels != data.outputs:
        return f"has {config.num_labels} logits where the task has {data.outputs}"
    if kind.one_order and unnamed(label_names(config)):
        return f"does not name its outputs, and the task has {_listed(data.labels)}"
    if has_several(meaning) != kind.several:
        return f"is one for `{meaning or 'one label a text'}`, not for {kind.name}"
    if data.labels and (problem := label_problem(config)):
        return problem
    names = label_names(config)
    if data.labels and label_order(names, data.labels) is None:
        return f"has the labels {_listed(names)} where the task has {_listed(data.labels)}"
    return None


def _activation(config: Any) -> str:
    """What a cross-encoder of sentence-transformers puts behind its number, as the end of a note; empty: nothing."""
    own = getattr(config, "sentence_transformers", None)
    named = own.get("activation_fn") if isinstance(own, Mapping) else None
    named = named or getattr(config, "sbert_ce_default_activation_function", None)
    last = str(named or "Identity").rsplit(".", 1)[-1]
    if last == "Identity":
        return ""
    return f"; sentence-transformers puts a {last} behind it, which is left out here: numbers are before it"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _listed(names: Sequence[str]) -> str:
    more = "" if len(names) <= _MANY else f" and {len(names) - _MANY} more"
    return ", ".join(names[:_MANY]) + more
