"""Requests, results and learning curves: values between the steps of a run and their callers. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.config import BaselineConfig, FitConfig
from maskpack.compressor.effects import ClassWeights, HeadTuning
from maskpack.formats import ConfigError, MaskCount
from maskpack.formats.checks import spell_out
from maskpack.formats.schema import check_new_name
from maskpack.tasks.data.cache import AUTO
from maskpack.tasks.evaluation.gains import gain
from maskpack.tasks.task import Task


@dataclass(frozen=True)
class FitRequest:
    """Request to learn a task: model, task, data and artifact.

    Attributes:
        model: folder, hub id or alias of the pretrained encoder.
        task: the task, from `find_task`.
        out: artifact to make, or to add the task to.
        config: how to learn.
        data, eval_data: files of the task, see `load_data`.
        name: name of the task in the artifact; None takes the task's own.
        replace: whether a task of that name may be learned again.
        resume: whether to go on from a checkpoint of the same run.
        bits_given: False if `config.bits` is only the default and an artifact may overrule it.
        revision: branch, tag or commit of a hub model.
        device: kind of device, a name in `PLACEMENTS`; None: the usual one.
        texts: rows without labels, learned from the teacher alone, see `read_unlabelled`.
        finetuned: a fine-tuned checkpoint of `model`, whose head, labels and logits the task is learned from; None:
            `model` itself, if it is a classifier of this task.
        start: artifact and name of a task whose mask, head and other trained tensors the run starts from; None: it starts
            as the options say.
        resize_embeddings: whether tokens for which the model has no embedding get one; else they are refused.
        cache: where rows of large files are kept, see `CacheOptions`.
        threads: of torch, in each process; None: see `training_threads`.
    """

    model: str
    task: Task
    out: Path
    config: FitConfig = field(default_factory=FitConfig)
    data: Path | None = None
    eval_data: Path | None = None
    name: str | None = None
    replace: bool = False
    resume: bool = False
    bits_given: bool = True
    revision: str | None = None
    device: str | None = None
    texts: Path | None = None
    finetuned: str | None = None
    start: tuple[Path, str] | None = None
    resize_embeddings: bool = False
    cache: str = AUTO
    threads: int | None = None

    @property
    def stored_name(self) -> str:
        """Name of the task in the artifact."""
        return check_new_name(self.name or self.task.name)

    @property
    def snapshot_names(self) -> tuple[str, ...]:
        """Names of the tasks that the run leaves on its way."""
        return snapshot_names(self.stored_name, self.config)

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of an unfinished run's state, beside the artifact."""
        return self.out.parent / f".{self.out.name}.{self.stored_name}.unfinished"


def snapshot_names(task: str, config: FitConfig) -> tuple[str, ...]:
    """Names of the tasks that a run of a task leaves on its way."""
    return tuple(check_new_name(f"{task}-{end}") for end in config.stops)


def check_apart(tasks: Iterable[str], config: FitConfig) -> None:
    """Raise ConfigError if one of some tasks has the name of what the run of another leaves on its way."""
    names = set(tasks)
    for task in sorted(names):
        for name in sorted(names.intersection(snapshot_names(task, config))):
            raise ConfigError(
                f"the run of `{task}` leaves a task `{name}` on its way, and another task has that name",
                "leave one of them out, or give it another name",
            )


@dataclass(frozen=True)
class BaselineRequest:
    """Request to train a baseline: model, task, data and folder.

    Attributes:
        model: folder, hub id or alias of the pretrained encoder.
        task: the task, from `find_task`.
        config: method, budget and rates.
        out: folder for the trained model, or None to keep only the figures.
        data, eval_data: files of the task, see `load_data`.
        revision: branch, tag or commit of a hub model.
        backbone: artifact whose backbone to start from, where `config.bits` asks for one; None
            quantises the model anew.
        device: kind of device, a name in `PLACEMENTS`; None: the usual one.
        resize_embeddings: whether tokens for which the model has no embedding get one; else they are refused.
        cache: where rows of large files are kept, see `CacheOptions`.
        threads: of torch, in each process; None: see `training_threads`.
    """

    model: str
    task: Task
    config: BaselineConfig = field(default_factory=BaselineConfig)
    out: Path | None = None
    data: Path | None = None
    eval_data: Path | None = None
    revision: str | None = None
    backbone: Path | None = None
    device: str | None = None
    resize_embeddings: bool = False
    cache: str = AUTO
    threads: int | None = None


