"""The run that made a task, as far as an artifact knows it: options, model and columns. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from maskpack.compressor.backbone_config import AUTO
from maskpack.compressor.config import FitConfig
from maskpack.compressor.options import RUN
from maskpack.compressor.teacher_config import NO_TEACHER, TEACHER_WORDS
from maskpack.compressor.types import SNAPSHOT_OF
from maskpack.formats import Artifact, DataError, TaskEntry
from maskpack.formats.bits import MIXED_ROWS
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.options import options_of
from maskpack.formats.pooling import Pooling, pooling_of
from maskpack.formats.schema import CONFIG
from maskpack.formats.vote import MEMBERS
from maskpack.models.families import family_of
from maskpack.tasks.evaluation.evaluate import task_of
from maskpack.tasks.options import Type
from maskpack.tasks.task import TASKS, Kind, Task, Unlabelled
from maskpack.tasks.types import may_use_pooler, type_of


@dataclass(frozen=True)
class Recorded:
    """A run to be repeated.

    Attributes:
        tree: options, and under `run` model, task and columns, as a file of options has them.
        unknown: what the artifact does not know, and the caller must say: name -> what is known of it.
    """

    tree: Mapping[str, Any]
    unknown: Mapping[str, str]


_OF_NUMBERS = (Kind.REGRESSION, Kind.IMAGE_REGRESSION, Kind.SIMILARITY)


def _known(entry: TaskEntry) -> Task | None:
    """The task that is known by name, if the entry was learned from its columns."""
    learned = task_of(entry)
    known = TASKS.get(learned.name)
    same = known is not None and (known.texts, known.label) == (learned.texts, learned.label)
    return known if same else None


def _task(entry: TaskEntry, known: Task | None) -> dict[str, Any]:
    """What the command line says of a task; None where it says nothing."""
    learned = task_of(entry)
    run: dict[str, Any] = {
        "task": learned.name,
        "name": None if entry.name == learned.name else entry.name,
        "unlabelled": None if learned.unlabelled is Unlabelled.STOP else str(learned.unlabelled),
        "metric": None if known is not None and entry.metric == known.metric else entry.metric,
    }
    if known is None:
        first, second = (*learned.texts, None)[:2]
        run |= {
            "text_field": first,
            "pair_field": second,
            "label_field": learned.label,
            "type": None if learned.type.pipeline_tag == Type.TEXT else learned.type.pipeline_tag,
            "regression": learned.kind in _OF_NUMBERS or None,
            "same_label": learned.kind == Kind.LABEL_RETRIEVAL or None,
            "multi_label": learned.type.several or None,
            "label_separator": learned.separator,
            "stride": learned.windows.stride,
        }
    if learned.windows.texts:
        run |= {"windows": True, "stride": learned.windows.stride}
    return run


def _of_backbone(artifact: Artifact) -> dict[str, Any]:
    """The options that the backbone was made with."""
    manifest, scheme = artifact.manifest, artifact.manifest.scheme
    drawn, mixed = scheme.quantizer == DRAWN, MIXED_ROWS in manifest.requires
    return {
        "bits": scheme.bits,
        "group": scheme.group or 0,
        "quantizer": AUTO if drawn else scheme.quantizer.removesuffix(", refined"),
        "embedding_bits": AUTO if mixed else scheme.embedding_bits,
        "bits_override": dict(scheme.overrides),
        **({"random": artifact.backbone.seed} if drawn else {}),
    }


def recorded_run(artifact: Artifact, task: str) -> Recorded:
    """The run that made `task`; options of the backbone are those of the artifact.

    Of a snapshot it is the run that left it on its way, under that run's own name.

    Raises:
        ArtifactError: there is no such task.
        DataError: the manifest does not say from which columns it was learned, or no run made it.
    """
    entry, source = artifact.entry(task), artifact.manifest.source
    if (members := entry.training.get(MEMBERS)) is not None:
        raise DataError(
            f"`{task}` is a vote of {', '.join(map(str, members))}: no run made it",
            "let them vote again",
        )
    entry = entry.renamed(str(entry.training.get(SNAPSHOT_OF, task)))
    options = _options(artifact, entry)
    paths = {option.name for option in options_of(FitConfig) if option.opt.path}
    lost = {
        name: f"`{options[name]}`, whose folder is not recorded"
        for name in sorted(paths)
        if options.get(name) not in {None, *TEACHER_WORDS}
    }
    known = _known(entry)
    if known is None or known.folder is None:
        lost["data"] = f"{entry.data.get('train_rows', 'some')} training rows"
    run = {"model": source.model, "revision": source.revision, **_task(entry, known)}
    kept = {name: value for name, value in options.items() if name not in lost}
    return Recorded({**kept, RUN: {k: v for k, v in run.items() if v is not None}}, lost)


def _options(artifact: Artifact, entry: TaskEntry) -> dict[str, Any]:
    """Options of the run, as `FitConfig` has them."""
    names = {field.name for field in fields(FitConfig)}
    options = {name: value for name, value in entry.training.items() if name in names}
    options |= {**_of_backbone(artifact), "max_length": entry.max_length}
    if options.get("teacher", "") is None:
        options["teacher"] = NO_TEACHER  # as an option, None would be the default
    if (pooling := _pooling(artifact, entry)) is not None:
        options["pooling"] = str(pooling)
    return options


def _pooling(artifact: Artifact, entry: TaskEntry) -> Pooling | None:
    """What the head of a task reads, so that a run repeats it where another pooling is usual now; None: nothing else can be asked for."""
    kind, own = type_of(entry).decoder, pooling_of(entry)
    if not may_use_pooler(entry):
        return None if kind.per_token or kind.vectors or own is Pooling.OWN else own
    config = SimpleNamespace(**json.loads(artifact.file(CONFIG)))
    habit = family_of(artifact.manifest.source.model_type).pooling_of(config)
    return own or (habit if habit is Pooling.POOLER else None)
