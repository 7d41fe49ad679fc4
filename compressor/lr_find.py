"""The learning-rate range test: a short run whose rate rises step by step, and the rate at which its loss falls best.

Smith 2017 (arXiv 1506.01186, section 3.3), with the exponential ramp and the smoothed loss that became usual since: the rate of
step `t` of `T` is `low (high / low)**(t / (T - 1))`; the loss is an exponential mean with corrected start,

    mean_t = b mean_{t-1} + (1 - b) loss_t,   smooth_t = mean_t / (1 - b**t),   b = 0.9

and the run ends early where it exceeds four times its smallest value. Two rates are told: a tenth of that of the smallest loss, and that at which the
loss falls fastest against the logarithm of the rate. The first is the suggestion: it is far enough from where training diverges.

Scores of a `threshold` need no test: their height is stated in the noise of their own steps, so that their rate cancels. Other
estimators, heads and baselines have a rate that matters.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from maskpack.compressor.baseline import run_baseline
from maskpack.compressor.config import (
    BaselineConfig,
    FitConfig,
    Method,
)
from maskpack.compressor.fit import fit_task
from maskpack.compressor.schedules import RANGE_TEST, ramp
from maskpack.compressor.teacher_config import NO_TEACHER, TEACHER_WORDS
from maskpack.compressor.training.progress import OnProgress, Progress
from maskpack.compressor.trunk_config import TrunkConfig
from maskpack.compressor.types import BaselineRequest, FitRequest
from maskpack.formats import ConfigError, ModelError, is_artifact
from maskpack.tasks.task import Unlabelled

Config = TypeVar("Config", FitConfig, BaselineConfig)

HIGHEST = 1.0
"""The last rate of a test; the first is a millionth of it."""

_KEEP = 0.9  # of the mean loss, a step
_DIVERGED = 4.0  # times the smallest loss
_LEAST_STEPS = 20
_REST, _HEAD = "lr", "head_lr"
_WARM = 5  # first steps of which no loss is taken for the smallest


@dataclass(frozen=True)
class RateCurve:
    """Losses of a range test.

    Attributes:
        option: name of the option whose rate it is: `lr`, or `head_lr` where only the head is trained.
        rates: of each step, rising.
        losses: smoothed, of each step.
        ratio: rate of the head over that of the rest, as in the options; both rose together.
        diverged: whether the test ended early, because the loss grew.
    """

    option: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    ratio: float
    diverged: bool

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.losses) or len(self.rates) < _LEAST_STEPS // 2:
            raise ValueError(f"{len(self.losses)} losses of {len(self.rates)} rates")

    @property
    def lowest(self) -> float:
        """The rate of the smallest loss."""
        return self.rates[_WARM + int(np.argmin(self.losses[_WARM:]))]

    @property
    def suggestion(self) -> float:
        """A tenth of that rate, to two digits."""
        return _rounded(self.lowest / 10)

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest, before it is smallest."""
        end = max(self.rates.index(self.lowest), _WARM + 2)
        slopes = np.gradient(np.array(self.losses[: end + 1]))  # steps are equal on a logarithm
        return _rounded(self.rates[_WARM + int(np.argmin(slopes[_WARM:]))])


def find_learning_rate(
    request: FitRequest | BaselineRequest,
    *,
    steps: int = 100,
    on_progress: OnProgress = lambda _: None,
) -> RateCurve:
    """Run a range test; nothing is written.

    Args:
        request: a baseline or a mask, as it would be trained. A teacher that would be trained first is left out.
        steps: of the test.
        on_progress: called after every step.

    Raises:
        ConfigError: a mask whose estimator has no rate that matters, or too few steps.
        MaskpackError: whatever the run itself would refuse.
    """
    if steps < _LEAST_STEPS:
        raise ConfigError(f"`steps` is {steps}, a range test needs {_LEAST_STEPS} or more")
    option, ratio = _rates_of(request)
    record, diverged = _Record(on_progress), False
    try:
        _run(request, steps, ratio, record)
    except _DivergedError:
        diverged = True
    except ModelError:
        if len(record.losses) < _LEAST_STEPS:
            raise
        diverged = True
    rates = (HIGHEST * ramp(step, steps) for step in range(len(record.losses)))
    return RateCurve(option, tuple(rates), tuple(record.losses), ratio, diverged)


