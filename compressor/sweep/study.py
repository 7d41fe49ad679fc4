"""A sweep that answers one question, as a file for `compress sweep`. Imports no torch.

`bits`: how many bits does a synapse need (Radiya-Dixit & Wang 2020; Wang 2020, "The curious case of developmental BERTology", table 1)?
Masks over backbones of several widths, by several estimators, beside the dense model and the majority class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.mask_config import ESTIMATORS
from maskpack.formats import ConfigError
from maskpack.formats.bits import CODE_BITS
from maskpack.formats.options import listed
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
        options: of every run, such as `epochs`.
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
    options: Mapping[str, Any] = field(default_factory=dict)

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
    usual = asdict(TaskOptions())
    said = {key: v for key, v in asdict(request.columns).items() if v != usual[key]}
    place = {} if request.data is None else {"data": str(request.data.resolve())}
    folder = Path(request.model)
    return {
        "models": [str(folder.resolve()) if folder.exists() else request.model],
        "tasks": {request.task: {**place, **{key: _plain(value) for key, value in said.items()}}},
        "seeds": list(request.seeds),
        "options": dict(request.options),
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


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value
