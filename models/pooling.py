"""Heads that read another vector of a text than the head which transformers gives the family.

transformers' classes for classification pool in one way each: BERT's through a pooler that some checkpoints lack and others never
trained. A *pooled* class has the family's encoder, without that pooler, and one linear behind the wanted pooling:

    mean    sum_t m_t h_t / sum_t m_t                (Reimers & Gurevych 2019, arXiv 1908.10084)
    cls     h_0
    last    h_T of the last token with m_T = 1

where `h (b, s, w)` are the states of the last layer and `m (b, s)` is 1 for tokens and 0 for padding. A head with a pooler of its own has
that of the family's class in itself, `tanh(W h_0 + b)`: a fine-tuned model brings it, where the pretrained one has none.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from maskpack.formats import ConfigError, ModelError
from maskpack.formats.pooling import Pooling
from maskpack.models.cloze import cloze_class
from maskpack.models.families import Family, family_of
from maskpack.models.locate import places_beside, resolve
from maskpack.models.pipeline import tree_beside
from maskpack.models.spans import spans_class
from maskpack.models.stored import stored_names

KEY = "maskpack_pooling"
"""Name in `config.json` of a classifier with another pooling than its family's."""

VECTORS = "maskpack_vectors"
"""Name in `config.json` of a model that gives vectors: true."""

POOLER = "pooler"
"""Attribute of an encoder that holds its pooler."""

_OWN_WAYS = (
    "classifier_pooling"  # of ModernBERT's own class, which has two; EuroBERT's has other words
)
_OWN_WORDS = {"bos": Pooling.CLS, "late": Pooling.MEAN}  # late: the mean of logits, not of states
_FIRST = {"eurobert": "bos"}
_MODULES, _POOLING = "modules.json", "Pooling"
_MODES = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout")
_LEAST = 1e-12  # length of a vector by which it is divided
_INITIAL = 0.02  # standard deviation of a new head's weights where a configuration names none


def pool(states: Tensor, mask: Tensor, pooling: Pooling, *, pad_left: bool) -> Tensor:
    """States `(b, s, w)` of a text's tokens to one vector `(b, w)`.

    Args:
        states: of the last layer.
        mask: `(b, s)`, 1 for tokens and 0 for padding.
        pooling: any but `pooler`.
        pad_left: whether padding stands before a text.
    """
    if pooling is Pooling.MEAN:
        own = mask.to(states.dtype)[:, :, None]
        return (states * own).sum(dim=1) / own.sum(dim=1).clamp(min=1.0)
    if (pooling is Pooling.LAST) == pad_left:
        return states[:, -1 if pad_left else 0]
    count = mask.to(torch.int64).sum(dim=1)
    places = states.shape[1] - count if pad_left else count - 1
    return states[torch.arange(states.shape[0], device=states.device), places.clamp(min=0)]


def habit_of(config: Any) -> Pooling:
    """The pooling of the class that transformers has for a configuration's family."""
    own = getattr(config, _OWN_WAYS, None)
    if isinstance(own, str) and own in {*Pooling, *_OWN_WORDS}:
        return _OWN_WORDS[own] if own in _OWN_WORDS else Pooling(own)
    return family_of(config.model_type).pooling_of(config)


def other_than_habit(wanted: Pooling | None, config: Any) -> Pooling | None:
    """A wanted pooling; None where it is that of the family's own class.

    Raises:
        ConfigError: the family cannot pool so.
    """
    if wanted is None or wanted is habit_of(config):
        return None
    kind, family = config.model_type, family_of(config.model_type)
    if wanted is Pooling.OWN:
        return wanted
    if wanted is Pooling.POOLER:
        raise ConfigError(f"`{kind}` has no pooler", "give `pooling` mean, cls or last")
    if wanted is Pooling.CLS and family.last_token:
        raise ConfigError(
            f"the first token of a `{kind}` has read no other token", "give `pooling` mean or last"
        )
    return wanted


def find_pooling(model: str, config: Any, *, revision: str | None = None) -> Pooling | None:
    """The pooling of a pretrained model where none is asked for; None: that of its family's class in transformers.

    Where a family pools through a pooler, the pooling that sentence-transformers names for the model is taken: its training moved the
    states and left the pooler as it was. A model of which nothing is named and that has no pooler takes the mean: a random pooler
    would be worse.

    Args:
        model: folder, hub id or alias.
        config: its configuration.
        revision: of a hub model.
    """
    told = pooling_in(config)
    if told is not None or family_of(config.model_type).pooling_of(config) is not Pooling.POOLER:
        return told
    said = _said(model, revision)
    if said is None and has_no_pooler(model, config, revision=revision):
        return Pooling.MEAN
    return said