def with_rate(config: Config, curve: RateCurve) -> Config:
    """The options with the suggested rate; the head's is in the same ratio as before."""
    if curve.option == _HEAD:
        return replace(config, head_lr=curve.suggestion)
    return replace(config, lr=curve.suggestion, head_lr=_rounded(curve.suggestion * curve.ratio))


def _rates_of(request: FitRequest | BaselineRequest) -> tuple[str, float]:
    """Name of the option that is tested, and the rate of the head over it."""
    config = request.config
    if isinstance(config, BaselineConfig):
        alone = config.method is Method.HEAD
        return (_HEAD, 1.0) if alone else (_REST, config.head_lr / config.peak_lr)
    if not config.estimator_entry.rate_matters:
        raise ConfigError(
            f"the rate of scores of estimator {config.estimator} cancels: their height is stated in the noise of their own steps",
            "find the rate of the head with method head, or name an estimator with logits, such as bernoulli",
        )
    return _REST, config.head_lr / config.score_lr


def _run(request: FitRequest | BaselineRequest, steps: int, ratio: float, record: _Record) -> None:
    """The run with rising rates; it ends in an exception where the loss grows."""
    if isinstance(request, BaselineRequest):
        # the first round of imp trains every weight, and tells its rate
        if request.config.method is Method.IMP:
            dense = replace(
                request.config, method=Method.FULL, sparsity=None, rounds=None, rewind=None
            )
            request = replace(request, config=dense)
        run = replace(request, config=_ramped(request.config, steps, ratio), out=None)
        run_baseline(run, on_progress=record.on_progress)
        return
    plain = replace(request.config, checkpoint_every=0, snapshots=False)
    config = _ramped(plain, steps, ratio)
    if config.teacher == NO_TEACHER:  # rows without labels are learned from one alone
        task = request.task
        if task.unlabelled is Unlabelled.TEACH:
            task = replace(task, unlabelled=Unlabelled.SKIP)
        request = replace(request, task=task, texts=None)
    if config.finds_trunk:  # the depth is found with the rate
        config = replace(config, trunk=None, trunk_tolerance=TrunkConfig.trunk_tolerance)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "artifact"
        if is_artifact(request.out):  # the same backbone
            shutil.copytree(request.out, out)
        short = replace(request, config=config, out=out, replace=True, resume=False)
        fit_task(short, on_progress=record.on_progress)


def _ramped(config: Config, steps: int, ratio: float) -> Config:
    """The options of a test: rising rates, and no teacher that would have to be trained first."""
    return replace(
        config,
        steps=steps,
        schedule=RANGE_TEST,
        cycles=1,
        lr=HIGHEST,
        head_lr=HIGHEST * ratio,
        teacher=NO_TEACHER if config.teacher in {None, *TEACHER_WORDS} else config.teacher,
    )


class _DivergedError(Exception):
    """The loss is several times as large as it was."""


class _Record:
    """Smoothed losses of the task's steps."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.losses: list[float] = []
        self._heard, self._mean = on_progress, 0.0

    def on_progress(self, now: Progress) -> None:
        """Take the loss of a step; raises `_DivergedError` where the test is over."""
        self._heard(now)
        if now.stage != "task":
            return
        self._mean = _KEEP * self._mean + (1.0 - _KEEP) * now.step_loss
        self.losses.append(self._mean / (1.0 - _KEEP ** (len(self.losses) + 1)))
        done = self.losses[_WARM:]
        if len(self.losses) >= _LEAST_STEPS and self.losses[-1] > _DIVERGED * min(done):
            raise _DivergedError


def _rounded(rate: float) -> float:
    """A rate to two digits.

    >>> _rounded(0.000123456)
    0.00012
    """
    return float(f"{rate:.1e}")
