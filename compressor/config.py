"""Options of a run as frozen values, each field checked on creation. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from maskpack.compressor.options import Options, check_positive, check_share, check_whole, given
from maskpack.formats import ConfigError
from maskpack.formats.bits import CODE_BITS
from maskpack.formats.lazy import renamed

_USUAL_EPOCHS = 3
_LEAST_STEPS = 400


class Precision(StrEnum):
    """Arithmetic of the training step; evaluation is always float32."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class Method(StrEnum):
    """Baselines: what is trained instead of a mask."""

    FULL = "full"
    HEAD = "head"
    HEAD_POOLER = "head-pooler"
    BITFIT = "bitfit"
    LORA = "lora"


class Estimator(StrEnum):
    """How mask bits follow from scores."""

    THRESHOLD = "threshold"
    TOPK = "topk"
    BERNOULLI = "bernoulli"
    FIXED = "fixed"


_REFINE_STEPS = 600
QUANTIZER_NAMES = ("auto", "minmax", "minmax-tensor", "mse", "gptq")
INIT_NAMES = ("auto", "constant", "magnitude", "soft-magnitude", "snip", "random")
_USUAL_MARGIN, _MARGIN = 1.6, {1: 0.8}  # by bits; chosen in docs/RESULTS.md
# The rate of a threshold's scores cancels, see `masking/linear.py`; logits of drawn masks need theirs.
_SCORE_LR, _DRAWN_LR = 3e-4, 5e-2
_FULL_LR, _PATCH_LR = 1e-4, 1e-3  # of baselines: of every weight, of a small part of them


@dataclass(frozen=True)
class RunConfig(Options):
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
        check_whole(self, "batch_size", "max_length", "seed", "steps", "train_rows")
        check_positive(self, "batch_size", "head_lr")
        check_positive(self, *given(self, "epochs", "steps", "train_rows"))
        if self.max_length < 4:
            raise ConfigError(f"`max_length` is {self.max_length}, expected 4 or more")
        check_share(self, "warmup")
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


@dataclass(frozen=True)
class BackboneConfig(Options):
    """How a pretrained encoder becomes integers.

    Attributes:
        bits: width of a backbone code; fixed once an artifact exists.
        group: weights that share a scale; 0 picks one scale a row at 8 bits, else 64.
        quantizer: `minmax`, `minmax-tensor`, `mse`, `gptq`, or `auto` (see `quantization/quantize.py`).
        embedding_bits: width of an embedding's codes, 8 or 4.
        bits_override: pattern of parameter names -> bits, such as `encoder.layer.0.*`: 4.
        calibration: text file, one sentence a line, for quantisers that look at activations; None
            takes the shipped sample sentences.
        refine: steps in which codes of 2 and 1 bits learn to copy the float model on that text,
            see `quantization/refine.py`; None: 600 at these widths; 0: none.
    """

    bits: int = 8
    group: int = 0
    quantizer: str = "auto"
    embedding_bits: int = 8
    bits_override: Mapping[str, int] = field(default_factory=dict)
    calibration: str | None = None
    refine: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "bits", "group", "embedding_bits", "refine")
        if self.bits not in CODE_BITS:
            raise ConfigError(f"`bits` is {self.bits}, expected one of {CODE_BITS}")
        if self.embedding_bits not in {8, 4}:
            raise ConfigError(f"`embedding_bits` is {self.embedding_bits}, expected 8 or 4")
        if self.group < 0 or (self.refine or 0) < 0:
            raise ConfigError("`group` and `refine` cannot be negative")
        if self.quantizer not in QUANTIZER_NAMES:
            raise ConfigError(
                f"no quantizer `{self.quantizer}`", f"quantizers: {', '.join(QUANTIZER_NAMES)}"
            )
        if not isinstance(self.bits_override, Mapping):
            raise ConfigError(
                f"`bits_override` is {self.bits_override!r}, expected a mapping of patterns to bits"
            )
        for pattern, bits in self.bits_override.items():
            if isinstance(bits, bool) or bits not in CODE_BITS:
                raise ConfigError(f"`bits_override` gives `{pattern}` {bits!r} bits: {CODE_BITS}")

    @property
    def refine_steps(self) -> int:
        """Steps of refinement, with the default resolved."""
        usual = _REFINE_STEPS if self.quantizer in {"auto", "mse", "gptq"} else 0
        return usual if self.refine is None else self.refine


