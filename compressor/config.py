"""Options of a run as frozen values, each declared once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated

from maskpack.compressor.average_config import AverageConfig
from maskpack.compressor.backbone_config import BackboneConfig, CodesConfig
from maskpack.compressor.label_config import LabelConfig, TuningConfig
from maskpack.compressor.mask_config import MaskConfig
from maskpack.compressor.pooling_config import PoolingConfig
from maskpack.compressor.rewind_config import RewindConfig
from maskpack.compressor.rounding_config import RoundingConfig
from maskpack.compressor.schedule_config import ScheduleConfig
from maskpack.compressor.schedules import LINEAR, RESTARTS
from maskpack.compressor.teacher_config import (
    DENSE_TEACHER,
    MASK_TEACHERS,
    NO_TEACHER,
    NOT_WITH_PEERS,
    PEER_TEACHER,
    SNAPSHOT_TEACHER,
    TEACHER_HELP,
    TeacherConfig,
)
from maskpack.compressor.trunk_config import TrunkConfig, listed_numbers
from maskpack.compressor.unit_config import UnitConfig
from maskpack.formats import ConfigError
from maskpack.formats.lazy import renamed
from maskpack.formats.options import Opt, Options

_POSITIVE = "(0, inf)"
_SHARE = "[0, 1)"
_USUAL_EPOCHS = 3
_LEAST_STEPS = 400


class Precision(StrEnum):
    """Arithmetic of the training step; evaluation is always float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Method(StrEnum):
    """Baselines: what is trained instead of a mask."""

    FULL = "full"
    HEAD = "head"
    HEAD_POOLER = "head-pooler"
    BITFIT = "bitfit"
    LORA = "lora"
    IMP = "imp"


_USUAL_MARGIN, _MARGIN = 1.6, {1: 0.8}  # by bits; chosen in docs/RESULTS.md
_FULL_LR, _PATCH_LR = 1e-4, 1e-3  # of baselines: of every weight, of a small part of them


@dataclass(frozen=True)
class BudgetConfig(Options):
    """How much of the rows a run sees, and how much of a row."""

    epochs: Annotated[
        float | None,
        Opt(
            # a mask on a small task needs steps more than it needs rows
            "Passes over the training rows; may be a fraction.",
            within=_POSITIVE,
            default=f"{_USUAL_EPOCHS}, but at least {_LEAST_STEPS} steps",
        ),
    ] = None
    steps: Annotated[int | None, Opt("Optimiser steps; overrides `epochs`.", within=_POSITIVE)] = (
        None
    )
    batch_size: Annotated[int, Opt("Rows in a training step.", within=_POSITIVE)] = 32
    max_length: Annotated[
        int, Opt("Longest text in tokens; longer texts are cut.", within="[4, inf)")
    ] = 128


