"""What a run is said to be: its task's entry in the manifest, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.effects import ClassWeights, class_weight_effect
from maskpack.compressor.types import HISTORY, SNAPSHOT_OF, RunResult
from maskpack.formats import Patch, TaskEntry
from maskpack.formats.pooling import pooling_fields
from maskpack.formats.schema import patch_file
from maskpack.formats.unit_bits import count_beside_units, mask_bytes, unit_bytes
from maskpack.formats.units import Units
from maskpack.tasks.evaluation.evaluate import UNLABELLED, reading_fields, windows_fields
from maskpack.tasks.evaluation.metrics import majority

if TYPE_CHECKING:
    from maskpack.compressor.fit import TrainedRun
    from maskpack.compressor.prepare import PreparedRun
    from maskpack.tasks.data.splits import TaskData


def entry_of(run: PreparedRun, trained: TrainedRun, metrics: Mapping[str, float]) -> TaskEntry:
    """The manifest's entry of the task; the writer fills in file and digest."""
    request, data, count = run.request, run.data, trained.patch.count
    return TaskEntry(
        name=request.stored_name,
        file=patch_file(request.stored_name),
        sha256="0" * 64,
        kind=run.kind.name,
        labels=data.labels,
        metric=data.task.metric,
        scores=metrics,
        zeros=count.zeros,
        weights=count.weights,
        max_length=request.config.max_length,
        data={
            "task": data.task.name,
            "texts": list(data.task.texts),
            "label": data.task.label,
            "metrics": list(data.task.metrics),
            **({} if data.task.separator is None else {"separator": data.task.separator}),
            "train_rows": len(data.train),
            "eval_rows": len(data.dev),
            "eval_sha256": data.dev.sha256(),
            **({} if run.original is None else {"original": run.metrics(run.original)}),
            **_of_rows(run),
            **run.facts,
        },
        training={
            **run.options(),
            HISTORY: trained.curves.to_tree(),
            **_afterwards(trained),
            **_kept_units(trained.patch.units),
            **_reached(run, trained.patch.units),
        },
        **features_of(
            *reading_fields(data.task, request.config.max_length),
            {} if run.target is None else run.target.fields(),
            pooling_fields(run.pooling),
        ),
    )


def _of_rows(run: PreparedRun) -> dict[str, Any]:
    """Keys of the entry's `data` on rows without a label, and on long texts."""
    task, length = run.data.task, run.request.config.max_length
    return {**_gaps(run.data), **windows_fields(task, length)}


def features_of(*fields: Mapping[str, Any]) -> dict[str, Any]:
    """`requires` and `config` of an entry, from those of single features."""
    requires = tuple(name for each in fields for name in each.get("requires", ()))
    config = {key: value for each in fields for key, value in each.get("config", {}).items()}
    return {"requires": requires, "config": config} if requires else {}


def result_of(run: PreparedRun, trained: TrainedRun, logits: NDArray[np.float32]) -> RunResult:
    """The run's figures; the size of the task's file is known once it is written.

    Args:
        run: as prepared.
        trained: as learned.
        logits: of the stored patch for the evaluation rows.
    """
    original, decoder = run.original, run.kind.decoder
    same = None if original is None else decoder.agreement(original, logits)
    request, data, patch = run.request, run.data, trained.patch
    return RunResult(
        method="mask",
        model=run.prepared.source.model,
        task=request.stored_name,
        bits=run.prepared.scheme.bits,
        seed=request.config.seed,
        train_rows=len(run.train),
        eval_rows=len(data.dev),
        steps=trained.steps,
        seconds=round(trained.seconds, 2),
        threads=trained.threads,
        metric=data.task.metric,
        scores=run.metrics(logits),
        majority=majority(run.kind, run.dev.labels, data.task.metrics),
        weights=patch.count.weights,
        zeros=patch.count.zeros,
        mask_bytes=mask_bytes(patch),
        head_bytes=sum(tensor.nbytes for tensor in patch.head.values()),
        extra_bytes=sum(tensor.nbytes for tensor in (*patch.dense.values(), *patch.gains.values())),
        backbone_bytes=run.prepared.backbone_bytes(),
        original=None if original is None else run.metrics(original),
        same_answers=same,
        options=run.options(),
        rows_without_label=data.rows_without_label,
        class_weights=_class_weights(run, logits),
        tuning=trained.tuning,
        **_unit_figures(patch),
        predicted_speedup=_predicted(run, patch.units),
    )


def _unit_figures(patch: Patch) -> dict[str, Any]:
    """What a result says of units; empty where none could be removed."""
    if patch.units is None:
        return {}
    counts = patch.units.counts()
    kinds = dict.fromkeys(one.kind for one in counts)
    return {
        "unit_weights": patch.count.weights - count_beside_units(patch).weights,
        "unit_bytes": unit_bytes(patch.units),
        "units": {kind: sum(one.count for one in counts if one.kind == kind) for kind in kinds},
        "units_kept": {kind: sum(one.kept for one in counts if one.kind == kind) for kind in kinds},
    }


def _kept_units(units: Units | None) -> dict[str, Any]:
    """What the entry says of them: kind -> how many stay in each layer of which some could go, as one line such as `4:1 5:2`."""
    if units is None:
        return {}
    kept: dict[str, list[str]] = {}
    for one in units.counts():
        kept.setdefault(one.kind, []).append(f"{one.layer}:{one.kept}")
    return {"units_kept": {kind: " ".join(layers) for kind, layers in kept.items()}}


def _predicted(run: PreparedRun, units: Units | None) -> float | None:
    """How many times as fast as with all units a graph is, by the run's cost model; None where none could go."""
    if units is None or run.unit_costs is None:
        return None
    return round(run.unit_costs.speedup(units.counts()), 4)


def _reached(run: PreparedRun, units: Units | None) -> dict[str, Any]:
    """What the entry says of a speed that was asked for."""
    if run.request.config.speedup is None:
        return {}
    return {"predicted_speedup": _predicted(run, units)}


def _afterwards(trained: TrainedRun) -> dict[str, Any]:
    """What the entry says of a head that was tuned, and of a patch that a run left on its way."""
    tuning, told = trained.tuning, dict[str, Any]()
    if tuning is not None:
        told["tuning"] = tuning.record()
    if trained.part_of is not None:
        told |= {SNAPSHOT_OF: trained.part_of, "snapshot_step": trained.steps}
    return told


def _class_weights(run: PreparedRun, logits: NDArray[np.float32]) -> ClassWeights | None:
    """What weights of labels did, if there were any."""
    return class_weight_effect(
        run.kind,
        run.data.labels,
        run.class_weights,
        trained=run.known_labels,
        logits=logits,
        labels=run.dev.labels,
    )


def _gaps(data: TaskData) -> dict[str, Any]:
    """Rows without a label, for the manifest, and what `task_of` reads; empty for most tasks: their manifests stay as they are."""
    counts = data.rows_without_label
    said = {UNLABELLED: str(data.task.unlabelled), "rows_without_label": counts}
    return said if counts else {}
