"""How many lower layers a task can leave alone: `trunk` auto.

A mask on the upper layers alone costs something, and how much differs by task. So the same recipe runs several times on nine
tenths of the training rows: without a trunk, then with trunks of other depths. The tenth that was held out says what each
costs. The search halves the depths that are left, so a model of L layers needs 1 + log2(L) runs, rounded up. It takes for
granted that a deeper trunk costs more. Depths that the other options do not allow are left out before anything is trained.
A dense teacher is trained once for all of them. The run that is written uses all rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.model import MaskedModel, freeze, masked_names, sparsity_of
from maskpack.compressor.masking.trunk import layer_count
from maskpack.compressor.masking.unit_choice import choose_units
from maskpack.compressor.prepare import PreparedRun
from maskpack.compressor.start_checks import check_start_units
from maskpack.compressor.training.callbacks import History
from maskpack.compressor.training.checkpoint import deferred_interrupt
from maskpack.compressor.training.loss import DistillationTargets
from maskpack.compressor.training.progress import OnProgress, Progress
from maskpack.compressor.training.train import Checkpoints, NoCheckpoints, Plan
from maskpack.compressor.types import TrunkSearch, TrunkTry
from maskpack.formats import ConfigError, Interrupted
from maskpack.models.build import apply_patch
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.evaluation.gains import gain

_LOG = logging.getLogger(__name__)

Targets = DistillationTargets | None


class Teach(Protocol):
    """`targets_for` of `compressor/fit.py`."""

    def __call__(
        self, run: PreparedRun, plan: Plan, *, on_progress: OnProgress, stop: Callable[[], bool]
    ) -> Targets:
        """The targets of a run's teacher."""


