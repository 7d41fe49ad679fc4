"""The pooling of a run: that of the head it starts from, the one asked for, or the usual one of the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from maskpack.compressor.start_checks import entry_of_head
from maskpack.compressor.types import BaselineRequest, FitRequest
from maskpack.formats import ConfigError, ModelError
from maskpack.formats.errors import Hint
from maskpack.formats.pooling import Pooling, pooling_of
from maskpack.models.config import load_config
from maskpack.models.locate import resolve
from maskpack.models.pooling import (
    actual_pooling,
    find_pooling,
    habit_of,
    has_no_pooler,
    other_than_habit,
    own_pooler,
    pooling_in,
    usual_of_vectors,
)
from maskpack.tasks.pretrained_head import Finding
from maskpack.tasks.types import TaskType

_LOG = logging.getLogger(__name__)
_OTHERWISE = Hint("`pooling` names another")


def pooling_for(request: FitRequest | BaselineRequest, finding: Finding) -> Pooling | None:
    """The pooling of a task's head; None: that of its family's own class.

    Args:
        request: with the options, the model, and the task that the run starts from.
        finding: the head that it starts from, if the model has one.

    Raises:
        ConfigError: a pooling that the model has not, or the head that the run starts from.
        ModelError: the model has no pooler, and that of the head is of a form that no head can hold.
    """
    wanted, model, revision = request.config.wanted_pooling, request.model, request.revision
    kind = request.task.type
    if wanted is not None:
        _check_pools(kind)
    if kind.decoder.per_token:
        return None
    if kind.decoder.vectors:
        return _of_vectors(request, finding)
    if finding.head is not None:
        return _of_finding(request, finding, finding.head.model)
    config = load_config(resolve(model), revision=revision)
    habit = habit_of(config)
    start = request.start if isinstance(request, FitRequest) else None
    if (entry := entry_of_head(start, kind)) is not None:
        started = pooling_of(entry)
        return _of_head(wanted, started or habit, habit)
    drawn = request.config.random is not None
    if wanted is None:
        found = habit if drawn else find_pooling(model, config, revision=revision)
        if found not in {None, habit}:
            _LOG.info("heads over `%s` read the pooling %s; %s", model, found, _OTHERWISE)
        return None if found is habit else found
    if wanted is Pooling.POOLER and not drawn and has_no_pooler(model, config, revision=revision):
        raise ConfigError(
            f"`{model}` has no weights of a pooler", "give `pooling` mean, or leave it out"
        )
    return other_than_habit(wanted, config)


def _check_pools(kind: TaskType) -> None:
    """Raise ConfigError if a task of this type makes no vector of a text."""
    what = None
    if kind.decoder.per_token:
        what = f"`pooling` makes one vector of a text, and a {kind.name} answers for each token"
    elif kind.decoder.reads == "images":
        what = "`pooling` makes one vector of a text's tokens, and the model reads images"
    if what is not None:
        raise ConfigError(what, "leave `pooling` out")


def _of_finding(
    request: FitRequest | BaselineRequest, finding: Finding, name: str
) -> Pooling | None:
    """The pooling of a head that a model brings, under whose name an error is; a pooler of its own where the backbone has none.

    Raises:
        ConfigError: another one is asked for.
        ModelError: its pooler is of a form that no head can hold.
    """
    config = finding.classifier.config
    own, habit = actual_pooling(config), habit_of(config)
    found = _of_head(request.config.wanted_pooling, own, habit)
    if own is not Pooling.POOLER or not _base_has_none(request):
        return found
    if own_pooler(finding.classifier) is None:
        raise ModelError(
            f"`{request.model}` has no pooler, and that of `{name}` is not one linear with a tanh before one linear",
            Hint("name one with a pooler as `base`"),
        )
    return Pooling.OWN


def _base_has_none(request: FitRequest | BaselineRequest) -> bool:
    """Whether a fine-tuned checkpoint is learned on a pretrained model that has no pooler."""
    if not isinstance(request, FitRequest) or request.finetuned is None:
        return False
    config = load_config(resolve(request.model), revision=request.revision)
    return has_no_pooler(request.model, config, revision=request.revision)


def _of_vectors(request: FitRequest | BaselineRequest, finding: Finding) -> Pooling:
    """The pooling of a task that gives vectors: that of the task it starts from, the one asked for, or the usual one.

    Raises:
        ConfigError: another one than that of the start, or one that the model has not.
    """
    wanted, own = request.config.wanted_pooling, None
    start = request.start if isinstance(request, FitRequest) else None
    if finding.head is not None:
        own = actual_pooling(finding.classifier.config)
    elif (entry := entry_of_head(start, request.task.type)) is not None:
        own = pooling_of(entry)
    if own is not None:
        _of_head(wanted, own, own)
        return own
    config = load_config(resolve(request.model), revision=request.revision)
    chosen = wanted or usual_of_vectors(request.model, config, revision=request.revision)
    if chosen is Pooling.POOLER:
        raise ConfigError(
            "vectors are not read through a pooler", "give `pooling` mean, cls or last"
        )
    return other_than_habit(chosen, config) or chosen  # which refuses what the family cannot


def _of_head(wanted: Pooling | None, own: Pooling, habit: Pooling) -> Pooling | None:
    """The pooling of a head that is there; None if it is the habit of its family."""
    if wanted not in {None, own}:
        raise ConfigError(
            f"the head that the run starts from reads {own}, and `pooling` {wanted} is asked for",
            "leave `pooling` out",
        )
    return None if own is habit else own


def say_what_reads(config: Any, out: Path) -> None:
    """Warn that only maskpack reads the head of a classifier that was written, where transformers has no class for its pooling."""
    if (pooling := pooling_in(config)) is not None:
        hint = Hint(
            "learn it with `pooling` {own} to let transformers read it", own=habit_of(config)
        )
        _LOG.warning(
            "transformers would open `%s` with a fresh head, because it has none behind the pooling %s; %s",
            out,
            pooling,
            hint,
        )
