"""How long a run will take and what it needs, from a few of its steps. Writes nothing.

Steps differ by the length of their texts, so those that are measured are spread evenly over the
batches sorted by size; one step on the largest comes first, unmeasured, to warm up and to reach the
memory's peak. Finished work (loading, quantising) counts with its measured time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

if sys.platform != "win32":
    import resource

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.fit import loss_of, masked_model_of
from maskpack.compressor.mask_teachers import (
    PeerPair,
    has_peer,
    has_snapshot_teacher,
    with_snapshot_teacher,
)
from maskpack.compressor.masking.model import MaskedModel
from maskpack.compressor.masking.units import UnitImportance
from maskpack.compressor.prepare import PreparedRun, prepare, with_divisors
from maskpack.compressor.quantization.backbone import with_seed
from maskpack.compressor.run_teacher import targets_for
from maskpack.compressor.teacher_config import DENSE_TEACHER, MASK_TEACHERS
from maskpack.compressor.threads import training_threads
from maskpack.compressor.training.callbacks import CallbackList
from maskpack.compressor.training.kept_states import states_bytes
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.compressor.training.progress import Progress
from maskpack.compressor.training.step import StepRunner
from maskpack.compressor.training.train import FlooredAdam
from maskpack.compressor.trunk import deepest_allowed, most_tries, probe_plan
from maskpack.compressor.types import FitRequest
from maskpack.tasks.batches import (
    EVAL_BATCH,
    Encoded,
    evaluation_batches,
    torch_predict,
    training_batches,
)

_STEPS = 8  # masked steps that are measured
_UNIT_BATCHES = 4  # on which the importance of units is measured
_LOOKS = 6  # batches of the evaluation rows that are measured
_TEACHER_STEPS = (2, 8)  # of a teacher that is trained first: the difference is measured
_REFINE_STEPS = 6

Rows = NDArray[np.intp]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Cost:
    """Time of some work.

    Attributes:
        seconds: by the clock on the wall, with whatever else the machine is doing.
        busy: of the processor, all cores of this process together.
    """

    seconds: float = 0.0
    busy: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.busy + other.busy)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.seconds - other.seconds, self.busy - other.busy)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.seconds * times, self.busy * times)

    @classmethod
    def so_far(cls) -> Cost:
        """Both clocks now."""
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def mean(cls, costs: Sequence[Cost]) -> Cost:
        """Of several."""
        return sum(costs, start=cls()) * (1 / len(costs))


@dataclass(frozen=True)
class Estimate:
    """What a run will take; seconds of this machine as busy as it was just now.

    Attributes:
        seconds: of the whole command.
        busy_seconds: processor time of the whole command, which does not depend on other programs.
        load_seconds: of them until the first step of the task: model, data, quantising, refining.
        teacher_seconds: of them for a teacher: training it, asking it.
        step_seconds: of one step, mean over the measured ones.
        steps: in all.
        measured: steps that were measured.
        look_seconds: of evaluating the evaluation rows once.
        looks: how often that is done.
        memory_bytes: peak of this process, which has done a step on the largest batch; None where the
            system does not tell.
        disk_bytes: of the largest file that is written beside the artifact, a checkpoint.
        states_bytes: of a teacher's hidden states on the disk; 0: it runs in every step, or there are none.
        units_seconds: of measuring how important units are, in all stages; 0: none are removed.
        trunk_seconds: of runs that find how many lower layers are left alone, their teacher included; 0: none is made.
        trunk_runs: how many of them there are at most.
    """

    seconds: float
    busy_seconds: float
    load_seconds: float
    teacher_seconds: float
    step_seconds: float
    steps: int
    measured: int
    look_seconds: float
    looks: int
    memory_bytes: int | None
    disk_bytes: int
    states_bytes: int
    units_seconds: float = 0.0
    trunk_seconds: float = 0.0
    trunk_runs: int = 0


class RefineClock:
    """Times steps of refinement, which are cut short for an estimate.

    Args:
        clock: what the process has taken so far.
    """

    def __init__(self, clock: Callable[[], Cost] = Cost.so_far) -> None:
        self._clock, self._times = clock, list[Cost]()

    def on_progress(self, now: Progress) -> None:
        """Note when a step of the backbone ended."""
        if now.stage == "backbone":
            self._times.append(self._clock())

    def missing(self, steps: int) -> Cost:
        """Time of all `steps` less that of the steps that were done."""
        if len(self._times) < 2:
            return Cost()
        each = (self._times[-1] - self._times[0]) * (1 / (len(self._times) - 1))
        return each * max(0, steps - len(self._times))


def rehearse(request: FitRequest, *, began: Cost) -> tuple[PreparedRun, Estimate]:
    """Prepare a run as `fit` does, measure a few steps, and estimate the rest.

    Args:
        request: of the run; refinement and a teacher's training are cut short.
        began: `Cost.so_far()` when the command began.

    Raises:
        MaskpackError: whatever `fit` would refuse.
    """
    request = with_seed(request)
    clock, config = RefineClock(), request.config
    short = replace(config, refine=min(config.refine_steps, _REFINE_STEPS))
    with training_threads(request.threads, device=request.device):
        prepared = prepare(replace(request, config=short), on_progress=clock.on_progress)
        run = with_divisors(prepared)
        load = Cost.so_far() - began + clock.missing(config.refine_steps)
        targets, teacher = _targets(run)
        (masked, task_loss), making = _timed(partial(_learner, run, targets))
        if has_snapshot_teacher(run):
            teacher = _look(masked.model, run.train) * (config.parts - 1)
        return run, _total(run, masked, task_loss, load=load + making, teacher=teacher)


def _learner(run: PreparedRun, targets: DistillationTargets | None) -> tuple[MaskedModel, TaskLoss]:
    """What a step of the run trains, and its loss; of two peers both as one."""
    task_loss = loss_of(run, targets)
    if has_peer(run):
        pair = PeerPair.of(run, task_loss, masked_model_of)
        return pair.together, pair.task_loss
    masked, task_loss = with_snapshot_teacher(run, masked_model_of(run, task_loss), task_loss)
    return masked, task_loss


def _total(
    run: PreparedRun,
    masked: MaskedModel,
    task_loss: TaskLoss,
    *,
    load: Cost,
    teacher: Cost,
) -> Estimate:
    """Time of the parts that run once, and of all steps and evaluations."""
    steps = run.plan.steps
    step, look = _mean_step(run, masked, task_loss), _look(masked.model, run.dev)
    stops = len(run.request.config.stops)  # each is a task that is evaluated too
    looks, units = 1 + stops + steps // run.per_epoch, _units(run, masked)
    runs = most_tries(deepest_allowed(run) + 1) if run.request.config.finds_trunk else 0
    share = probe_plan(run).steps / steps if runs else 0
    trunk = (step * steps + look * looks + units) * (share * runs) + teacher * share
    whole = load + teacher + step * steps + look * looks + units + trunk
    trained = sum(p.numel() for group in masked.groups for p in group.parameters)
    return Estimate(
        seconds=whole.seconds,
        busy_seconds=whole.busy,
        load_seconds=load.seconds,
        teacher_seconds=teacher.seconds,
        step_seconds=step.seconds,
        steps=steps,
        measured=min(_STEPS, len(_batches(run))),
        look_seconds=look.seconds,
        looks=looks,
        units_seconds=units.seconds,
        trunk_seconds=trunk.seconds,
        trunk_runs=runs,
        memory_bytes=_peak_memory(),
        disk_bytes=12 * trained if run.request.config.checkpoint_every else 0,
        states_bytes=states_bytes(task_loss.state_teacher),
    )


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Indices of `count` values that are spread evenly over the sorted values.

    >>> spread([5, 1, 9, 3], 2)
    [3, 0]
    """
    order = np.argsort(sizes, kind="stable")
    picks = (np.arange(count) + 0.5) / count * len(order)
    return [int(order[int(pick)]) for pick in picks]


