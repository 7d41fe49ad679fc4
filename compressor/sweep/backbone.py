"""Backbones of a sweep: quantised once, copied for every run that learns a mask on the same one."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

from maskpack.compressor.backbone import make_backbone
from maskpack.compressor.config import BackboneConfig, BaselineConfig
from maskpack.compressor.learning.news import Observe
from maskpack.compressor.sweep.log import claim
from maskpack.compressor.sweep.plan import Run, slug
from maskpack.formats import ArtifactError, is_artifact


def lay_backbone(run: Run, out: Path, *, observe: Observe) -> None:
    """Put an artifact at `out` that holds the run's backbone and no task.

    Raises:
        ArtifactError: no permission or space.
    """
    made = shared_backbone(run, observe=observe)
    try:
        shutil.copytree(made, out)
    except OSError as error:
        raise ArtifactError(f"cannot copy `{made}` to `{out}`: {error}") from error


def shared_backbone(run: Run, *, observe: Observe) -> Path:
    """The artifact that holds the run's backbone and no task; made now if it is not there."""
    made = backbone_folder(run)
    if not is_artifact(made):
        with claim(made.with_name(f".{made.name}.running") / "claim", wait=True):
            if not is_artifact(made):  # another process may have made it meanwhile
                make_backbone(run.model.source, made, _options(run), observe=observe)
    return made


def backbone_folder(run: Run) -> Path:
    """Where the backbone of this run, and of all that share it, stays."""
    options = {**asdict(_options(run)), "calibration": run.arm.digests.get("calibration")}
    told = json.dumps([run.model.digest, options], sort_keys=True).encode()
    digest = hashlib.sha256(told).hexdigest()[:12]
    return run.home / "backbones" / f"{slug(run.model.name)}-{options['bits']}-{digest}"


def _options(run: Run) -> BackboneConfig:
    config = run.config()
    if isinstance(config, BaselineConfig):
        return config.backbone()
    return BackboneConfig(
        **{each.name: getattr(config, each.name) for each in fields(BackboneConfig)}
    )