@dataclass(frozen=True)
class TrunkTry:
    """A depth that a search for a trunk tried.

    Attributes:
        layers: that were left alone; 0: none.
        value: of the main metric on the held-out rows.
    """

    layers: int
    value: float


@dataclass(frozen=True)
class TrunkSearch:
    """A search for the deepest trunk.

    Attributes:
        metric: name of the main metric.
        tolerance: points that a trunk may cost.
        rows: training rows that were held out to measure them.
        layers: of the trunk that was taken; 0: each one cost more.
        tries: in their order, the one without a trunk first.
    """

    metric: str
    tolerance: float
    rows: int
    layers: int
    tries: tuple[TrunkTry, ...]


@dataclass(frozen=True)
class SnapshotResult:
    """A task that a run left on its way.

    Attributes:
        task: its name in the artifact.
        step: after which the mask was like this.
        scores: metric name -> value on the evaluation split.
        zeros: of the mask.
        coded_bytes: as of `RunResult`.
    """

    task: str
    step: int
    scores: Mapping[str, float]
    zeros: int
    coded_bytes: int

    @classmethod
    def of(cls, result: RunResult) -> SnapshotResult:
        """What a run is told of one of its snapshots."""
        size = result.coded_bytes
        return cls(result.task, result.steps, result.scores, result.zeros, size)


@dataclass(frozen=True)
class RunResult:
    """Figures of one run, all measured.

    Attributes:
        method: `mask`, or the baseline: `full`, `head`, `head-pooler`, `bitfit`, `lora`, `imp`.
        model: name of the source model.
        task: name of the task.
        bits: width of a backbone code; 32 for baselines on the float model.
        seed: of the run.
        train_rows, eval_rows: rows used.
        steps: optimiser steps.
        seconds: of training alone.
        metric: name of the main metric.
        scores: metric name -> value on the evaluation split, for the model as it is stored.
        majority: the same for always answering the commonest class.
        weights, zeros: of the mask, or of the linears that the baseline `imp` prunes; 0 for the other baselines.
        mask_bytes: of the packed mask, as stored.
        unit_weights: weights of units that are removed, which need no bits of the mask.
        unit_bytes: of the bits that say which units stay.
        head_bytes: of the head as stored.
        extra_bytes: of biases, LayerNorm parameters and scales that the task trained besides.
        patch_bytes: of the task's file; for a baseline, of all weights it trained, in float32.
        backbone_bytes: of the shared weights.
        original: scores of the source model, where it was fine-tuned for this task before; else None.
        same_answers: share of the evaluation rows that are answered as that model does; else None.
        options: every option of the run.
        class_weights: each label's weight and recall, where the loss was weighted; else None.
        tuning: what was fitted after training on held-out rows, if anything was; else None.
        rows_without_label: `train`, `eval` -> rows of the data that have no label, and are in none of the counts
            above, but for the `learned` ones: training rows that were learned from the teacher.
        trunk: how the number of lower layers that are left alone was found, if it was searched for; else None.
        units, units_kept: kind of whole units that were to be removed -> how many there were, and how many stay.
        predicted_speedup: how many times as fast as with all units a graph is, by the run's cost model; None where no unit
            could be removed.
        threads: that torch trained with, in each process; 0: unknown.
        snapshots: tasks that the run left on its way.
    """

    method: str
    model: str
    task: str
    bits: int
    seed: int
    train_rows: int
    eval_rows: int
    steps: int
    seconds: float
    metric: str
    scores: Mapping[str, float]
    majority: Mapping[str, float]
    weights: int = 0
    zeros: int = 0
    mask_bytes: int = 0
    unit_weights: int = 0
    unit_bytes: int = 0
    head_bytes: int = 0
    extra_bytes: int = 0
    patch_bytes: int = 0
    backbone_bytes: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    original: Mapping[str, float] | None = None
    same_answers: float | None = None
    class_weights: ClassWeights | None = None
    tuning: HeadTuning | None = None
    rows_without_label: Mapping[str, int] = field(default_factory=dict)
    trunk: TrunkSearch | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    units_kept: Mapping[str, int] = field(default_factory=dict)
    predicted_speedup: float | None = None
    threads: int = 0
    snapshots: tuple[SnapshotResult, ...] = ()

    @property
    def score(self) -> float:
        """The main metric's value."""
        return self.scores[self.metric]

    @property
    def count(self) -> MaskCount:
        """Size of the mask."""
        return MaskCount(self.weights, self.zeros)

    @property
    def beside_units(self) -> MaskCount:
        """Size of the mask over the weights of units that stay."""
        return MaskCount(self.weights - self.unit_weights, self.zeros - self.unit_weights)

    @property
    def coded_bytes(self) -> int:
        """Bytes of the task when its mask is coded: entropy of the mask, bits of units, head and the rest.

        For a baseline: its trained values in float16, and which weights are left where some are not.
        """
        if self.method != "mask":
            return self.patch_bytes // 2 + self.count.entropy_bytes
        mask = self.beside_units.entropy_bytes + self.unit_bytes
        return mask + self.head_bytes + self.extra_bytes

    @property
    def collapsed(self) -> bool:
        """Whether the result is no better than always giving the same answer."""
        return gain(self.metric, self.score, self.majority[self.metric]) <= 0

    def to_json(self) -> str:
        """One line of JSON, derived sizes included."""
        derived = {
            "sparsity": self.count.sparsity,
            "entropy_bpp": self.beside_units.entropy_bpp,
            "entropy_bytes": self.beside_units.entropy_bytes,
            "coded_bytes": self.coded_bytes,
            "collapsed": self.collapsed,
        }
        return json.dumps(spell_out({**asdict(self), **derived}), sort_keys=True, allow_nan=False)


