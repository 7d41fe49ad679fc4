"""An artifact with a backbone and no task yet: quantise once, learn tasks into copies or in turn."""

from __future__ import annotations

from pathlib import Path

from maskpack.compressor.config import BackboneConfig
from maskpack.compressor.ground import quantized_ground
from maskpack.compressor.learning.news import Observe
from maskpack.compressor.models.hub import load_pretrained
from maskpack.formats import Artifact, create_artifact
from maskpack.formats.writer import check_free


def make_backbone(
    model: str,
    out: Path,
    config: BackboneConfig,
    *,
    revision: str | None = None,
    observe: Observe = lambda _: None,
) -> Artifact:
    """Quantise a pretrained encoder and write it as an artifact without tasks.

    Args:
        model: folder, hub id or alias of the pretrained encoder.
        out: folder to create.
        config: how to quantise.
        revision: branch, tag or commit of a hub model.
        observe: called after every step of a refinement, for progress bars.

    Raises:
        MaskpackError: no such model, or something is at `out` already.
    """
    check_free(out)
    ground = quantized_ground(load_pretrained(model, revision=revision), config, observe=observe)
    return create_artifact(
        out, ground.backbone, source=ground.source, scheme=ground.scheme, files=ground.files
    )