class Train(Protocol):
    """`train_mask` of `compressor/fit.py`."""

    def __call__(
        self,
        run: PreparedRun,
        targets: Targets,
        checkpoints: Checkpoints,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> tuple[MaskedModel, int, History]:
        """Train scores and head of a run."""


def with_trunk_found(
    run: PreparedRun, teach: Teach, train: Train, *, on_progress: OnProgress
) -> tuple[PreparedRun, TrunkSearch | None]:
    """The run with the deepest trunk within its tolerance, and what was tried; the same run if none is to be found.

    Args:
        run: as prepared.
        teach: asks or trains the teacher.
        train: learns a run.
        on_progress: called after every step.

    Raises:
        ConfigError: the other options allow no trunk, or no held-out row has a label that counts.
        Interrupted: Ctrl-C.
    """
    if not run.request.config.finds_trunk:
        return run, None
    most = deepest_allowed(run)
    try:
        with deferred_interrupt() as stop:
            probe = _probe(run)
            targets = teach(probe, probe.plan, on_progress=on_progress, stop=stop)
            metric = partial(
                _metric, targets=targets, train=train, on_progress=on_progress, stop=stop
            )
            search = _search(probe, metric, most=most)
    except KeyboardInterrupt:
        fact = "stopped while it looked for a trunk; nothing was written"
        raise Interrupted(fact, "the search begins anew; `trunk` as a number needs none") from None
    return with_trunk(run, search.layers), search


def _search(
    probe: PreparedRun, metric: Callable[[PreparedRun], float], *, most: int
) -> TrunkSearch:
    name, rows, tries = probe.data.task.metric, len(probe.dev), list[TrunkTry]()
    tolerance = probe.request.config.trunk_tolerance
    if most < layer_count(probe.shapes.linears) - 1:
        _LOG.info("trunks of %d layers at most are tried: the other options allow no more", most)

    def value(layers: int) -> float:
        found = metric(with_trunk(probe, layers))
        tries.append(TrunkTry(layers, found))
        lost = -gain(name, found, tries[0].value)
        fact = "trunk %d: %s %.4f on %d held-out rows, %.2f points below none"
        _LOG.info(fact, layers, name, found, rows, lost)
        return -lost / 100.0

    layers = deepest(most, value, tolerance=tolerance)
    return TrunkSearch(name, tolerance, rows, layers, tuple(tries))


def _metric(
    run: PreparedRun,
    *,
    targets: Targets,
    train: Train,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> float:
    """The main metric of a run that is not written, on its evaluation rows: of its bits and its head in float16."""
    stage = f"trunk of {run.request.config.trunk or 0}"

    def with_stage(now: Progress) -> None:
        on_progress(replace(now, stage=stage))

    masked, _, _ = train(run, targets, NoCheckpoints(), with_stage, stop)
    units = None if masked.units is None else masked.units.units
    patch = freeze(masked.model, masked.layers, masked.dense, units)
    model = apply_patch(run.classifier(0), run.prepared.backbone, patch, run.target)
    logits = predict_all(torch_predict(model), run.dev, processes=run.placement.processes)
    return run.metrics(logits)[run.data.task.metric]


_ROUNDING = 1e-9  # .68 - .67, one row of a hundred, is 1.0000000000000009 points


def deepest(most: int, value: Callable[[int], float], *, tolerance: float) -> int:
    """The largest depth whose value is at most `tolerance` points (0.01) below that of depth 0.

    >>> deepest(5, lambda layers: 0.9 - 0.004 * layers, tolerance=1.0)
    2

    Args:
        most: the largest depth.
        value: of a depth; the deeper, the less.
        tolerance: in points.
    """
    whole, low, high = value(0), 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if 100.0 * (whole - value(middle)) <= tolerance + _ROUNDING:
            low = middle
        else:
            high = middle - 1
    return low


def most_tries(layers: int) -> int:
    """Runs that a search needs at most, for an encoder of so many layers.

    >>> most_tries(6), most_tries(12), most_tries(24)
    (4, 5, 6)
    """
    return 1 + (layers - 1).bit_length()


def with_trunk(run: PreparedRun, layers: int) -> PreparedRun:
    """The run with so many lower layers left alone; 0: none.

    Raises:
        ConfigError: units that the run starts without would come back, or the layers above cannot reach a target.
    """
    usual = FitConfig.trunk_tolerance  # which only a search may set
    trunk = str(layers) if layers else None
    config = replace(run.request.config, trunk=trunk, trunk_tolerance=usual)
    names, model = masked_names(run.shapes.linears, config), run.described
    if run.start is not None and run.request.start is not None:
        check_start_units(run.start.units, run.request.start[1], model, names)
    return replace(
        run,
        request=replace(run.request, config=config),
        sparsity=sparsity_of(run.shapes, config),
        chosen_units=choose_units(config, names, model),
    )


def deepest_allowed(run: PreparedRun) -> int:
    """The largest depth that a search may try: the other options allow it, and all smaller ones.

    A deeper trunk leaves fewer layers with units. So a speed or a share of units can be out of reach, and units that the run
    starts without can lie in the trunk.

    Raises:
        ConfigError: not even a trunk of one layer is allowed; the error is that of this one.
    """
    for layers in range(layer_count(run.shapes.linears) - 1, 1, -1):
        try:
            with_trunk(run, layers)
        except ConfigError:
            continue
        return layers
    with_trunk(run, 1)
    return 1


def probe_plan(run: PreparedRun) -> Plan:
    """Steps of a run on nine tenths of the rows."""
    return Plan.of(run.request.config, len(run.train) - len(run.train) // 10)


def _probe(run: PreparedRun) -> PreparedRun:
    """The run on nine tenths of its training rows, measured on the others.

    Raises:
        ConfigError: there is one row only, or none of the others has a label that counts.
    """
    learned, held_out = run.train.hold_out(if_asked=True, option="`trunk` auto")
    assert held_out is not None
    measured = held_out.with_labels()
    if not len(measured):
        raise ConfigError(
            "`trunk` auto compares answers with labels, and the training rows have none",
            "give `trunk` as a number",
        )
    if 100.0 / len(measured) > run.request.config.trunk_tolerance > 0:
        fact = "one of %d held-out rows is %.1f points, the tolerance is %g: give more rows, or `trunk` as a number"
        _LOG.warning(fact, len(measured), 100.0 / len(measured), run.request.config.trunk_tolerance)
    return replace(run, train=learned, dev=measured, plan=probe_plan(run))
