"""The model card of an artifact: a README for people, with the YAML head that model hubs read.

Made from the manifest alone. Facts that are not in the manifest (a licence, languages, data sets of the Hub,
where it is published) are given as `CardFacts`, or left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskpack.formats import schema
from maskpack.formats.counts import MaskCount
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.errors import ConfigError
from maskpack.formats.schema import Manifest, Scheme, TaskEntry
from maskpack.formats.units import UnitCount, Units

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_LABELS = 12  # of a task, that a card spells out
_MARKUP = re.compile(r"[\\`*<>\[\]|]")
_TAG = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

_TEMPLATE = """\
---
{head}
---

# {model}: one integer backbone, {count} task{s}

{drawn}ackbone of {width} a weight (embeddings {embedding_bits}), {backbone} bytes, shared by all
tasks. A task adds a bit mask over the frozen weights and a small head.

| task | kind | metric | value | zeros | patch bytes |
|---|---|---|---|---|---|
{rows}

{units}Values are those of the evaluation rows, when a task was learned.

## Use

```sh
pip install "maskpack[{extras}]"
{get}compress export {folder} --onnx --task {task} -o {task}-onnx
compress predict {task}-onnx {given}```

In a program, without torch: `maskpack.runtime.Session("{task}-onnx").predict(["{row}"])`.
`compress export --layout shared` writes all tasks over one file of weights.

## Limits

* A task answers what it was learned for, on {rows_are} like those of its data; its labels: {labels}.
{cut}* The source model's own limits, biases and licence hold for every task.

{mark}; layout: format version {version}.
"""
_DRAWN = "No weight was trained: the file of the backbone holds a seed, from which a reader draws them, and a task chooses among them.\nB"
MARK = "Made by [maskpack](https://pypi.org/project/maskpack/)"


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hub: its id, and which of its configurations and splits."""

    id: str
    config: str
    split: str


@dataclass(frozen=True)
class CardFacts:
    """Facts for a model card that are not in the manifest.

    Attributes:
        repo: id of the repository on the Hub, or None.
        license: identifier as the Hub lists them, such as `apache-2.0`, or None.
        languages: codes such as `en`.
        base_model: id of the source model on the Hub; None: its name, where that is an id.
        pipeline_tag: the Hub's name of what all tasks do; None: they do different things, or nobody knows.
        task_types: name of a task -> the Hub's name of what it does; its results are listed.
        labels: name of a task -> what it answers with, where that is not the labels of its outputs.
        images: names of tasks that read images; the others read texts.
        datasets: name of a task -> the data set that its scores are of.
        metric_names: our name of a metric -> the Hub's, where they differ.
    """

    repo: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    base_model: str | None = None
    pipeline_tag: str | None = None
    task_types: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    datasets: Mapping[str, HubDataset] = field(default_factory=dict)
    metric_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in (*self.languages, *([] if self.license is None else [self.license])):
            if _TAG.fullmatch(text) is None:
                raise ConfigError(f"`{text}` is no identifier", "like apache-2.0, or en")


Describe = Callable[[Manifest], CardFacts]
"""Makes the facts of an artifact that are not in its manifest."""


def plain_facts(manifest: Manifest) -> CardFacts:
    """No facts beside the manifest."""
    del manifest
    return CardFacts()


def render_card(
    manifest: Manifest,
    sizes: Mapping[str, int | None],
    facts: CardFacts | None = None,
    units: Mapping[str, Units] | None = None,
) -> str:
    """Markdown with the YAML head that model hubs read.

    Args:
        manifest: what the artifact holds.
        sizes: file name -> bytes, for the backbone and every patch; None for one that is lost.
        facts: what else is known.
        units: task -> its units, of the tasks that have some.
    """
    facts = facts or CardFacts()
    entries = [manifest.tasks[name] for name in sorted(manifest.tasks)]
    folder = "artifact" if facts.repo is None else facts.repo.rpartition("/")[2]
    return _TEMPLATE.format(
        head="\n".join(f"{key}: {_flow(value)}" for key, value in _head(manifest, facts).items()),
        model=_plain(manifest.source.model),
        count=len(entries),
        s="" if len(entries) == 1 else "s",
        drawn=_DRAWN if DRAWN in manifest.requires else "B",
        width=_width(manifest.scheme),
        embedding_bits=manifest.embedding_bits,
        backbone=_bytes(sizes[schema.BACKBONE]),
        rows="\n".join(_row(entry, sizes[entry.file]) for entry in entries),
        units=_unit_lines(units or {}),
        get="" if facts.repo is None else f"compress pull {facts.repo} -o {folder}\n",
        folder=folder,
        task=entries[0].name if entries else "TASK",
        labels="; ".join(_labels(entry, facts) for entry in entries) or "none yet",
        **_reading(entries, facts),
        mark=MARK,
        version=schema.FORMAT_VERSION,
    )