@dataclass(frozen=True)
class TeacherConfig(Options):
    """Whom a run learns from, beside the labels.

    Attributes:
        teacher: folder of a fine-tuned classifier to learn from; `twin` trains one first.
        teacher_share: weight of the teacher's opinion against the labels.
        temperature: softening of both opinions.
        teacher_states: weight of the distance to the teacher's hidden states, see `training/loss.py`; 0:
            none; None: 3 where student and teacher have layers of the same number and width.
    """

    teacher: str | None = None
    teacher_share: float = 0.5
    temperature: float = 2.0
    teacher_states: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "temperature")
        if not 0.0 < self.teacher_share <= 1.0:
            raise ConfigError(f"`teacher_share` is {self.teacher_share}, expected (0, 1]")
        if not 0.0 <= (self.teacher_states or 0.0) < math.inf:
            raise ConfigError(f"`teacher_states` is {self.teacher_states}, expected 0 or more")


@dataclass(frozen=True)
class FitConfig(RunConfig, BackboneConfig, TeacherConfig):
    """How a mask is learned, over which backbone.

    Attributes:
        estimator: `threshold` (flips where gradients insist), `topk` (a fixed share a kind of
            matrix), `bernoulli` (drawn masks), `fixed` (the start is the mask, nothing is learned).
        init: first scores, see `masking/score_init.py`; `auto` is constant, or magnitude for a sparsity.
        lr: peak learning rate of the scores; None: the estimator's own.
        margin: how far a score must travel to flip its weight, in standard deviations of the
            distance that noise alone would drive it. Smaller means more flips. None: 1.6, and 0.8
            at 1 bit, where a mask has rounding to make up for.
        boundary: least share of that way in early steps, when noise has not driven far yet; 1: the
            whole way from the start.
        floor: how much the size of a gradient counts, see `training/train.py`; 0 is plain Adam.
        sparsity: share of zeros to end with (of `bernoulli`: to start with); None lets the margin
            decide.
        target_bpp: entropy of the mask to stay within, in bits per masked weight.
        target_bytes: coded size of the whole patch to stay within: mask entropy, head and the rest.
        layers: encoder layers whose linears are masked, such as `2-5` or `0,3`; None: all.
        modules: parts of linear names that are masked, such as `query,value`; None: all.
        train_bias, train_norm, train_scales: whether biases, LayerNorm parameters, and a factor a
            row of each masked linear are trained too; each adds float16 values to the patch.
        dense_lr: their peak learning rate.
        ema: weight of the past in an average of the scores that the mask is cut from; 0: none.
        patience: epochs without a better metric on held-out training rows before the end.
        dropout: probability of dropout; None: the model's own.
        checkpoint_every: steps between checkpoints; 0 writes none.
    """

    estimator: Estimator = Estimator.THRESHOLD
    init: str = "auto"
    lr: float | None = None
    margin: float | None = None
    boundary: float = 0.4
    floor: float = 1.0
    sparsity: float | None = None
    target_bpp: float | None = None
    target_bytes: int | None = None
    layers: str | None = None
    modules: str | None = None
    train_bias: bool = False
    train_norm: bool = False
    train_scales: bool = False
    dense_lr: float = 3e-4
    ema: float = 0.0
    patience: int | None = None
    dropout: float | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        BackboneConfig.__post_init__(self)
        TeacherConfig.__post_init__(self)
        object.__setattr__(self, "estimator", Estimator(self.estimator))
        check_whole(self, "checkpoint_every", "target_bytes", "patience")
        check_positive(self, "dense_lr")
        check_positive(self, *given(self, "margin", "lr", "target_bytes", "patience"))
        self._check_size()
        if not 0.0 <= self.boundary <= 1.0:
            raise ConfigError(f"`boundary` is {self.boundary}, expected a share in [0, 1]")
        if self.checkpoint_every < 0 or not 0 <= self.floor < math.inf:
            raise ConfigError("`checkpoint_every` and `floor` cannot be negative")
        check_share(self, *given(self, "ema", "dropout"))
        if self.patience is not None and (self.has_size_target or self.ema):
            raise ConfigError(
                "`patience` ends a run early, size targets and `ema` need its last step",
                "leave one of them out",
            )
        self.layer_numbers()

    def _check_size(self) -> None:
        targets = given(self, "sparsity", "target_bpp", "target_bytes")
        if len(targets) > 1:
            raise ConfigError(
                f"`{targets[0]}` and `{targets[1]}` set the same thing", "give one of them"
            )
        if self.sparsity is not None and not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"`sparsity` is {self.sparsity}, expected a share in (0, 1)")
        if self.target_bpp is not None and not 0.0 < self.target_bpp <= 1.0:
            raise ConfigError(f"`target_bpp` is {self.target_bpp}, expected (0, 1] bits a weight")
        if self.init not in INIT_NAMES:
            raise ConfigError(f"no init `{self.init}`", f"inits: {', '.join(INIT_NAMES)}")
        ranked = self.init not in {"auto", "constant"} or self.estimator is not Estimator.THRESHOLD
        if ranked and self.sparsity is None:
            what = f"estimator {self.estimator}" if self.init == "auto" else f"init {self.init}"
            raise ConfigError(f"{what} needs a share of zeros", "give `sparsity`")

    @property
    def has_size_target(self) -> bool:
        """Whether the size of the mask is asked for."""
        return bool(given(self, "sparsity", "target_bpp", "target_bytes"))

    start = renamed("start", "score_init")

    @property
    def score_init(self) -> str:
        """Name of the score initialisation, with `auto` resolved."""
        if self.init != "auto":
            return self.init
        if self.estimator is Estimator.TOPK or self.sparsity is None:
            return "constant"
        return "soft-magnitude" if self.estimator is Estimator.BERNOULLI else "magnitude"

    @property
    def score_lr(self) -> float:
        """Peak learning rate of the scores."""
        usual = _DRAWN_LR if self.estimator is Estimator.BERNOULLI else _SCORE_LR
        return usual if self.lr is None else self.lr

    @property
    def flip_margin(self) -> float:
        """The margin, with None resolved."""
        return _MARGIN.get(self.bits, _USUAL_MARGIN) if self.margin is None else self.margin

    def layer_numbers(self) -> frozenset[int] | None:
        """Numbers of the layers to mask, or None for all.

        >>> sorted(FitConfig(layers="0,2-4").layer_numbers())
        [0, 2, 3, 4]

        Raises:
            ConfigError: not a list of numbers and ranges.
        """
        if self.layers is None:
            return None
        numbers: set[int] = set()
        for part in self.layers.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise ConfigError(f"`layers` is `{self.layers}`", "write it like `2-5` or `0,3`")
            numbers.update(range(int(first), int(last or first) + 1))
        if not numbers:
            raise ConfigError(f"`layers` is `{self.layers}`, which names no layer")
        return frozenset(numbers)


