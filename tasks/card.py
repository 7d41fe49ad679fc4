"""Facts for model cards that are not in a manifest: of GLUE, the samples and the demo model."""

from __future__ import annotations

from collections.abc import Mapping

from maskpack.formats import TaskEntry
from maskpack.formats.card import CardFacts, HubDataset
from maskpack.formats.schema import Manifest
from maskpack.models.families import IMAGES
from maskpack.tasks.types import TASK_TYPES

KNOWN_MODELS = {"demo": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")}
"""Source model as the manifest names it -> its id on the Hub and its licence."""

GLUE = "nyu-mll/glue"
GLUE_ROWS = {
    "cola": 1043,
    "mnli": 9815,
    "mrpc": 408,
    "qnli": 5463,
    "qqp": 40430,
    "rte": 277,
    "sst2": 872,
    "stsb": 1500,
    "wnli": 71,
}
"""Task of GLUE -> rows of its evaluation split; a task of this name and number of rows has GLUE's data."""

SAMPLES = {"reviews": 100, "tickets": 100}
"""The same for the tasks that ship with maskpack. All of these are in English."""

HUB_METRICS = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "entity_f1": "f1",
    "entity_precision": "precision",
    "entity_recall": "recall",
}
"""Our name of a metric -> the Hub's, where they differ."""


def card_facts(manifest: Manifest) -> CardFacts:
    """Facts of an artifact, as far as this package knows its model and its data."""
    entries = [manifest.tasks[name] for name in sorted(manifest.tasks)]
    base, licence = KNOWN_MODELS.get(manifest.source.model, (None, None))
    english = bool(entries) and all(_is_among(entry, GLUE_ROWS | SAMPLES) for entry in entries)
    types = {each.name: TASK_TYPES[each.kind] for each in entries if each.kind in TASK_TYPES}
    tags = {name: kind.pipeline_tag for name, kind in types.items()}
    one = set(tags.values()) if len(tags) == len(entries) else set()
    return CardFacts(
        license=licence,
        languages=("en",) if english else (),
        base_model=base,
        pipeline_tag=one.pop() if len(one) == 1 else None,
        task_types=tags,
        labels={
            name: kind.counted(manifest.tasks[name].labels) or (kind.summary,)
            for name, kind in types.items()
        },
        images=frozenset(name for name, kind in types.items() if kind.reads == IMAGES),
        datasets={
            entry.name: HubDataset(GLUE, str(entry.data["task"]), "validation")
            for entry in entries
            if _is_among(entry, GLUE_ROWS)
        },
        metric_names=HUB_METRICS,
    )


def _is_among(entry: TaskEntry, known: Mapping[str, int]) -> bool:
    """Whether a task's data is that of a known task: its name and its number of rows say so."""
    task = entry.data.get("task")
    return isinstance(task, str) and task in known and known[task] == entry.data.get("eval_rows")
