"""What is fitted after the mask: temperature and thresholds of the head, on training rows that were held out.

The stored patch is what is tuned and measured: the bits of the mask, and the head as float16. Nothing but the last
linear of the head changes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.compressor.effects import HeadTuning, TemperatureEffect, ThresholdEffect
from maskpack.compressor.label_checks import LEAST_OF_LABEL
from maskpack.compressor.label_config import Calibrate, Threshold
from maskpack.compressor.prepare import PreparedRun
from maskpack.compressor.training.head_tuning import Head, divided, shifted
from maskpack.formats import Patch
from maskpack.models.build import apply_patch, head_parameters
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.evaluation.calibration import (
    best_threshold,
    expected_calibration_error,
    fit_temperature,
)
from maskpack.tasks.evaluation.metrics import class_metrics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Answered:
    """A head with the logits of the model for held-out and evaluation rows."""

    head: Head
    held_out: NDArray[np.float32]
    dev: NDArray[np.float32]


def tune_head(run: PreparedRun, patch: Patch) -> tuple[Patch, HeadTuning | None]:
    """The patch with its head as the options tune it, and what that did; the same patch without such options."""
    config, held_out, last = run.request.config, run.held_out, run.shapes.last
    if not config.tunes_head:
        return patch, None
    assert held_out is not None
    assert last is not None
    model = apply_patch(run.classifier(0), run.prepared.backbone, patch, run.target)
    untuned = now = _answered(model, patch.head, held_out, run.dev)
    temperature = None
    if config.calibrate is Calibrate.TEMPERATURE:
        value = _temperature(run, now, held_out)
        now = _answered(model, divided(now.head, last, value), held_out, run.dev)
        temperature = _temperature_effect(run, value, untuned, now)
    thresholds: tuple[ThresholdEffect, ...] = ()
    if config.threshold is Threshold.TUNED:
        found = _thresholds(run, now, held_out)
        shifts = {label: -margin for label, margin in found.items()}
        calibrated, now = now, _answered(model, shifted(now.head, last, shifts), held_out, run.dev)
        thresholds = _threshold_effects(run, found, calibrated, now)
    effect = HeadTuning(len(held_out), run.metrics(untuned.dev), temperature, thresholds)
    return replace(patch, head=now.head), effect


def _answered(model: Any, head: Head, held_out: Encoded, dev: Encoded) -> _Answered:
    """Put a head into the model, and let it answer."""
    own = head_parameters(model)
    with torch.no_grad():
        for name, value in head.items():
            own[name].copy_(torch.from_numpy(value.astype("f4")))
    predict = torch_predict(model)
    return _Answered(head, predict_all(predict, held_out), predict_all(predict, dev))


def _temperature(run: PreparedRun, now: _Answered, held_out: Encoded) -> float:
    """The temperature of the held-out rows; 1 where they cannot tell."""
    probabilities = run.kind.probabilities
    assert probabilities is not None
    nll = probabilities.nll
    found = fit_temperature(lambda value: nll(now.held_out / value, held_out.labels))
    if found is None:
        _LOG.warning(
            "the %d held-out rows have no best temperature between 0.1 and 10, as where all answers are right; it stays 1",
            len(held_out),
        )
    return 1.0 if found is None else found


def _temperature_effect(
    run: PreparedRun, value: float, before: _Answered, after: _Answered
) -> TemperatureEffect:
    """What a temperature did on the evaluation rows."""
    probabilities, labels = run.kind.probabilities, run.dev.labels
    assert probabilities is not None
    confidences = [probabilities.confidences(each.dev, labels) for each in (before, after)]
    old, new = (run.kind.answers(each.dev).reshape(len(labels), -1) for each in (before, after))
    return TemperatureEffect(
        value,
        nll_before=probabilities.nll(before.dev, labels),
        nll_after=probabilities.nll(after.dev, labels),
        ece_before=expected_calibration_error(*confidences[0]),
        ece_after=expected_calibration_error(*confidences[1]),
        changed=int((old != new).any(axis=1).sum()),
    )


def _thresholds(run: PreparedRun, now: _Answered, held_out: Encoded) -> dict[int, float]:
    """Number of a label -> the margin above which it has the best F1; those with too few rows are missing."""
    return {
        each.label: best_threshold(each.margins, each.truth)
        for each in run.kind.decisions(now.held_out, held_out.labels)
        if each.fewest >= LEAST_OF_LABEL
    }


def _threshold_effects(
    run: PreparedRun, found: Mapping[int, float], before: _Answered, after: _Answered
) -> tuple[ThresholdEffect, ...]:
    """What the thresholds did on the evaluation rows."""
    assert run.held_out is not None
    names, labels = run.data.labels, run.dev.labels
    old, new = (class_metrics(run.kind, each.dev, labels, names) for each in (before, after))
    return tuple(
        ThresholdEffect(
            names[each.label],
            threshold=(1.0 + math.tanh(found.get(each.label, 0.0) / 2.0)) / 2.0,
            f1_before=old[each.label].f1,
            f1_after=new[each.label].f1,
            held_out_rows=int(each.truth.sum()),
            fitted=each.label in found,
        )
        for each in run.kind.decisions(before.held_out, run.held_out.labels)
    )