@dataclass(frozen=True)
class BaselineConfig(RunConfig, TeacherConfig):
    """How a baseline is trained.

    Attributes:
        method: what is trained.
        lr: peak learning rate of what is not the head; None: the method's usual one.
        rank: rank of the factors of `lora`, on query and value.
        bits: None: on the float model; else on the model with its linears quantised to that width.
        quantizer, group, embedding_bits, calibration, refine: of that backbone.
        dropout: probability of dropout; None: the model's own.
    """

    method: Method = Method.FULL
    lr: float | None = None
    rank: int = 8
    bits: int | None = None
    quantizer: str = "auto"
    group: int = 0
    embedding_bits: int = 8
    calibration: str | None = None
    refine: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        TeacherConfig.__post_init__(self)
        check_whole(self, "rank", "bits", "group")
        check_positive(self, "rank", *given(self, "lr", "bits"))
        object.__setattr__(self, "method", Method(self.method))
        check_share(self, *given(self, "dropout"))
        if self.bits is not None:
            self.backbone()

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of what is not the head."""
        usual = _FULL_LR if self.method is Method.FULL else _PATCH_LR
        return usual if self.lr is None else self.lr

    def backbone(self) -> BackboneConfig:
        """The backbone's options."""
        assert self.bits is not None
        return BackboneConfig(
            bits=self.bits,
            group=self.group,
            quantizer=self.quantizer,
            embedding_bits=self.embedding_bits,
            calibration=self.calibration,
            refine=self.refine,
        )
