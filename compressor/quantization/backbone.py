"""The backbone of a run: quantised from a pretrained model, or read from an artifact.

Later steps treat both alike.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskpack.compressor.backbone_config import AUTO, BackboneConfig
from maskpack.compressor.config import Precision
from maskpack.compressor.memory import available_memory
from maskpack.compressor.quantization.calibration import (
    CALIBRATIONS,
    Calibration,
)
from maskpack.compressor.quantization.quantize import (
    backbone_bytes,
    bits_of,
    frequent_rows_of,
    is_calibrated,
    quantize_model,
    scheme_of,
)
from maskpack.compressor.quantization.random_weights import draw_backbone
from maskpack.compressor.quantization.refine import check_memory, refinable, refine
from maskpack.compressor.threads import training_threads
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import FitRequest
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
from maskpack.formats.channels import Divisors
from maskpack.formats.codec import encoded_size
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.errors import Hint
from maskpack.formats.schema import CONFIG
from maskpack.formats.waiting import announced
from maskpack.formats.writer import check_free, check_space, check_writable
from maskpack.models.build import shapes_of
from maskpack.models.config import load_config
from maskpack.models.families import family_of
from maskpack.models.load import Pretrained, load_pretrained
from maskpack.models.locate import resolve
from maskpack.models.placement import placement_of
from maskpack.models.trimmed_model import table_of
from maskpack.models.untrained import load_untrained
from maskpack.tasks.card import card_facts
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.peaks import measure_divisors

_LOG = logging.getLogger(__name__)
_OF_RELEASE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
"""Fields of `config.json` that say nothing of an architecture."""


@dataclass(frozen=True, eq=False)
class PreparedBackbone:
    """A backbone with its source and context.

    Attributes:
        backbone: the integer weights.
        source, scheme: where it came from.
        context: configuration, family and preprocessors.
        artifact: the artifact it was read from, or None if it is new.
    """

    backbone: Backbone
    source: Source
    scheme: Scheme
    context: ModelContext
    artifact: Artifact | None

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> PreparedBackbone:
        """The backbone of an artifact."""
        manifest, context = artifact.manifest, ModelContext.of_artifact(artifact)
        return cls(artifact.backbone, manifest.source, manifest.scheme, context, artifact)

    def backbone_bytes(self) -> int:
        """Size of the backbone as a file."""
        return encoded_size(self.backbone)

    def divisors(self, out: Path, config: Any) -> Divisors:
        """Divisors of outlier channels that int8 graphs of tasks in `out` use.

        Those that `out` has, else those of the artifact that the backbone is from; else they are measured.

        Args:
            out: the artifact that a task is written to, or comes to be.
            config: of a classifier over the backbone.
        """
        places = [open_artifact(out)] if is_artifact(out) else []
        places += [] if self.artifact is None else [self.artifact]
        for artifact in places:
            if artifact.divisors is not None:
                return artifact.divisors
        return measure_divisors(self.backbone, config, self.context.preprocessor())


def load_or_quantize(
    request: FitRequest,
    classifier: Any = None,
    on_progress: OnProgress = lambda _: None,
    rows: Split | None = None,
    *,
    pretrained: Pretrained | None = None,
) -> PreparedBackbone:
    """Read the backbone at `request.out`, or quantise `request.model` if there is none yet.

    Args:
        request: of the run.
        classifier: the model, if it is loaded already.
        on_progress: called after every step of a refinement.
        rows: for training; an encoder of images is calibrated on them where the options name no images.
        pretrained: the encoder and its tokenizer, if they are loaded already.

    Raises:
        ArtifactError: the artifact was made from another model or with other bits.
    """
    request = with_seed(request)
    if request.config.random is not None:
        return _draw_or_read(request)
    if pretrained is None:
        own = classifier if request.finetuned is None else None  # else it is that of a checkpoint
        pretrained = load_pretrained(
            request.model,
            revision=request.revision,
            classifier=own,
            resize_embeddings=request.resize_embeddings,
        )
    if is_artifact(request.out):
        return _from_artifact(request, open_artifact(request.out), pretrained)
    return prepare_backbone(
        pretrained, request.config, rows, device=request.device, on_progress=on_progress
    )


def with_seed(request: FitRequest) -> FitRequest:
    """The request with the seed of the backbone at `out`, if that is drawn: a task on it needs no weights of a model.

    Raises:
        ArtifactError: the backbone there is drawn from another seed than the one asked for, or not drawn.
    """
    asked = request.config.random
    if not is_artifact(request.out):
        return request
    artifact = open_artifact(request.out)
    if DRAWN not in artifact.manifest.requires:
        if asked is None:
            return request
        raise ArtifactError(
            f"the backbone of `{request.out}` has the weights of `{artifact.manifest.source.model}`, and `random` draws others",
            "leave `random` out, or choose another `out`",
        )
    seed = artifact.backbone.seed
    if asked not in {None, seed}:
        raise ArtifactError(
            f"the backbone of `{request.out}` is drawn from the seed {seed}, {asked} was asked for",
            "leave `random` out, or choose another `out`",
        )
    # of an artifact, how its codes were made is fixed, whatever the options say
    usual: dict[str, Any] = {
        "group": 0,
        "quantizer": AUTO,
        "calibration": None,
        "refine": None,
        "embedding_bits": BackboneConfig.embedding_bits,
    }
    return replace(request, config=replace(request.config, random=seed, **usual))


def _draw_or_read(request: FitRequest) -> PreparedBackbone:
    """The drawn backbone at `out`, or a new one; of the model only configuration and tokenizer are read."""
    untrained = load_untrained(
        request.model, revision=request.revision, resize_embeddings=request.resize_embeddings
    )
    if not is_artifact(request.out):
        return _drawn(untrained, request.config)
    artifact = open_artifact(request.out)
    _check_vocabulary(artifact, untrained)
    if not _is_same(untrained.files[CONFIG], artifact.file(CONFIG)):
        raise ArtifactError(
            f"`{artifact.path}` was drawn for the configuration of `{artifact.manifest.source.model}`, "
            f"that of `{request.model}` is another",
            Hint("give `{model}`, or another `out`", model=artifact.manifest.source.model),
        )
    check_bits(request, artifact)
    return PreparedBackbone.of_artifact(artifact)


def _is_same(one: bytes, other: bytes) -> bool:
    """Whether two `config.json` describe one architecture: another release of transformers writes other fields beside it."""
    first, second = json.loads(one), json.loads(other)
    shared = (first.keys() & second.keys()) - _OF_RELEASE
    return all(first[key] == second[key] for key in shared)


def _drawn(untrained: Pretrained, config: BackboneConfig) -> PreparedBackbone:
    """Draw a backbone for the architecture of an encoder, see `random_weights.py`."""
    with announced(_LOG, f"drawing weights of `{untrained.name}` from the seed {config.random}"):
        backbone, source, scheme = draw_backbone(untrained, config)
    return PreparedBackbone(
        backbone, source, scheme, ModelContext.of_pretrained(untrained), artifact=None
    )


def config_bytes(request: FitRequest) -> bytes:
    """`config.json` of the encoder of the same backbone, read before anything is loaded or quantised.

    Raises:
        ModelError: no such model, or one of an unknown family.
    """
    if is_artifact(request.out):
        return open_artifact(request.out).file(CONFIG)
    config = load_config(resolve(request.model), revision=request.revision)
    family_of(config.model_type)
    return bytes(config.to_json_string(use_diff=False).encode())


def prepare_backbone(
    pretrained: Pretrained,
    config: BackboneConfig,
    rows: Split | None = None,
    *,
    device: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> PreparedBackbone:
    """Quantise a pretrained model, or draw its weights; at 2 and 1 bits refine the codes on unlabelled texts, or images; `rows` as of `load_or_quantize`."""
    if config.random is not None:
        return _drawn(pretrained, config)
    scheme, base = scheme_of(config), pretrained.model
    context = ModelContext.of_pretrained(pretrained)
    if config.refine_steps:
        _check_refinement(pretrained, scheme)
    calibration = _calibration(context, config, scheme, rows)
    with announced(_LOG, f"quantising `{pretrained.name}` with {scheme.quantizer}"):
        backbone = quantize_model(
            base, scheme, calibration, frequent_rows_of(pretrained, context, config)
        )
    # a table alone, under wider linears, is refined only if that is asked for
    if config.refine_steps and refinable(backbone, base if config.refine else None):
        assert calibration is not None
        backbone = refine(
            base,
            backbone,
            calibration,
            steps=config.refine_steps,
            placement=placement_of(device, Precision.AUTO),
            on_progress=on_progress,
        )
        scheme = replace(scheme, quantizer=f"{scheme.quantizer}, refined")
    kind, digest = base.config.model_type, pretrained.weights_sha256()
    source = Source(pretrained.name, pretrained.revision, kind, digest)
    return PreparedBackbone(backbone, source, scheme, context, artifact=None)


def _check_refinement(pretrained: Pretrained, scheme: Scheme) -> None:
    """Refuse a refinement, which trains all layers together, where the memory does not suffice."""
    shapes = shapes_of(pretrained.model)
    widths = bits_of(shapes.linears, scheme)
    learned = sum(o * i for n, (o, i) in shapes.linears.items() if widths[n] in ZERO_FREE_BITS)
    if learned:
        check_memory(pretrained.name, shapes.values, learned, available_memory())


def _calibration(
    context: ModelContext, config: BackboneConfig, scheme: Scheme, rows: Split | None
) -> Calibration | None:
    """Calibration texts or images, if the options need them."""
    if not needs_calibration(config):
        return None
    path = None if config.calibration is None else Path(config.calibration)
    calibrate = CALIBRATIONS[context.family.reads]
    return calibrate(context.preprocessor(), path, rows, refined=_is_refined(config, scheme))


def needs_calibration(config: BackboneConfig) -> bool:
    """Whether codes are found on texts, or images."""
    scheme = scheme_of(config)
    return is_calibrated(scheme) or _is_refined(config, scheme)


def _is_refined(config: BackboneConfig, scheme: Scheme) -> bool:
    narrow = min([scheme.bits, *scheme.overrides.values()]) in ZERO_FREE_BITS
    narrow |= bool(config.refine) and scheme.embedding_bits != 8
    return narrow and config.refine_steps > 0


def _from_artifact(
    request: FitRequest, artifact: Artifact, pretrained: Pretrained
) -> PreparedBackbone:
    manifest, model = artifact.manifest, request.model
    if pretrained.weights_sha256() != manifest.source.weights_sha256:
        raise ArtifactError(
            f"`{artifact.path}` was made from `{manifest.source.model}` with other weights "
            f"than `{model}` has",
            Hint("give `{model}`, or another `out`", model=manifest.source.model),
        )
    _check_vocabulary(artifact, pretrained)
    check_bits(request, artifact)
    return PreparedBackbone.of_artifact(artifact)


def check_bits(request: FitRequest, artifact: Artifact) -> None:
    """Raise ArtifactError if other bits were asked for than the backbone has."""
    manifest, config = artifact.manifest, request.config
    if request.bits_given and config.bits != manifest.scheme.bits:
        raise ArtifactError(
            f"the backbone of `{artifact.path}` has {manifest.scheme.bits} bits, "
            f"{config.bits} were asked for",
            "leave `bits` out, or choose another `out`",
        )


def _check_vocabulary(artifact: Artifact, pretrained: Pretrained) -> None:
    """Raise ArtifactError if the artifact has lost tokens of its model, which would read rows otherwise than a teacher does."""
    own, whole = (
        table_of(json.loads(data)) for data in (artifact.file(CONFIG), pretrained.files[CONFIG])
    )
    if own != whole:
        raise ArtifactError(
            f"`{artifact.path}` has {own:,} of the {whole:,} embeddings of `{pretrained.name}`: its vocabulary was made smaller",
            "learn the task on the artifact that it was made from and make that smaller again, or make the model smaller "
            "first and learn on that",
        )


def _loader(config: BackboneConfig) -> Callable[..., Pretrained]:
    return load_pretrained if config.random is None else load_untrained


def make_backbone(
    model: str,
    out: Path,
    config: BackboneConfig,
    *,
    revision: str | None = None,
    device: str | None = None,
    resize_embeddings: bool = False,
    threads: int | None = None,
    rows: Split | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Artifact:
    """Quantise a pretrained encoder, or draw its weights, and write it as an artifact without tasks.

    Args:
        model: folder, hub id or alias of the pretrained encoder.
        out: folder to create.
        config: how to quantise.
        revision: branch, tag or commit of a hub model.
        device: kind of device; None: the usual one.
        resize_embeddings: see `load_pretrained`.
        threads: of torch; None: see `training_threads`.
        rows: of a task, whose images calibrate codes where the options name none.
        on_progress: called after every step of a refinement, for progress bars.

    Raises:
        MaskpackError: no such model, or `out` exists.
    """
    check_free(out)
    check_writable(out)
    pretrained = _loader(config)(model, revision=revision, resize_embeddings=resize_embeddings)
    check_space(out, backbone_bytes(shapes_of(pretrained.model), config))
    place: dict[str, Any] = {"device": device, "on_progress": on_progress}
    with training_threads(threads, device=device):
        made = prepare_backbone(pretrained, config, rows, **place)
    facts: dict[str, Any] = {"scheme": made.scheme, "files": made.context.files}
    return create_artifact(out, made.backbone, source=made.source, describe=card_facts, **facts)