def _reading(entries: Sequence[TaskEntry], facts: CardFacts) -> dict[str, str]:
    """What the template says of rows: how the first task gets them, and what is cut off; an artifact's encoder reads texts or images."""
    if entries and entries[0].name in facts.images:
        return {
            "extras": "export,images",
            "given": "--images photos/\n",
            "row": "photo.jpg",
            "rows_are": "images",
            "cut": "* Images are resized as `preprocessor_config.json` says.\n",
        }
    lengths = ", ".join(f"{entry.max_length} for {entry.name}" for entry in entries)
    return {
        "extras": "export",
        "given": "< texts.txt\n",
        "row": "a text",
        "rows_are": "texts",
        "cut": f"* Texts are cut to the tokens that they had in training: {lengths or 'none yet'}.\n",
    }


def is_ours(card: str) -> bool:
    """Whether maskpack, of any release, made a card: its last line says so."""
    return card.rstrip().rpartition("\n")[2].startswith(MARK)


def _head(manifest: Manifest, facts: CardFacts) -> dict[str, Any]:
    """The YAML head; unknown fields are left out."""
    entries = [manifest.tasks[name] for name in sorted(manifest.tasks)]
    source = manifest.source.model
    base = facts.base_model or source
    name = facts.repo.rpartition("/")[2] if facts.repo else source
    results = [_result(entry, facts) for entry in entries if entry.name in facts.task_types]
    kinds = sorted(set(facts.task_types.values())) if facts.pipeline_tag is None else []
    drawn = DRAWN in manifest.requires  # nothing of a model's weights is in it
    of_base = not drawn and HUB_ID.fullmatch(base) is not None
    known: dict[str, Any] = {
        "base_model": base if of_base else None,
        "base_model_relation": "quantized" if of_base else None,
        "license": None if drawn else facts.license,
        "language": list(facts.languages),
        "datasets": sorted({dataset.id for dataset in facts.datasets.values()}),
        "library_name": "maskpack",
        "pipeline_tag": facts.pipeline_tag,
        "tags": ["maskpack", "quantized", "mask", *kinds],
        "metrics": sorted({facts.metric_names.get(each.metric, each.metric) for each in entries}),
        "model-index": [{"name": name, "results": results}] if results else [],
    }
    return {key: value for key, value in known.items() if value}


def _result(entry: TaskEntry, facts: CardFacts) -> dict[str, Any]:
    """A task's metrics as the Hub lists them."""
    dataset = facts.datasets.get(entry.name)
    which = {} if dataset is None else {"config": dataset.config, "split": dataset.split}
    kind = entry.name if dataset is None else dataset.id
    return {
        "task": {"type": facts.task_types[entry.name], "name": entry.name},
        "dataset": {"type": kind, "name": entry.name, **which},
        "metrics": [
            {"type": facts.metric_names.get(name, name), "name": name, "value": round(value, 4)}
            for name, value in entry.scores.items()
        ],
    }


def _flow(value: object) -> str:
    """A value as YAML: JSON is YAML too, and plain words need no quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9./_-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _unit_lines(units: Mapping[str, Units]) -> str:
    """A line for each task with units, and an empty one; nothing where no task has some."""
    lines = [f"* {name}: {units_in_words(own.counts())}\n" for name, own in sorted(units.items())]
    return "".join(["Heads and neurons that stay, by layer:\n\n", *lines, "\n"]) if lines else ""


def units_in_words(counts: Sequence[UnitCount]) -> str:
    """Kept units by kind and layer.

    >>> units_in_words([UnitCount("heads", 0, 12, 7), UnitCount("heads", 1, 12, 0)])
    'heads 7, 0 of 12'
    """
    words = []
    for kind in dict.fromkeys(one.kind for one in counts):
        own = [one for one in counts if one.kind == kind]
        sizes = {one.count for one in own}
        if len(sizes) == 1:
            kept = ", ".join(f"{one.kept:,}" for one in own) + f" of {sizes.pop():,}"
        else:
            kept = ", ".join(f"{one.kept:,} of {one.count:,}" for one in own)
        words.append(f"{kind} {kept}")
    return "; ".join(words)


def _labels(entry: TaskEntry, facts: CardFacts) -> str:
    labels = facts.labels.get(entry.name, entry.labels)
    shown = [_plain(label) for label in labels[:_MOST_LABELS]]
    if more := len(labels) - len(shown):
        shown.append(f"and {more} more")
    return f"{entry.name} ({', '.join(shown) or 'a number'})"


def _plain(text: str) -> str:
    r"""Text of others in Markdown: on one line, and none of it markup.

    >>> _plain("a|b <i>\nc")
    'a\\|b \\<i\\> c'
    """
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def _width(scheme: Scheme) -> str:
    widths = sorted({scheme.bits, *scheme.overrides.values()})
    if len(widths) > 1:
        return f"{widths[0]} to {widths[-1]} bits"
    return "1 bit" if widths == [1] else f"{widths[0]} bits"


def _bytes(size: int | None) -> str:
    return "(lost)" if size is None else f"{size:,}"


def _row(entry: TaskEntry, size: int | None) -> str:
    count = MaskCount(entry.weights, entry.zeros)
    value = entry.scores.get(entry.metric)
    shown = "-" if value is None else f"{value:.4f}"
    return (
        f"| {entry.name} | {entry.kind} | {_plain(entry.metric)} | {shown} "
        f"| {count.sparsity:.2%} | {_bytes(size)} |"
    )
