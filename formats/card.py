"""The model card of an artifact: a README for people, made from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping

from maskpack.formats import schema
from maskpack.formats.schema import Manifest, Scheme, TaskEntry
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

Backbone of {width} a weight (embeddings {embedding_bits}), {backbone} bytes, shared by all
tasks. A task adds a bit mask over the frozen weights and a small head.

| task | kind | metric | value | zeros | patch bytes |
|---|---|---|---|---|---|
{rows}

Made by [maskpack](https://pypi.org/project/maskpack/); layout: format version {version}.
"""


def render_card(manifest: Manifest, sizes: Mapping[str, int | None]) -> str:
    """Markdown with the YAML head that model hubs read.

    Args:
        manifest: what the artifact holds.
        sizes: file name -> bytes, for the backbone and every patch; None for one that is lost.
    """
    entries = [manifest.tasks[name] for name in sorted(manifest.tasks)]
    return _TEMPLATE.format(
        model=manifest.source.model,
        count=len(entries),
        s="" if len(entries) == 1 else "s",
        width=_width(manifest.scheme),
        embedding_bits=manifest.scheme.embedding_bits,
        backbone=_bytes(sizes[schema.BACKBONE]),
        rows="\n".join(_row(entry, sizes[entry.file]) for entry in entries),
        version=schema.FORMAT_VERSION,
    )


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
        f"| {entry.name} | {entry.kind} | {entry.metric} | {shown} "
        f"| {count.sparsity:.2%} | {_bytes(size)} |"
    )
