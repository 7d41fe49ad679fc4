"""Effects of options, as tables of a run's result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpack.cli import render

if TYPE_CHECKING:
    from maskpack.compressor.effects import ClassWeights, HeadTuning, TemperatureEffect
    from maskpack.compressor.types import RunResult, TrunkSearch


def show_effects(result: RunResult) -> None:
    """Print what options on labels did and how a trunk was found; nothing where none was given."""
    if result.trunk is not None:
        _show_trunk(result.task, result.trunk)
    if result.class_weights is not None:
        _show_class_weights(result.task, result.class_weights)
    if result.tuning is not None and result.tuning.temperature is not None:
        _show_temperature(result.task, result.tuning.rows, result.tuning.temperature)
    if result.tuning is not None and result.tuning.thresholds:
        _show_thresholds(result.task, result.tuning)


def _show_trunk(task: str, search: TrunkSearch) -> None:
    """The metric of each depth that was tried, on rows that were held out."""
    first = search.tries[0].value
    words = (
        f"{search.layers} lower layers are left alone"
        if search.layers
        else "no layer is left alone"
    )
    render.table(
        f"{task}: {words}; {search.rows} training rows were held out, {search.tolerance:g} points may be lost",
        ("layers left alone", search.metric, "points lost"),
        [
            (str(each.layers), f"{each.value:.4f}", f"{100 * (first - each.value):.2f}")
            for each in search.tries
        ],
    )


def _show_thresholds(task: str, tuning: HeadTuning) -> None:
    """Each label's threshold, and its F1 on the evaluation rows."""
    render.table(
        f"{task}: thresholds, fitted on {tuning.rows} training rows that were held out",
        ("label", "held-out rows", "threshold", "F1 at 0.5", "F1 at threshold"),
        [
            (
                each.label,
                str(each.held_out_rows),
                f"{each.threshold:.3f}" if each.fitted else "0.5, too few rows",
                f"{each.f1_before:.4f}",
                f"{each.f1_after:.4f}",
            )
            for each in tuning.thresholds
        ],
    )


def _show_temperature(task: str, rows: int, effect: TemperatureEffect) -> None:
    """How well probabilities fit on the evaluation rows, before and after."""
    render.table(
        f"{task}: temperature {effect.temperature:.3f}, fitted on {rows} training rows that were held out",
        ("evaluation rows", "before", "after"),
        [
            ("calibration error", f"{effect.ece_before:.4f}", f"{effect.ece_after:.4f}"),
            ("negative log-likelihood", f"{effect.nll_before:.4f}", f"{effect.nll_after:.4f}"),
            ("other answers", "", str(effect.changed)),
        ],
    )


def _show_class_weights(task: str, weights: ClassWeights) -> None:
    """Each label's weight in the loss, beside its recall and precision."""
    render.table(
        f"{task}: loss weighted by label, mean recall {weights.mean_recall:.4f}",
        ("label", "training rows", "weight", "evaluation rows", "recall", "precision"),
        [
            (
                each.label,
                f"{each.share:.1%}",
                f"{each.weight:.3g}",
                str(each.rows),
                f"{each.recall:.4f}",
                f"{each.precision:.4f}",
            )
            for each in weights.classes
        ],
    )
