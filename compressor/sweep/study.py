"""A sweep that answers one question, as a file for `compress sweep`. Imports no torch.

`bits`: how many bits does a synapse need (Radiya-Dixit & Wang 2020; Wang 2020, "The curious case of developmental BERTology", table 1)?
Masks over backbones of several widths, by several estimators, beside the dense model and the majority class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.config import BudgetConfig
from maskpack.compressor.mask_config import ESTIMATORS
from maskpack.formats import ConfigError
from maskpack.formats.bits import CODE_BITS
from maskpack.formats.options import Options, listed
from maskpack.tasks.options import TaskOptions

DENSE = "dense"
_SHARE = 0.1  # zeros of estimators that need a share: few enough for one bit, enough to differ


@dataclass(frozen=True)
class StudyRequest:
    """What a study of bits compares.

    Attributes:
        model: folder, hub id or alias.
        task: name of the task.
        data: its rows, if they do not ship with the package.
        columns: what is said of them.
        bits: widths of a backbone.
        estimators: names in `ESTIMATORS`.
        seeds: of the runs.
        taught: whether masks learn from the dense model of their seed.
        sparsity: share of zeros of estimators that need one.
        budget: of every run.
    """

    model: str
    task: str
    data: Path | None = None
    columns: TaskOptions = field(default_factory=TaskOptions)
    bits: tuple[int, ...] = (8, 4, 2, 1)
    estimators: tuple[str, ...] = ("threshold",)
    seeds: tuple[int, ...] = (0, 1, 2)
    taught: bool = True
    sparsity: float = _SHARE
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        for width in self.bits:
            if width not in CODE_BITS:
                raise ConfigError(f"`bits` has {width}, expected {listed(CODE_BITS)}")
        for name in self.estimators:
            if name not in ESTIMATORS:
                raise ConfigError(f"no estimator `{name}`", f"estimators: {', '.join(ESTIMATORS)}")
        for what in ("bits", "estimators", "seeds"):
            values = getattr(self, what)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"`{what}` is {values}, expected one or more, each once")


def study_of_bits(request: StudyRequest) -> dict[str, Any]:
    """The sweep, as `read_plan` reads it from YAML."""
    said = _said(request.columns, TaskOptions())
    place = {} if request.data is None else {"data": str(request.data.resolve())}
    folder = Path(request.model)
    return {
        "models": [str(folder.resolve()) if folder.exists() else request.model],
        "tasks": {request.task: {**place, **said}},
        "seeds": list(request.seeds),
        "options": _said(request.budget, BudgetConfig()),
        "methods": {
            DENSE: {"method": "full", "keep": request.taught},
            **{name: _mask(request, name) for name in request.estimators},
        },
        "reference": DENSE,
    }


def _mask(request: StudyRequest, estimator: str) -> dict[str, Any]:
    share = {"sparsity": request.sparsity} if ESTIMATORS[estimator].needs_share else {}
    teacher = f"run:{DENSE}" if request.taught else "none"
    return {"bits": list(request.bits), "estimator": estimator, **share, "teacher": teacher}


def _said(options: Options, usual: Options) -> dict[str, Any]:
    """What differs from the usual options, in a form that YAML has."""
    both = ((key, value, getattr(usual, key)) for key, value in asdict(options).items())
    found = {key: value for key, value, default in both if value != default}
    return {key: str(value) if isinstance(value, str) else value for key, value in found.items()}