MOST_POINTS = 40
"""Of each curve: enough to see a run's shape, and a line of text in the manifest."""

SNAPSHOT_OF = "snapshot_of"
"""Key of an entry's `training`: the task whose run left it on its way."""

HISTORY = "history"
"""Key of the curves in a task's `training`."""


@dataclass(frozen=True)
class Curves:
    """Loss, mask and metric over the steps of a run.

    Attributes:
        steps: after which a point was taken.
        loss: mean training loss since the previous point.
        zeros: weights that the mask removed then.
        score_steps: steps at the end of an epoch, thinned.
        scores: the main metric on the evaluation rows then.
    """

    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    score_steps: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.loss) == len(self.zeros):
            raise ValueError("curves of steps, loss and zeros have different lengths")
        if len(self.score_steps) != len(self.scores):
            raise ValueError("curves of scores and their steps have different lengths")
        if not all(math.isfinite(value) for value in (*self.loss, *self.scores)):
            raise ValueError("a point of a curve is not finite")

    def to_tree(self) -> dict[str, str]:
        """A line of text a curve, so that the manifest stays readable. Inverse of `from_tree`.

        >>> Curves((10, 20), (0.69314, 0.5), (0, 12), (20,), (0.75,)).to_tree()["loss"]
        '0.6931 0.5'
        """
        return {name: _line(getattr(self, name)) for name in _CURVES}

    @classmethod
    def from_tree(cls, tree: Any) -> Curves | None:
        """The curves in a task's `training`; None where they are missing or of another form."""
        try:
            return cls(**{name: tuple(map(of, tree[name].split())) for name, of in _CURVES.items()})
        except (KeyError, TypeError, AttributeError, ValueError):
            return None  # free keys of a manifest may hold anything


_CURVES: dict[str, Callable[[str], Any]] = {
    "steps": int,
    "loss": float,
    "zeros": int,
    "score_steps": int,
    "scores": float,
}
"""Name of a curve -> function that reads one of its values."""


def curves_of(training: Mapping[str, Any]) -> Curves | None:
    """The curves of a task in a manifest, or None."""
    return Curves.from_tree(training.get(HISTORY))


def spacing(count: int) -> int:
    """Distance between kept events, so that `count` events give at most `MOST_POINTS` points.

    >>> spacing(40), spacing(41), spacing(1)
    (1, 2, 1)
    """
    return max(1, -(-count // MOST_POINTS))


def _line(values: tuple[float, ...]) -> str:
    return " ".join(str(v) if isinstance(v, int) else f"{v:.4g}" for v in values)