def usual_of_vectors(model: str, config: Any, *, revision: str | None = None) -> Pooling:
    """The pooling of a model's vectors where none is asked for; arguments as of `find_pooling`.

    It is what sentence-transformers names for the model, else the last token's state of a model that reads to the left, else the mean.
    """
    found = _said(model, revision)
    return found or (Pooling.LAST if family_of(config.model_type).last_token else Pooling.MEAN)


def _said(model: str, revision: str | None) -> Pooling | None:
    """The pooling that sentence-transformers names for a model."""
    said = (_sentence_pooling(place, revision) for place in places_beside(model))
    return next((one for one in said if one is not None), None)


def has_no_pooler(model: str, config: Any, *, revision: str | None = None) -> bool:
    """Whether a checkpoint lacks the pooler that its family has; False where only reading all of it would tell."""
    if family_of(config.model_type).pooling_of(config) is not Pooling.POOLER:
        return False
    names = stored_names(resolve(model), revision=revision)
    return bool(names) and not any(f"{POOLER}." in name for name in names)


def set_pooling(config: Any, pooling: Pooling | None) -> None:
    """Let a configuration describe a classifier with a pooling of `other_than_habit`, in place."""
    vars(config).pop(KEY, None)
    if hasattr(config, _OWN_WAYS) and pooling in {Pooling.CLS, Pooling.MEAN}:
        first = _FIRST.get(config.model_type, str(Pooling.CLS))
        setattr(config, _OWN_WAYS, first if pooling is Pooling.CLS else str(pooling))
    elif pooling is not None:
        setattr(config, KEY, str(pooling))


def actual_pooling(config: Any) -> Pooling:
    """The pooling of the classifier that a configuration describes."""
    return pooling_in(config) or habit_of(config)


def pooling_in(config: Any) -> Pooling | None:
    """The pooling of a pooled class; None where a class of transformers is described.

    Raises:
        ModelError: an unknown one.
    """
    told = getattr(config, KEY, None)
    if told is not None and (not isinstance(told, str) or told not in set(Pooling)):
        raise ModelError(f"`{KEY}` in `config.json` is {told!r:.40}", "upgrade maskpack")
    return None if told is None else Pooling(told)


def class_for(config: Any, native: type) -> type:
    """The class for a configuration: transformers' own, or one of ours over it."""
    if gives_vectors(config):
        return _with(_Vectors, native)
    if pooling_in(config) is not None:
        return _with(_PooledHead, native)
    return spans_class(config, cloze_class(config, native))


def gives_vectors(config: Any) -> bool:
    """Whether a configuration describes a model that gives a vector of a text."""
    return getattr(config, VECTORS, False) is True


def plain_model(config: Any) -> Any:
    """The configuration of the encoder alone, of a model that gives vectors."""
    plain = copy.deepcopy(config)
    for name in (KEY, VECTORS):
        vars(plain).pop(name, None)
    plain.architectures = [transformers.AutoModel._model_mapping[type(config)].__name__]  # noqa: SLF001
    return plain


def set_vectors(config: Any, pooling: Pooling) -> None:
    """Let a configuration describe a model that gives a vector of a text, pooled in a way, in place."""
    setattr(config, KEY, str(pooling))
    setattr(config, VECTORS, True)


def as_vectors(config: Any, model: str, *, revision: str | None = None) -> None:
    """Let the configuration of an encoder describe a model that gives vectors, pooled as `usual_of_vectors` says, in place.

    One that does so already stays.
    """
    if not gives_vectors(config):
        set_vectors(config, usual_of_vectors(model, config, revision=revision))
        config.num_labels = 1


def with_pooling(classifier: Any, pooling: Pooling | None, *, vectors: bool = False) -> Any:
    """A classifier of transformers, or a model with its encoder that pools in another way.

    Args:
        classifier: of transformers.
        pooling: of the model; None: that of the classifier.
        vectors: whether the model gives vectors; else it has a fresh head.
    """
    if not vectors:
        pooling = other_than_habit(pooling, classifier.config)
    if pooling is None:
        return classifier
    config = copy.deepcopy(classifier.config)
    if vectors:
        set_vectors(config, pooling)
    else:
        set_pooling(config, pooling)
    made = class_for(config, type(classifier))(config)
    base = family_of(config.model_type).base
    encoder = getattr(classifier, base)
    if pooling_in(config) is not None:
        drop_pooler(encoder)
    setattr(made, base, encoder)
    return made


def drop_pooler(encoder: Any) -> None:
    """Take the pooler out of an encoder, in place."""
    if getattr(encoder, POOLER, None) is not None:
        encoder.pooler = None


