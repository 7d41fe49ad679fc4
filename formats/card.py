"""The model card of an artifact: a README for people, made from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping

from maskpack.formats import schema
from maskpack.formats.schema import Manifest, TaskEntry
from maskpack.formats.tensors import MaskCount

_TEMPLATE = """\
---
base_model: {model}
base_model_relation: quantized
library_name: maskpack
pipeline_tag: text-classification
tags: [maskpack, quantized, mask]
---

# {model}: one integer backbone, {count} task{s}

Backbone of {bits} bits a weight (embeddings {embedding_bits}), {backbone:,} bytes, shared by all
tasks. A task adds a bit mask over the frozen weights and a small head.

| task | kind | metric | value | zeros | patch bytes |
|---|---|---|---|---|---|
{rows}

Made by [maskpack](https://pypi.org/project/maskpack/); layout: format version {version}.
"""


def render_card(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """Markdown with the YAML head that model hubs read.

    Args:
        manifest: what the artifact holds.
        sizes: file name -> bytes, for the backbone and every patch.
    """
    entries = [manifest.tasks[name] for name in sorted(manifest.tasks)]
    return _TEMPLATE.format(
        model=manifest.source.model,
        count=len(entries),
        s="" if len(entries) == 1 else "s",
        bits=manifest.scheme.bits,
        embedding_bits=manifest.scheme.embedding_bits,
        backbone=sizes[schema.BACKBONE],
        rows="\n".join(_row(entry, sizes[entry.file]) for entry in entries),
        version=schema.FORMAT_VERSION,
    )


def _row(entry: TaskEntry, size: int) -> str:
    count = MaskCount(entry.weights, entry.zeros)
    value = entry.scores.get(entry.metric)
    shown = "-" if value is None else f"{value:.4f}"
    return (
        f"| {entry.name} | {entry.kind} | {entry.metric} | {shown} "
        f"| {count.sparsity:.2%} | {size:,} |"
    )
