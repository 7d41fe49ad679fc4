"""Options of a run as frozen values, each field checked on creation. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import yaml

from maskpack.formats import ConfigError
from maskpack.formats.tensors import binary_entropy

_USUAL_EPOCHS = 3
_LEAST_STEPS = 400


class Precision(StrEnum):
    """Arithmetic of the training step; evaluation is always float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class Method(StrEnum):
    """Baselines: what is trained, on the float model."""

    FULL = "full"
    HEAD = "head"
    HEAD_POOLER = "head-pooler"


@dataclass(frozen=True)
class RunConfig:
    """What every run shares, learned mask or dense baseline.

    Attributes:
        epochs: passes over the training rows, may be a fraction; None: 3, but at least 400 steps,
            because a mask on a small task needs steps more than it needs rows.
        steps: optimiser steps; overrides `epochs`.
        batch_size: rows a step.
        max_length: tokens a text is cut to.
        head_lr: peak learning rate of the task-specific layers.
        warmup: share of the steps in which the rate rises; then it falls linearly to 0.
        seed: of head initialisation, data order and dropout.
        train_rows: at most so many training rows, the same ones for every seed.
        precision: arithmetic of the training step.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 32
    max_length: int = 128
    head_lr: float = 1e-3
    warmup: float = 0.1
    seed: int = 0
    train_rows: int | None = None
    precision: Precision = Precision.AUTO

    def __post_init__(self) -> None:
        _whole(self, "batch_size", "max_length", "seed", "steps", "train_rows")
        _positive(self, "batch_size", "head_lr")
        _positive(
            self,
            *(
                name
                for name in ("epochs", "steps", "train_rows")
                if getattr(self, name) is not None
            ),
        )
        if self.max_length < 4:
            raise ConfigError(f"`max_length` is {self.max_length}, expected 4 or more")
        if not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"`warmup` is {self.warmup}, expected a share in [0, 1)")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"`seed` is {self.seed}, expected 0 to 2**31 - 1")
        object.__setattr__(self, "precision", Precision(self.precision))

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for `rows` training rows."""
        if self.steps is not None:
            return self.steps
        per_epoch = -(-rows // self.batch_size)
        if self.epochs is None:
            return max(_USUAL_EPOCHS * per_epoch, _LEAST_STEPS)
        return max(1, round(per_epoch * self.epochs))

    def sha256(self) -> str:
        """Digest of all options: a checkpoint belongs to one set of them."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """Options from a mapping; absent ones keep their default.

        Raises:
            ConfigError: an option that does not exist, or a value of the wrong type or range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(tree) - known)
        if unknown:
            raise ConfigError(f"no option `{unknown[0]}`", f"options: {', '.join(sorted(known))}")
        try:
            return cls(**tree)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"an option has a wrong value: {error}") from error


@dataclass(frozen=True)
class FitConfig(RunConfig):
    """How a mask is learned.

    Attributes:
        bits: width of a backbone code; fixed once an artifact exists.
        group: weights that share a scale; 0 picks one scale a row at 8 bits and 64 at 4 bits.
        quantizer: `minmax`, `mse`, or `auto` (minmax at 8 bits, mse at 4).
        lr: peak learning rate of the scores.
        margin: how far a score must travel to flip its weight, in standard deviations of the
            distance that noise alone would drive it. Smaller means more flips.
        floor: how much the size of a gradient counts, see `optimizer.py`; 0 is plain Adam.
        sparsity: share of zeros to end with; None lets the margin decide.
        target_bpp: the same as entropy of the mask, in bits per masked weight.
        checkpoint_every: steps between checkpoints; 0 writes none.
    """

    bits: int = 8
    group: int = 0
    quantizer: str = "auto"
    lr: float = 3e-4
    margin: float = 1.6
    floor: float = 1.0
    sparsity: float | None = None
    target_bpp: float | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "bits", "group", "checkpoint_every")
        _positive(self, "lr", "margin")
        if self.bits not in {8, 4}:
            raise ConfigError(f"`bits` is {self.bits}, this release learns on 8 or 4")
        if self.group < 0 or self.checkpoint_every < 0 or not 0 <= self.floor < math.inf:
            raise ConfigError("`group`, `checkpoint_every` and `floor` cannot be negative")
        if self.quantizer not in {"auto", "minmax", "mse"}:
            raise ConfigError(f"no quantizer `{self.quantizer}`", "quantizers: auto, minmax, mse")
        if self.sparsity is not None and self.target_bpp is not None:
            raise ConfigError("`sparsity` and `target_bpp` set the same thing", "give one of them")
        if self.sparsity is not None and not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"`sparsity` is {self.sparsity}, expected a share in (0, 1)")
        if self.target_bpp is not None and not 0.0 < self.target_bpp <= 1.0:
            raise ConfigError(f"`target_bpp` is {self.target_bpp}, expected (0, 1] bits a weight")

    @property
    def target_sparsity(self) -> float | None:
        """Share of zeros that meets the size target, or None if there is no target.

        >>> round(FitConfig(target_bpp=0.0808).target_sparsity, 4)
        0.01
        """
        if self.target_bpp is None:
            return self.sparsity
        low, high = 0.0, 0.5
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if binary_entropy(middle) < self.target_bpp else (low, middle)
            )
        return (low + high) / 2


@dataclass(frozen=True)
class BaselineConfig(RunConfig):
    """How a dense baseline is trained.

    Attributes:
        method: what is trained.
        lr: peak learning rate of the pretrained weights, for `full`.
    """

    method: Method = Method.FULL
    lr: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "lr")
        object.__setattr__(self, "method", Method(self.method))


def load_options(path: Path) -> dict[str, Any]:
    """Options from a YAML file: a mapping of names to values. Inverse of `save_options`.

    Raises:
        ConfigError: no such file, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the options in `{path}`: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"`{path}` does not hold a mapping of options")
    return {str(key).replace("-", "_"): value for key, value in tree.items()}


def save_options(path: Path, config: RunConfig) -> None:
    """Write all options, defaults included, as YAML that `load_options` reads."""
    tree = {key: str(v) if isinstance(v, StrEnum) else v for key, v in asdict(config).items()}
    try:
        path.write_text(yaml.safe_dump(tree, sort_keys=True), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write `{path}`: {error.strerror}") from error


def _whole(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"`{name}` is {value!r}, expected a whole number")


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ConfigError(f"`{name}` is {value!r}, expected a number above 0")