def own_pooler(classifier: Any) -> dict[str, Tensor] | None:
    """Pooler and head of a classifier of transformers, under the names that a head with a pooler of its own has for them.

    None: its pooler is not one linear with a tanh, or its head is not one linear.
    """
    encoder = getattr(classifier, family_of(classifier.config.model_type).base)
    parts = [each for each in (encoder.pooler, getattr(encoder, "pooler_activation", None)) if each]
    inside = [each for part in parts for each in part.modules()]
    linears = [each for each in inside if isinstance(each, nn.Linear)]
    heads = [
        each
        for name, each in classifier.named_modules()
        if isinstance(each, nn.Linear) and not name.startswith(f"{classifier.base_model_prefix}.")
    ]
    if (len(linears), len(heads)) != (1, 1) or not any(isinstance(p, nn.Tanh) for p in inside):
        return None
    both = {"pooled_pooler": linears[0], "pooled_classifier": heads[0]}
    return {
        f"{name}.{part}": value.detach().clone()
        for name, linear in both.items()
        for part, value in linear.named_parameters()
    }


def _dropout_of(config: Any) -> float:
    rates = (getattr(config, name, None) for name in _DROPOUTS)
    return float(next((rate for rate in rates if rate is not None), 0.0))


class _Pooled:
    """What a pooled class has over the class of transformers from which it inherits encoder and loading."""

    config: Any

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        module: Any = self
        family = family_of(config.model_type)
        for name, _ in list(module.named_children()):
            if name != family.base:
                delattr(self, name)
        drop_pooler(getattr(self, family.base))

    def pooled(
        self, input_ids: Tensor, attention_mask: Tensor | None, **inputs: Any
    ) -> tuple[Tensor, Any]:
        """The vector `(b, w)` of each text, and what the encoder gives."""
        family: Family = family_of(self.config.model_type)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        base = getattr(self, family.base)
        found = base(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        pooling = pooling_in(self.config)
        assert pooling is not None
        return pool(found[0], attention_mask, pooling, pad_left=family.pad_left), found


class _PooledHead(_Pooled):
    """A linear behind a pooling, or behind a pooler of its own."""

    pooled_pooler: nn.Linear
    pooled_classifier: nn.Linear

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        head = nn.Linear(config.hidden_size, config.num_labels)
        nn.init.normal_(head.weight, std=float(getattr(config, "initializer_range", _INITIAL)))
        nn.init.zeros_(head.bias)
        if pooling_in(config) is Pooling.OWN:
            self.pooled_pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.pooled_dropout, self.pooled_classifier = nn.Dropout(_dropout_of(config)), head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Logits `(b, c)` of `input_ids (b, s)`, and hidden states if they are asked for."""
        vector, found = self.pooled(input_ids, attention_mask, **inputs)
        if pooling_in(self.config) is Pooling.OWN:
            vector = torch.tanh(self.pooled_pooler(vector))
        logits = self.pooled_classifier(self.pooled_dropout(vector))
        return SequenceClassifierOutput(
            logits=logits, hidden_states=getattr(found, "hidden_states", None)
        )


@dataclass
class VectorOutput(ModelOutput):  # type: ignore[misc]  # untyped in transformers
    """Vectors of texts.

    Attributes:
        logits, sentence_embedding: `(b, w)`, of length 1.
        last_hidden_state: `(b, s, w)`.
        hidden_states: of each layer, if they are asked for.
    """

    logits: Tensor | None = None
    sentence_embedding: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class _Vectors(_Pooled):
    """A pooling without a head: the vector of a text, of length 1."""

    graph_outputs = ("sentence_embedding", "last_hidden_state")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> VectorOutput:
        """Vectors of `input_ids (b, s)`, and hidden states if they are asked for."""
        vector, found = self.pooled(input_ids, attention_mask, **inputs)
        vector = vector / vector.norm(dim=-1, keepdim=True).clamp(min=_LEAST)
        return VectorOutput(vector, vector, found[0], getattr(found, "hidden_states", None))


@cache
def _with(own: type, native: type) -> type:
    name = own.__name__.removeprefix("_")
    return type(f"{name}{native.__name__}", (own, native), {"__module__": __name__})


def _sentence_pooling(location: str, revision: str | None) -> Pooling | None:
    """The pooling that a sentence-transformers model names, if it is one of ours."""
    parts = tree_beside(location, _MODULES, revision)
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and str(part.get("type")).rsplit(".", 1)[-1] == _POOLING:
            return _mode_in(tree_beside(location, f"{_folder(part)}/config.json", revision))
    return None


def _folder(part: Mapping[str, Any]) -> str:
    """The folder of a part; a name that could lead elsewhere is replaced by the usual one."""
    told = part.get("path")
    return told if isinstance(told, str) and re.fullmatch(r"\w+", told) else "1_Pooling"


def _mode_in(tree: Any) -> Pooling | None:
    """The one pooling that a file names; None for several together, or another one."""
    modes = [
        str(name)
        for name, value in (tree.items() if isinstance(tree, dict) else ())
        if str(name).startswith("pooling_mode_") and value is True
    ]
    return _MODES.get(modes[0]) if len(modes) == 1 else None
