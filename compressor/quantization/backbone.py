"""The backbone that a mask is learned on: quantised now from a pretrained model, or read from an artifact.

Later steps do not depend on which of the two it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskpack.compressor.config import BackboneConfig, FitConfig, Precision
from maskpack.compressor.quantization.calibration import Calibration, calibration_texts
from maskpack.compressor.quantization.quantize import is_calibrated, quantize_model, scheme_of
from maskpack.compressor.quantization.refine import refinable, refine
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.training.train import uses_bf16
from maskpack.formats import (
    Artifact,
    ArtifactError,
    Backbone,
    Scheme,
    Source,
    create_artifact,
    is_artifact,
    open_artifact,
)
from maskpack.formats.bits import ZERO_FREE_BITS
from maskpack.formats.codec import encode_backbone
from maskpack.formats.schema import CONFIG
from maskpack.formats.writer import check_free
from maskpack.models.families import longest_input, token_kinds
from maskpack.models.load import Pretrained, artifact_tokenizer, load_pretrained


@dataclass(frozen=True, eq=False)
class PreparedBackbone:
    """A backbone ready to learn on.

    Attributes:
        backbone: the integer weights.
        source, scheme: where it came from.
        files: configuration and tokenizer files, name -> bytes.
        tokenizer: the loaded tokenizer.
        artifact: the artifact it was read from, or None if it is new.
    """

    backbone: Backbone
    source: Source
    scheme: Scheme
    files: Mapping[str, bytes]
    tokenizer: Any
    artifact: Artifact | None

    @property
    def token_types(self) -> bool:
        """Whether the encoder tells the two texts of a pair apart by their token types."""
        return token_kinds(json.loads(self.files[CONFIG])) > 0

    @property
    def longest(self) -> int:
        """Tokens the encoder has positions for."""
        return longest_input(json.loads(self.files[CONFIG]))

    def backbone_bytes(self) -> int:
        """Size of the backbone as a file."""
        return len(encode_backbone(self.backbone))


def load_or_quantize(
    model: str,
    out: Path,
    config: FitConfig,
    *,
    bits_given: bool = True,
    revision: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> PreparedBackbone:
    """Read the backbone at `out`, or quantise `model` if there is none yet.

    Raises:
        ArtifactError: the artifact at `out` was made from another model or with other bits.
    """
    if is_artifact(out):
        return _from_artifact(
            model, open_artifact(out), config, bits_given=bits_given, revision=revision
        )
    return prepare_backbone(
        load_pretrained(model, revision=revision), config, on_progress=on_progress
    )


def prepare_backbone(
    pretrained: Pretrained, config: BackboneConfig, *, on_progress: OnProgress = lambda _: None
) -> PreparedBackbone:
    """Quantise a pretrained model; at 2 and 1 bits, let the codes copy it on unlabelled text."""
    scheme, base = scheme_of(config), pretrained.model
    calibration = _calibration(pretrained, config, scheme)
    backbone = quantize_model(base, scheme, calibration)
    if config.refine_steps and refinable(backbone):
        assert calibration is not None
        bf16 = uses_bf16(Precision.AUTO)
        steps = config.refine_steps
        backbone = refine(
            base, backbone, calibration, steps=steps, bf16=bf16, on_progress=on_progress
        )
        scheme = replace(scheme, quantizer=f"{scheme.quantizer}, refined")
    return PreparedBackbone(
        backbone=backbone,
        source=Source(
            pretrained.name,
            pretrained.revision,
            base.config.model_type,
            pretrained.weights_sha256(),
        ),
        scheme=scheme,
        files=pretrained.files,
        tokenizer=pretrained.tokenizer,
        artifact=None,
    )


def _calibration(
    pretrained: Pretrained, config: BackboneConfig, scheme: Scheme
) -> Calibration | None:
    """Text, if anything will look at it."""
    narrow = min([scheme.bits, *scheme.overrides.values()]) in ZERO_FREE_BITS
    refined = narrow and config.refine_steps > 0
    if not is_calibrated(scheme) and not refined:
        return None
    return Calibration.of(
        pretrained.tokenizer,
        calibration_texts(None if config.calibration is None else Path(config.calibration)),
        token_types=token_kinds(pretrained.model.config.to_dict()) > 0,
        pairs=refined,
    )


def _from_artifact(
    model: str, artifact: Artifact, config: FitConfig, *, bits_given: bool, revision: str | None
) -> PreparedBackbone:
    manifest = artifact.manifest
    pretrained = load_pretrained(model, revision=revision)
    if pretrained.weights_sha256() != manifest.source.weights_sha256:
        raise ArtifactError(
            f"`{artifact.path}` was made from `{manifest.source.model}` with other weights "
            f"than `{model}` has",
            f"give `{manifest.source.model}`, or another place with `-o`",
        )
    if bits_given and config.bits != manifest.scheme.bits:
        raise ArtifactError(
            f"the backbone of `{artifact.path}` has {manifest.scheme.bits} bits, "
            f"`--bits {config.bits}` was asked for",
            "leave `--bits` out, or choose another place with `-o`",
        )
    files = {name: artifact.file(name) for name in manifest.files}
    return PreparedBackbone(
        artifact.backbone,
        manifest.source,
        manifest.scheme,
        files,
        artifact_tokenizer(artifact),
        artifact,
    )


def make_backbone(
    model: str,
    out: Path,
    config: BackboneConfig,
    *,
    revision: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Artifact:
    """Quantise a pretrained encoder and write it as an artifact without tasks.

    Args:
        model: folder, hub id or alias of the pretrained encoder.
        out: folder to create.
        config: how to quantise.
        revision: branch, tag or commit of a hub model.
        on_progress: called after every step of a refinement, for progress bars.

    Raises:
        MaskpackError: no such model, or something is at `out` already.
    """
    check_free(out)
    prepared = prepare_backbone(
        load_pretrained(model, revision=revision), config, on_progress=on_progress
    )
    return create_artifact(
        out, prepared.backbone, source=prepared.source, scheme=prepared.scheme, files=prepared.files
    )
