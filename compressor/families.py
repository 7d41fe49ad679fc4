"""Which architectures can be learned on, as the installed transformers has them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from maskpack.formats import ModelError
from maskpack.formats.waiting import Counted
from maskpack.models.families import FAMILIES, family_of
from maskpack.models.sketch import sketch_of
from maskpack.models.tested import NO_GRAPH, TESTED
from maskpack.models.units import STRUCTURES

_LOG = logging.getLogger(__name__)


class Support(StrEnum):
    """How an architecture is supported."""

    ENTRY = "entry"
    RULE = "rule"
    NONE = "none"


class Graphs(StrEnum):
    """Whether graphs of an architecture can be exported."""

    TESTED = "tested"
    TRIED = "tried"
    NONE = "none"


@dataclass(frozen=True)
class FamilySupport:
    """What is supported of an architecture.

    Attributes:
        model_type: as `config.json` names it.
        support: `entry`: the release describes it; `rule`: transformers says enough of it; `none`.
        graphs: `tested`: tests export it in every layout; `tried`: a small model of it is exported before a task is
            learned; `none`: it can be learned at most.
        units: whether heads and neurons can be removed.
        pooling: what a head reads as transformers has it; None: the architecture is not supported.
        reason: why it is not supported, or why it has no graph; None: neither.
    """

    model_type: str
    support: Support
    graphs: Graphs
    units: bool = False
    pooling: str | None = None
    reason: str | None = None


def family_support(model_type: str) -> FamilySupport:
    """What is supported of one architecture.

    Args:
        model_type: as `config.json` names it, such as `bert`.
    """
    try:
        family = family_of(model_type)
        config = sketch_of(model_type).config
    except ModelError as error:
        reason = str(error).partition(": ")[2] or str(error)
        return FamilySupport(model_type, Support.NONE, Graphs.NONE, reason=reason)
    support = Support.ENTRY if model_type in FAMILIES else Support.RULE
    known = support is Support.ENTRY or model_type in TESTED
    graphs = Graphs.TESTED if known else Graphs.TRIED
    return FamilySupport(
        model_type,
        support,
        Graphs.NONE if model_type in NO_GRAPH else graphs,
        units=model_type in STRUCTURES,
        pooling=str(family.pooling_of(config)),
        reason=NO_GRAPH.get(model_type),
    )


def list_families() -> tuple[FamilySupport, ...]:
    """What is supported of every architecture for which the installed transformers has a class that classifies texts.

    Those with an entry come first, those that are not supported last. It takes half a minute: the code of every one is loaded.
    """
    names = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    own = (name for name in names if CONFIG_MAPPING[name].model_type == name)  # others are aliases
    every, found = sorted({*own, *FAMILIES}), []
    counted = Counted(_LOG, "reading the code of every architecture", len(every))
    for name in every:
        found.append(family_support(name))
        counted.add(1)
    order = list(Support)
    return tuple(sorted(found, key=lambda each: order.index(each.support)))
