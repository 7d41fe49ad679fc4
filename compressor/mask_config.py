"""Options of how a mask is learned, and the tables of what they name. Imports no torch.

What an entry computes stands in `masking/`, and is loaded when a mask is learned: `learner` of an `Estimator`, the entries of
`SCORE_INITS` and of `PATTERNS`. Here stands what options must know of it; types of entries are on a higher floor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from maskpack.formats import ConfigError
from maskpack.formats.lazy import LazyTable
from maskpack.formats.options import Opt, Options

_POSITIVE = "(0, inf)"
# The rate of a threshold's scores cancels, see `masking/linear.py`; logits of keep-probabilities need theirs.
_SCORE_LR, _LOGIT_LR, _GATE_LR = 3e-4, 5e-2, 0.1
_CONSTANT = "constant"


@dataclass(frozen=True)
class Estimator:
    """How mask bits follow from scores, as far as options must know it.

    Attributes:
        learner: `module:NAME` of the `MaskLearner` that computes it.
        lr: peak learning rate of the scores.
        needs_share: whether it needs a share of zeros.
        init: the initialisation that `auto` means where there is a share of zeros; None: first scores are its own, and
            `init` is refused.
        learns: whether scores change; else the first mask stays, but for units that are removed.
        refuses: options that mean nothing to it, and must be left out.
        compares: whether bits are comparisons of scores with each other or with a threshold, which a pattern may do
            within groups instead.
    """

    learner: str
    lr: float = _SCORE_LR
    needs_share: bool = True
    init: str | None = "magnitude"
    learns: bool = True
    refuses: tuple[str, ...] = ()
    compares: bool = False

    def load(self) -> Any:
        """The `MaskLearner`; imports torch."""
        return LazyTable[Any](learner=self.learner)["learner"]


_HERE = "maskpack.compressor.masking"

ESTIMATORS: dict[str, Estimator] = {
    "threshold": Estimator(f"{_HERE}.learner:THRESHOLD", needs_share=False, compares=True),
    "topk": Estimator(f"{_HERE}.learner:TOPK", init=_CONSTANT, compares=True),
    "bernoulli": Estimator(f"{_HERE}.learner:BERNOULLI", _LOGIT_LR, init="soft-magnitude"),
    "fixed": Estimator(f"{_HERE}.learner:FIXED", learns=False, compares=True),
    "movement": Estimator(f"{_HERE}.movement:MOVEMENT", init=None),
    "hard-concrete": Estimator(
        f"{_HERE}.hard_concrete:HARD_CONCRETE", _GATE_LR, init="soft-magnitude"
    ),
    "edge-popup": Estimator(f"{_HERE}.edge_popup:EDGE_POPUP", 1e-3, init=None),
    "set": Estimator(f"{_HERE}.regrow:SET", refuses=("ema",)),
    "dsr": Estimator(f"{_HERE}.regrow:DSR", refuses=("ema",)),
    "sparse-momentum": Estimator(f"{_HERE}.regrow:SPARSE_MOMENTUM", refuses=("ema",)),
    "rigl": Estimator(f"{_HERE}.regrow:RIGL", refuses=("ema",)),
}
"""Name -> how mask bits follow from scores."""

SCORE_INITS: LazyTable[Any] = LazyTable(
    **{
        _CONSTANT: f"{_HERE}.score_init:CONSTANT",
        "magnitude": f"{_HERE}.score_init:MAGNITUDE",
        "soft-magnitude": f"{_HERE}.score_init:SOFT_MAGNITUDE",
        "snip": f"{_HERE}.score_init:SNIP",
        "fisher": f"{_HERE}.score_init:FISHER",
        "unit-norm": f"{_HERE}.score_init:UNIT_NORM",
        "random": f"{_HERE}.score_init:RANDOM",
    }
)
"""Name -> `ScoreInit`; all but `constant` rank weights, and need a share of zeros."""

PATTERNS: LazyTable[Any] = LazyTable(
    **{"weight": f"{_HERE}.patterns:WEIGHT", "2:4": f"{_HERE}.patterns:TWO_OF_FOUR"}
)
"""Name -> `MaskPattern`: what a score stands for."""


class _InitNames(Collection[str]):
    """`auto` and the names of `SCORE_INITS`, which may grow."""

    def __contains__(self, name: object) -> bool:
        return name == "auto" or name in SCORE_INITS

    def __iter__(self) -> Iterator[str]:
        return iter(("auto", *SCORE_INITS))

    def __len__(self) -> int:
        return 1 + len(SCORE_INITS)


@dataclass(frozen=True)
class MaskConfig(Options):
    """How mask bits follow from scores, how scores start, and how many weights go."""

    estimator: Annotated[
        str, Opt("How mask bits follow from scores.", one_of=ESTIMATORS.keys())
    ] = "threshold"
    init: Annotated[
        str,
        Opt(
            "First scores.",
            one_of=_InitNames(),
            default="auto: constant; with a sparsity, by magnitude",
        ),
    ] = "auto"
    lr: Annotated[
        float | None,
        Opt("Peak learning rate of the scores.", within=_POSITIVE, default="the estimator's"),
    ] = None
    margin: Annotated[
        float | None,
        Opt(
            # at 1 bit a mask makes up for rounding too
            "Flip threshold in standard deviations of the score noise; lower flips more weights.",
            within=_POSITIVE,
            default="1.6; 1 bit: 0.8",
        ),
    ] = None
    boundary: Annotated[
        float,
        Opt("Smallest share of that threshold in early steps; 1: all of it.", within="[0, 1]"),
    ] = 0.4
    floor: Annotated[
        float,
        Opt("How much the size of a gradient counts; 0: plain Adam.", within="[0, inf)"),
    ] = 1.0
    sparsity: Annotated[
        float | None,
        Opt(
            "Share of zeros to end with; of `bernoulli`, to start with.",
            within="(0, 1)",
            default="the margin decides",
        ),
    ] = None
    target_bpp: Annotated[
        float | None,
        Opt("Largest entropy of the mask, in bits for each masked weight.", within="(0, 1]"),
    ] = None
    target_bytes: Annotated[
        int | None,
        Opt("Largest coded size of the whole patch, in bytes.", within=_POSITIVE),
    ] = None
    pattern: Annotated[
        str,
        Opt("What zeros of the mask look like.", one_of=PATTERNS.keys(), later=True),
    ] = "weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = self._targets()
        if len(targets) > 1:
            raise ConfigError(
                f"`{targets[0]}` and `{targets[1]}` set the same thing", "give one of them"
            )
        if self.estimator_entry.init is None and self.init != "auto":
            raise ConfigError(
                f"estimator {self.estimator} has first scores of its own", "leave `init` out"
            )

    def _targets(self) -> list[str]:
        """Those options of the mask's size that are given."""
        names = ("sparsity", "target_bpp", "target_bytes")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def has_size_target(self) -> bool:
        """Whether the size of the mask is asked for."""
        return bool(self._targets())

    @property
    def estimator_entry(self) -> Estimator:
        """The entry of the estimator."""
        return ESTIMATORS[self.estimator]

    @property
    def is_ranked(self) -> bool:
        """Whether first scores or bits follow from an order of the weights, which needs a share of zeros."""
        return self.init not in {"auto", _CONSTANT} or self.estimator_entry.needs_share

    @property
    def score_init(self) -> str:
        """Name of the score initialisation, with `auto` resolved."""
        if self.init != "auto":
            return self.init
        usual = self.estimator_entry.init
        return _CONSTANT if usual is None or self.sparsity is None else usual

    @property
    def score_lr(self) -> float:
        """Peak learning rate of the scores."""
        return self.estimator_entry.lr if self.lr is None else self.lr