def _targets(run: PreparedRun) -> tuple[DistillationTargets | None, Cost]:
    """The teacher, and the time for it; a dense teacher is trained for a few steps only."""

    def teach(steps: int) -> DistillationTargets | None:
        return targets_for(run, replace(run.plan, steps=steps))

    if run.teacher is None or run.teacher.name in MASK_TEACHERS:
        return None, Cost()
    if run.teacher.name != DENSE_TEACHER:
        return _timed(partial(teach, run.plan.steps))
    few, many = (min(steps, run.plan.steps) for steps in _TEACHER_STEPS)
    _, first = _timed(partial(teach, few))
    targets, second = _timed(partial(teach, many))
    each = each_step(first, second, few=few, many=many) * _typical(run, few, many)
    return targets, second + each * (run.plan.steps - many)


def each_step(first: Cost, second: Cost, *, few: int, many: int) -> Cost:
    """Time of a step, from runs of `few` and of `many` steps, whose difference contains no set-up.

    If the machine was busier in the short run, the difference may be 0 or less; then the result is the
    long run's mean, which is rather too long than too short.

    >>> each_step(Cost(3.0, 2.0), Cost(9.0, 1.0), few=2, many=8)
    Cost(seconds=1.0, busy=0.125)
    """
    between = (second - first) * (1 / max(1, many - few))
    mean = second * (1 / many)
    return Cost(
        between.seconds if between.seconds > 0 else mean.seconds,
        between.busy if between.busy > 0 else mean.busy,
    )


