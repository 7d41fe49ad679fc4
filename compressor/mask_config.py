"""Options of how a mask is learned, and the tables of what they name. Imports no torch.

What an entry computes stands in `masking/`, and is loaded when a mask is learned: `learner` of an `Estimator`, the entries of
`SCORE_INITS` and of `PATTERNS`. Here stands what options must know of it; types of entries are on a higher floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from maskpack.formats import ConfigError
from maskpack.formats.lazy import LazyTable, NamesAfter
from maskpack.formats.options import Opt, Options

_POSITIVE = "(0, inf)"
# The rate of a threshold's scores cancels, see `masking/linear.py`; logits of keep-probabilities need theirs.
_SCORE_LR, _LOGIT_LR, _GATE_LR, _CHOICE_LR = 3e-4, 5e-2, 0.1, 1e-3
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
        rate_matters: whether the rate of the scores changes the mask; a threshold's cancels, see `masking/linear.py`.
        learns: whether scores change; else the first mask stays, but for units that are removed.
        refuses: options that mean nothing to it, and must be left out.
        compares: whether bits are comparisons of scores with each other or with a threshold, which a pattern may do
            within groups instead.
        chooses: whether a score stands for a mask of a group of neighbours, so that it needs a pattern of groups.
    """

    learner: str
    lr: float = _SCORE_LR
    needs_share: bool = True
    init: str | None = "magnitude"
    rate_matters: bool = False
    learns: bool = True
    refuses: tuple[str, ...] = ()
    compares: bool = False
    chooses: bool = False

    def load(self) -> Any:
        """The `MaskLearner`; imports torch."""
        return LazyTable[Any](learner=self.learner)["learner"]


_HERE = "maskpack.compressor.masking"
_AVERAGES = ("ema", "tail")  # scores of weights that went and came back mean nothing together

ESTIMATORS: dict[str, Estimator] = {
    "threshold": Estimator(f"{_HERE}.learner:THRESHOLD", needs_share=False, compares=True),
    "topk": Estimator(f"{_HERE}.learner:TOPK", init=_CONSTANT, compares=True),
    "bernoulli": Estimator(
        f"{_HERE}.learner:BERNOULLI", _LOGIT_LR, init="soft-magnitude", rate_matters=True
    ),
    "fixed": Estimator(f"{_HERE}.learner:FIXED", learns=False, compares=True),
    "movement": Estimator(f"{_HERE}.movement:MOVEMENT", init=None),
    "hard-concrete": Estimator(
        f"{_HERE}.hard_concrete:HARD_CONCRETE",
        _GATE_LR,
        init="soft-magnitude",
        rate_matters=True,
    ),
    "edge-popup": Estimator(f"{_HERE}.edge_popup:EDGE_POPUP", 1e-3, init=None, rate_matters=True),
    "maskllm": Estimator(
        f"{_HERE}.maskllm:MASKLLM",
        _CHOICE_LR,
        init=None,
        rate_matters=True,
        refuses=("ema", "tail"),
        chooses=True,
    ),
    "set": Estimator(f"{_HERE}.regrow:SET", refuses=_AVERAGES),
    "dsr": Estimator(f"{_HERE}.regrow:DSR", refuses=_AVERAGES),
    "sparse-momentum": Estimator(f"{_HERE}.regrow:SPARSE_MOMENTUM", refuses=_AVERAGES),
    "rigl": Estimator(f"{_HERE}.regrow:RIGL", refuses=_AVERAGES),
}
"""Name -> how mask bits follow from scores."""

SCORE_INITS: LazyTable[Any] = LazyTable(
    **{
        _CONSTANT: f"{_HERE}.score_init:CONSTANT",
        "magnitude": f"{_HERE}.score_init:MAGNITUDE",
        "soft-magnitude": f"{_HERE}.score_init:SOFT_MAGNITUDE",
        "graded-magnitude": f"{_HERE}.score_init:GRADED_MAGNITUDE",
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


def not_rising(text: str) -> str | None:
    """What shares of a run's stops should be, or None where they are."""
    try:
        shares = levels_of(text)
    except ValueError:
        shares = ()
    rise = all(low < high for low, high in pairwise((0.0, *shares, 1.0)))
    return None if len(shares) > 1 and rise else "two rising shares or more, such as 0.1,0.2,0.4"


def levels_of(text: str) -> tuple[float, ...]:
    """Shares as numbers.

    >>> levels_of("0.1, 0.25")
    (0.1, 0.25)

    Raises:
        ValueError: one is no number.
    """
    return tuple(float(part) for part in text.split(","))


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
            one_of=NamesAfter("auto", SCORE_INITS),
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
    continual: Annotated[
        str | None,
        Opt(
            "Shares of zeros that one run passes, such as 0.1,0.2,0.4; rates begin anew at each. The mask at each is a task, NAME-10 and so on, the last is NAME.",
            check=not_rising,
            later=True,
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
        if self.continual is not None and self.estimator != "threshold":
            raise ConfigError(
                f"`continual` moves a threshold, and estimator {self.estimator} has none to move",
                "leave `estimator` out",
            )

    def _targets(self) -> list[str]:
        """Those options of the mask's size that are given."""
        names = ("sparsity", "continual", "target_bpp", "target_bytes")
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
        if self.continual is not None:
            return "graded-magnitude"
        usual = self.estimator_entry.init
        return _CONSTANT if usual is None or self.share is None else usual

    @property
    def levels(self) -> tuple[float, ...]:
        """Shares of zeros that the run passes; none where it has one aim."""
        return () if self.continual is None else levels_of(self.continual)

    @property
    def share(self) -> float | None:
        """Share of zeros to end with; None: none is asked for."""
        return self.levels[-1] if self.levels else self.sparsity

    @property
    def score_lr(self) -> float:
        """Peak learning rate of the scores."""
        return self.estimator_entry.lr if self.lr is None else self.lr
