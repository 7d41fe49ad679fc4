"""A run that is asked for, and one with everything loaded: what passes between the steps of `fit.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskpack.compressor.config import FitConfig
from maskpack.compressor.data.batches import Encoded
from maskpack.compressor.data.load import TaskData
from maskpack.compressor.data.tasks import Task
from maskpack.compressor.ground import Ground
from maskpack.compressor.learning.curves import Curves
from maskpack.compressor.learning.train import Plan
from maskpack.compressor.own_head import OwnHead
from maskpack.compressor.restore import classifier_config
from maskpack.compressor.shape import Shape
from maskpack.formats import Patch
from maskpack.formats.schema import CONFIG, check_task_name


@dataclass(frozen=True)
class FitRequest:
    """What to learn, from what, and where to write it.

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

    @property
    def stored_name(self) -> str:
        """Name of the task in the artifact."""
        return check_task_name(self.name or self.task.name)

    @property
    def checkpoint_folder(self) -> Path:
        """Where an unfinished run keeps its state: beside the artifact, never inside it."""
        return self.out.parent / f".{self.out.name}.{self.stored_name}.unfinished"


@dataclass(frozen=True, eq=False)
class Learning:
    """A run with everything loaded, before its first step.

    Attributes:
        request: what was asked for.
        data: rows of both splits.
        ground: what is learned on.
        train, dev: both splits as tokens.
        held_out: training rows kept back to judge when to stop, or None.
        plan: steps and rates.
        shape: of the classifier.
        sparsity: share of zeros to reach, or None.
        head: the head that a fine-tuned source model brings, or None.
    """

    request: FitRequest
    data: TaskData
    ground: Ground
    train: Encoded
    dev: Encoded
    held_out: Encoded | None
    plan: Plan
    shape: Shape
    sparsity: float | None
    head: OwnHead | None = None

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.train) // self.plan.batch_size)

    @property
    def described(self) -> Any:
        """Configuration of the classifier."""
        data = self.data
        return classifier_config(
            self.ground.files[CONFIG], data.labels, outputs=data.outputs, kind=data.task.kind
        )


@dataclass(frozen=True, eq=False)
class Learned:
    """What training left: the frozen patch, the steps taken, and how they went."""

    patch: Patch
    steps: int
    curves: Curves