def _typical(run: PreparedRun, first: int, last: int) -> float:
    """Mean size of a batch, over that of batches `first` to `last` of the run."""
    sizes = [_tokens(run.train, rows) for rows in _batches(run)]
    some = sizes[first:last]
    return float(np.mean(sizes) / np.mean(some)) if some else 1.0


def _mean_step(run: PreparedRun, masked: MaskedModel, task_loss: TaskLoss) -> Cost:
    """Mean time of a step, with and without simulated rounding in the shares of the run."""
    plain = _step(run, masked, task_loss, number=0)
    if masked.rounding is None:
        return plain
    first = masked.rounding.first
    share = first / run.plan.steps
    return plain * share + _step(run, masked, task_loss, number=first) * (1.0 - share)


def _step(run: PreparedRun, masked: MaskedModel, task_loss: TaskLoss, *, number: int) -> Cost:
    """Mean time of a step like that of this number, over batches of every size."""
    # what measures units is timed apart, and would remove some in the measured steps of a short run
    others = [callback for callback in masked.callbacks if callback is not masked.units]
    callbacks = CallbackList(others)
    optimizer = FlooredAdam(group.settings() for group in masked.groups)
    optimizer.set_rates(0.0)  # a rate of 0: the measured steps change nothing
    masked.model.train()

    runner = StepRunner(
        masked.model, optimizer, run.train, task_loss, run.placement, run.plan.step, callbacks
    )

    def take(rows: Rows) -> None:
        callbacks.on_step_begin(number)
        runner.take(rows, encoded=run.plan.rows_at(number, run.train))
        callbacks.on_step_end(number + 1, run.plan.steps)

    batches = _batches(run)
    sizes = [_tokens(run.train, rows) for rows in batches]
    take(batches[int(np.argmax(sizes))])
    indices = spread(sizes, min(_STEPS, len(sizes)))
    return Cost.mean([_timed(partial(take, batches[index]))[1] for index in indices])


def _units(run: PreparedRun, masked: MaskedModel) -> Cost:
    """Time of measuring units in all stages."""
    if masked.units is None or not masked.units.stages:
        return Cost()
    importance = masked.units.ranking
    if not isinstance(importance, UnitImportance):
        return Cost()  # the others look at weights only
    batches = importance.batches(0)
    sizes = [_tokens(run.train, rows) for rows in batches]
    some = [batches[index] for index in spread(sizes, min(_UNIT_BATCHES, len(sizes)))]
    importance.of(some[-1:])  # warms up
    each = Cost.mean([_timed(partial(importance.of, [rows]))[1] for rows in some])
    return each * (len(batches) * masked.units.stages)


def _look(model: Any, rows: Encoded) -> Cost:
    """Time of evaluating all rows once."""
    predict = torch_predict(model)
    batches = list(evaluation_batches(rows.lengths, batch_size=EVAL_BATCH))
    predict(rows.feeds(batches[-1]))
    indices = spread([_tokens(rows, each) for each in batches], min(_LOOKS, len(batches)))
    times = [_timed(partial(predict, rows.feeds(batches[index])))[1] for index in indices]
    return Cost.mean(times) * len(batches)


def _batches(run: PreparedRun) -> Sequence[Rows]:
    """Batches of the first epoch, or fewer if the run is shorter."""
    plan = run.plan
    batches = training_batches(
        run.train.lengths, batch_size=plan.batch_size, seed=plan.seed, epoch=0
    )
    return batches[: plan.steps]


def _tokens(rows: Encoded, batch: Rows) -> int:
    """Tokens of a batch, padding included."""
    return len(batch) * int(rows.lengths[batch].max())


def _timed(work: Callable[[], Found]) -> tuple[Found, Cost]:
    """The result of the work, and its time."""
    started = Cost.so_far()
    result = work()
    return result, Cost.so_far() - started


def _peak_memory() -> int | None:
    """Peak memory of this process in bytes; None on Windows."""
    if sys.platform != "win32":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return None
