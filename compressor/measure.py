"""What came out of a run, as the manifest and the user are told it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from maskpack.compressor.learning.curves import HISTORY
from maskpack.compressor.own_head import original_scores
from maskpack.compressor.request import Learned, Learning
from maskpack.compressor.restore import apply_patch, build_classifier
from maskpack.compressor.results import RunResult
from maskpack.compressor.scores.evaluate import majority, predict_all, score
from maskpack.compressor.scores.predict import torch_predict
from maskpack.formats import Patch, TaskEntry
from maskpack.formats.schema import patch_file


def measure(run: Learning, learned: Learned, *, seconds: float) -> tuple[TaskEntry, RunResult]:
    """Score the patch as it will be stored, and describe it."""
    ground, patch = run.ground, learned.patch
    model = build_classifier(ground.backbone, run.described, seed=0)
    apply_patch(model, ground.backbone, patch)
    logits = predict_all(torch_predict(model), run.dev)
    scores = score(logits, run.dev.labels, run.data.task.metrics)
    original = None
    if run.head is not None:
        original = original_scores(run.head, run.dev, run.data.task.metrics)
    result = _result(run, patch, scores, steps=learned.steps, seconds=seconds)
    entry = _entry(run, learned, scores, original)
    return entry, replace(result, original=original)


def _entry(
    run: Learning,
    learned: Learned,
    scores: Mapping[str, float],
    original: Mapping[str, float] | None,
) -> TaskEntry:
    """What the manifest will say; the writer fills in file and digest."""
    request, data, count = run.request, run.data, learned.patch.count
    return TaskEntry(
        name=request.stored_name,
        file=patch_file(request.stored_name),
        sha256="0" * 64,
        kind=str(data.task.kind),
        labels=data.labels,
        metric=data.task.metric,
        scores=scores,
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
            **({} if original is None else {"original": dict(original)}),
        },
        training={**request.config.record(), HISTORY: learned.curves.to_tree()},
    )


def _result(
    run: Learning, patch: Patch, scores: Mapping[str, float], *, steps: int, seconds: float
) -> RunResult:
    """The run's figures; the size of the task's file is known once it is written."""
    request, data, ground = run.request, run.data, run.ground
    count = patch.count
    return RunResult(
        method="mask",
        model=ground.source.model,
        task=request.stored_name,
        bits=ground.scheme.bits,
        seed=request.config.seed,
        train_rows=len(run.train),
        eval_rows=len(data.dev),
        steps=steps,
        seconds=round(seconds, 2),
        metric=data.task.metric,
        scores=scores,
        majority=majority(run.dev.labels, data.task.metrics),
        weights=count.weights,
        zeros=count.zeros,
        mask_bytes=sum(mask.packed.nbytes for mask in patch.masks.values()),
        head_bytes=sum(tensor.nbytes for tensor in patch.head.values()),
        extra_bytes=sum(tensor.nbytes for tensor in (*patch.dense.values(), *patch.gains.values())),
        backbone_bytes=ground.backbone_bytes(),
        options=request.config.record(),
    )