@dataclass(frozen=True)
class RunConfig(BudgetConfig, PoolingConfig, ScheduleConfig):
    """What every run shares, learned mask or dense baseline."""

    head_lr: Annotated[
        float, Opt("Peak learning rate of the task-specific layers.", within=_POSITIVE)
    ] = 1e-3
    warmup: Annotated[
        float,
        Opt("Share of the steps in which the rate rises at first.", within=_SHARE),
    ] = 0.1
    seed: Annotated[
        int,
        Opt("Seed of head initialisation, data order and dropout.", within=f"[0, {2**31 - 1}]"),
    ] = 0
    train_rows: Annotated[
        int | None,
        Opt(
            "Use at most so many training rows, the same ones for every seed.",
            within=_POSITIVE,
            default="all",
        ),
    ] = None
    precision: Annotated[Precision, Opt("Arithmetic of a training step.")] = Precision.AUTO
    dropout: Annotated[
        float | None,
        Opt("Probability of dropout.", within=_SHARE, default="the model's own"),
    ] = None
    accumulate: Annotated[
        int,
        Opt(
            "Parts in which each process computes the rows of a step, one after another: less memory.",
            within=_POSITIVE,
            later=True,
        ),
    ] = 1
    max_grad_norm: Annotated[
        float | None,
        Opt(
            "Largest norm of a step's gradients together; larger ones are scaled down.",
            within=_POSITIVE,
            default="no limit",
            later=True,
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        Opt("Compute layers again in the backward pass: less memory, more time.", later=True),
    ] = False
    compile: Annotated[bool, Opt("Let torch compile the forward pass.", later=True)] = False

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for `rows` training rows."""
        if self.steps is not None:
            return self.steps
        per_epoch = -(-rows // self.batch_size)
        if self.epochs is None:
            return max(_USUAL_EPOCHS * per_epoch, _LEAST_STEPS)
        return max(1, round(per_epoch * self.epochs))


@dataclass(frozen=True)
class FitConfig(
    MaskConfig,
    TeacherConfig,
    TuningConfig,
    RoundingConfig,
    TrunkConfig,
    UnitConfig,
    AverageConfig,
    RunConfig,
    BackboneConfig,
):
    """How a mask is learned, over which backbone."""

    teacher: Annotated[
        str | None,
        Opt(
            f"{TEACHER_HELP} A mask also learns from a `{PEER_TEACHER}` that learns beside it, or from its last `{SNAPSHOT_TEACHER}`.",
            default="MODEL, if it is fine-tuned for the task; else twin; none over random weights",
            path=True,
        ),
    ] = None
    layers: Annotated[
        str | None, Opt("Encoder layers to mask, such as 2-5 or 0,3.", default="all")
    ] = None
    modules: Annotated[
        str | None,
        Opt("Parts of the names of linears to mask, such as query,value.", default="all"),
    ] = None
    train_bias: Annotated[bool, Opt("Train biases too; they join the patch.")] = False
    train_norm: Annotated[bool, Opt("Train LayerNorm parameters too; they join the patch.")] = False
    train_scales: Annotated[
        bool, Opt("Train a factor for each row of weights too; it joins the patch.")
    ] = False
    dense_lr: Annotated[float, Opt("Peak learning rate of those three.", within=_POSITIVE)] = 3e-4
    patience: Annotated[
        int | None,
        Opt(
            "Stop after so many epochs without a better metric on held-out training rows.",
            within=_POSITIVE,
            default="never",
        ),
    ] = None
    keep_states: Annotated[
        bool,
        Opt(
            "Where it saves time, keep the teacher's hidden states on the disk in float16 while the run lasts.",
            later=True,
        ),
    ] = True
    checkpoint_every: Annotated[
        int, Opt("Steps between two checkpoints; 0: none.", within="[0, inf)")
    ] = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = self._targets()
        for name in self.estimator_entry.refuses:
            if getattr(self, name):
                raise ConfigError(
                    f"`{name}` means nothing to estimator {self.estimator}",
                    "leave one of them out",
                )
        if self.units is not None and targets:
            raise ConfigError(
                f"`{targets[0]}` counts single weights, and `units` removes many at once",
                "leave one of them out",
            )
        if self.is_ranked and self.share is None and not self._units_alone():
            what = f"estimator {self.estimator}" if self.init == "auto" else f"init {self.init}"
            if self.units is not None:
                raise ConfigError(
                    f"{what} needs a share of zeros, and `units` takes none",
                    "leave `estimator` and `init` out, or give the estimator fixed",
                )
            raise ConfigError(f"{what} needs a share of zeros", "give `sparsity`")
        last = ("units", "ema", "tail", "snapshots", "simulate")
        whole = [*targets, *(name for name in last if getattr(self, name))]
        if self.patience is not None and whole:
            raise ConfigError(
                f"`patience` ends a run early, `{whole[0]}` needs its last step",
                "leave one of them out",
            )
        if self.snapshots and self.teacher != PEER_TEACHER:
            self._check_snapshots()
        if self.teacher in MASK_TEACHERS:
            self._check_mask_teacher()
        self._check_stops()
        self.layer_numbers()
        if self.layers is not None and self.trunk is not None:
            raise ConfigError("`layers` and `trunk` set the same thing", "give one of them")

    def teacher_name(self, finetuned: str | None) -> str | None:
        """As of every run; without an option a mask learns from the fine-tuned source model or a dense teacher, over drawn weights from none."""
        usual = (
            DENSE_TEACHER if self.random is None else None
        )  # of a hidden network there is no pretrained one
        name = self.teacher or finetuned or usual
        return None if name == NO_TEACHER else name

    @property
    def shape(self) -> tuple[str, int]:
        """As of every run; one that passes several shares of zeros begins its rates anew at each, if nothing else is said."""
        if self.levels and self.schedule == LINEAR:
            return RESTARTS, len(self.levels)
        return self.schedule, self.cycles

    @property
    def stops(self) -> tuple[str, ...]:
        """What the names of tasks that the run leaves on its way end in; they divide its steps evenly."""
        if self.levels:
            return tuple(f"{100 * level:.4g}" for level in self.levels[:-1])
        if self.teacher == PEER_TEACHER:
            return (PEER_TEACHER,) if self.snapshots else ()
        return tuple(map(str, range(1, self.cycles))) if self.snapshots else ()

    @property
    def parts(self) -> int:
        """Equal parts of the run, each of which ends in a mask that may be kept, or teach the next part."""
        return max(len(self.levels), self.cycles)

    def _check_mask_teacher(self) -> None:
        name = self.teacher
        if self.teacher_states:
            raise ConfigError(
                f"the teacher `{name}` gives logits, and no hidden states to follow",
                "leave `teacher_states` out",
            )
        if name == SNAPSHOT_TEACHER:
            if self.parts == 1:
                raise ConfigError(
                    "a snapshot teaches from the second cycle on, and there is one",
                    "give `schedule` restarts and `cycles`, such as 3",
                )
            return
        if self.snapshots and self.cycles > 1:
            raise ConfigError(
                f"with the teacher `{name}`, `snapshots` keeps the other mask, and `cycles` leave none",
                "leave `snapshots` or `cycles` out",
            )
        for option, why in NOT_WITH_PEERS.items():
            if getattr(self, option):
                raise ConfigError(
                    f"`{option}` does not go with the teacher `{name}`: {why}",
                    "leave one of them out",
                )
        if self.finds_trunk:
            raise ConfigError(
                f"`trunk` auto does not go with the teacher `{name}`",
                "give `trunk` as a number",
            )

    def _check_stops(self) -> None:
        average = "ema" if self.ema else "tail" if self.tail else None
        if self.stops and average is not None and self.teacher != PEER_TEACHER:
            raise ConfigError(
                f"`{average}` averages the scores for the last mask, not for those on the way",
                "leave one of them out",
            )
        if len(set(self.stops)) < len(self.stops):
            raise ConfigError(
                f"`continual` is `{self.continual}`, whose tasks would have the same names",
                "give shares that differ in their first four digits",
            )
        if self.levels and 1 < self.cycles != len(self.levels):
            raise ConfigError(
                f"`cycles` is {self.cycles}, and `continual` passes {len(self.levels)} shares",
                "leave `cycles` out: rates begin anew at each share",
            )

    def _check_snapshots(self) -> None:
        if self.levels:
            raise ConfigError(
                "`continual` keeps a mask at each share of zeros, `snapshots` at each cycle",
                "leave one of them out",
            )
        if self.cycles == 1:
            raise ConfigError(
                "`snapshots` are taken at the ends of cycles, and there is one",
                "give `schedule` restarts and `cycles`, such as 3",
            )
        if self.units is not None:
            raise ConfigError(
                "`units` go in stages over the whole run, and `snapshots` are masks of all stages",
                "leave one of them out",
            )

    def _units_alone(self) -> bool:
        """Whether units are removed and no single weight is."""
        fixed = not self.estimator_entry.learns and self.init in {"auto", "constant"}
        return fixed and self.units is not None

    start = renamed("start", "score_init")

    @property
    def flip_margin(self) -> float:
        """The margin, with None resolved."""
        return _MARGIN.get(self.bits, _USUAL_MARGIN) if self.margin is None else self.margin

    def layer_numbers(self) -> frozenset[int] | None:
        """Numbers of the layers to mask, or None for all; ConfigError if the option is no list of numbers and ranges."""
        return None if self.layers is None else listed_numbers("layers", self.layers)


@dataclass(frozen=True)
class BaselineConfig(RewindConfig, TeacherConfig, LabelConfig, RunConfig, CodesConfig):
    """How a baseline is trained; with `bits`, on the model with its linears quantised."""

    method: Annotated[Method, Opt("What is trained.", default="", required=True)] = Method.FULL
    lr: Annotated[
        float | None,
        Opt(
            "Peak learning rate of what is not the head.",
            within=_POSITIVE,
            default=f"full, imp: {_FULL_LR:g}, others: {_PATCH_LR:g}",
        ),
    ] = None
    rank: Annotated[
        int, Opt("Rank of the factors of lora, on query and value.", within=_POSITIVE)
    ] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher in MASK_TEACHERS:
            raise ConfigError(
                f"the teacher `{self.teacher}` is a mask of the run, and a baseline has none",
                f"give a folder or `{DENSE_TEACHER}`",
            )
        given = self.given_rounds
        if self.method is Method.IMP and self.sparsity is None:
            raise ConfigError("the method imp needs a share of zeros", "give `sparsity`")
        if self.method is not Method.IMP and given:
            raise ConfigError(
                f"`{given[0]}` is of the method imp, and the method is {self.method}",
                "leave one of them out",
            )

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of what is not the head."""
        usual = _FULL_LR if self.method in {Method.FULL, Method.IMP} else _PATCH_LR
        return usual if self.lr is None else self.lr

    def backbone(self) -> BackboneConfig:
        """The backbone's options."""
        codes = {each.name: getattr(self, each.name) for each in fields(CodesConfig)}
        if self.bits is None:
            assert self.random is not None, "on floats there is no backbone"
            del codes["bits"]
        return BackboneConfig(**codes)
