"""A sweep that answers one question, as a file for `compress sweep`. Imports no torch.

`bits`: how many bits does a synapse need (Radiya-Dixit & Wang 2020; Wang 2020, "The curious case of developmental BERTology", table 1)?
Masks over backbones of several widths, by several estimators, beside the dense model and the majority class.

`zeros`: how does quality fall with them (the same essay, figure 5, right)? Runs that pass several shares of zeros (`continual`), over one
backbone a width, beside the same two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.config import BudgetConfig
from maskpack.compressor.mask_config import ESTIMATORS, not_rising
from maskpack.formats import ConfigError
from maskpack.formats.bits import CODE_BITS
from maskpack.formats.options import Options, listed
from maskpack.tasks.data.hub import is_hub
from maskpack.tasks.options import TaskOptions

DENSE = "dense"
_OF_CHOICES = "2:4"  # pattern of estimators that choose among the masks of a group
_SHARE = 0.1  # zeros of estimators that need a share: few enough for one bit, enough to differ
SHARES = (0.05, *(tenth / 10 for tenth in range(1, 10)))
"""Zeros that a study of them passes."""


@dataclass(frozen=True)
class Study:
    """What every study compares masks with, and on what.

    Attributes:
        model: folder, hub id or alias.
        task: name of the task.
        data: its rows, if they do not ship with the package.
        columns: what is said of them.
        bits: widths of a backbone.
        seeds: of the runs.
        taught: whether masks learn from the dense model of their seed.
        budget: of every run.
    """

    model: str
    task: str
    data: Path | None = None
    columns: TaskOptions = field(default_factory=TaskOptions)
    bits: tuple[int, ...] = (8, 4, 2, 1)
    seeds: tuple[int, ...] = (0, 1, 2)
    taught: bool = True
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        for width in self.bits:
            if width not in CODE_BITS:
                raise ConfigError(f"`bits` has {width}, expected {listed(CODE_BITS)}")
        self._check_each_once("bits", "seeds")

    def _check_each_once(self, *names: str) -> None:
        for what in names:
            values = getattr(self, what)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"`{what}` is {values}, expected one or more, each once")


@dataclass(frozen=True)
class StudyRequest(Study):
    """What a study of bits compares.

    Attributes:
        estimators: names in `ESTIMATORS`.
        sparsity: share of zeros of estimators that need one.
    """

    estimators: tuple[str, ...] = ("threshold",)
    sparsity: float = _SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.estimators:
            if name not in ESTIMATORS:
                raise ConfigError(f"no estimator `{name}`", f"estimators: {', '.join(ESTIMATORS)}")
        self._check_each_once("estimators")


@dataclass(frozen=True)
class ZerosStudy(Study):
    """What a study of zeros compares.

    Attributes:
        shares: of zeros that each run passes, rising; each gets an equal part of the run's steps.
    """

    bits: tuple[int, ...] = (4,)
    shares: tuple[float, ...] = SHARES

    def __post_init__(self) -> None:
        super().__post_init__()
        if (wanted := not_rising(self.passed)) is not None:
            raise ConfigError(f"`shares` is `{self.passed}`, expected {wanted}")

    @property
    def passed(self) -> str:
        """The shares as an option has them."""
        return ",".join(f"{share:g}" for share in self.shares)


def study_of_bits(request: StudyRequest) -> dict[str, Any]:
    """The sweep, as `read_plan` reads it from YAML."""
    return _plan(request, {name: _mask(request, name) for name in request.estimators})


def study_of_zeros(request: ZerosStudy) -> dict[str, Any]:
    """The sweep, as `read_plan` reads it from YAML: a run a width and seed, each with a task at every share.

    >>> study_of_zeros(ZerosStudy("demo", "reviews", shares=(0.1, 0.5)))["methods"]["zeros"]
    {'bits': [4], 'continual': '0.1,0.5', 'teacher': 'run:dense'}
    """
    passes = {"continual": request.passed, "teacher": _teacher(request)}
    return _plan(request, {"zeros": {"bits": list(request.bits), **passes}})


def _plan(study: Study, masks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sweep of these masks beside the dense model."""
    said = _said(study.columns, TaskOptions())
    place = {} if study.data is None else {"data": _place(study.data)}
    folder = Path(study.model)
    return {
        "models": [str(folder.resolve()) if folder.exists() else study.model],
        "tasks": {study.task: {**place, **said}},
        "seeds": list(study.seeds),
        "options": _said(study.budget, BudgetConfig()),
        "methods": {DENSE: {"method": "full", "keep": study.taught}, **masks},
        "reference": DENSE,
    }


def _place(data: Path) -> str:
    """Where a sweep finds the data: a file is told by its whole path, a data set of the Hub by its name."""
    return data.as_posix() if is_hub(data) else str(data.resolve())


def _mask(request: StudyRequest, estimator: str) -> dict[str, Any]:
    share = {"sparsity": request.sparsity} if ESTIMATORS[estimator].needs_share else {}
    own: dict[str, Any] = {"bits": list(request.bits), "estimator": estimator}
    if ESTIMATORS[estimator].chooses:
        own["pattern"], share = _OF_CHOICES, {"sparsity": 0.5}
    return {**own, **share, "teacher": _teacher(request)}


def _teacher(study: Study) -> str:
    return f"run:{DENSE}" if study.taught else "none"


def _said(options: Options, usual: Options) -> dict[str, Any]:
    """What differs from the usual options, in a form that YAML has."""
    both = ((key, value, getattr(usual, key)) for key, value in asdict(options).items())
    found = {key: value for key, value, default in both if value != default}
    return {key: str(value) if isinstance(value, str) else value for key, value in found.items()}
