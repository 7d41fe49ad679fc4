"""Tame the outlier channels of activations before they are rounded to 8 bits.

ONNX Runtime's fast path gives a whole activation tensor one scale. In pretrained encoders a few
channels are ten times larger than the rest (Dettmers et al. 2022, arXiv 2208.07339; Kovaleva et al.
2021, arXiv 2105.06990), so that all others are rounded to a tenth of the steps. As in SmoothQuant
(Xiao et al. 2023, arXiv 2211.10438) a channel is divided before rounding and its weights are
multiplied by the same number, but only where its peak passes the median peak, and by less than it
does: what activations win, weights lose.

    divisor_j = max(1, peak_j / median(peak)) ** 0.7

Peaks are a property of the pretrained model more than of the text: they are measured on the sample
sentences that ship with the package, with the artifact's own tokenizer. No label is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.formats import Artifact, TaskEntry
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.evaluation.evaluate import encode_for
from maskpack.tasks.evaluation.predict import predict_all, torch_predict
from maskpack.tasks.task import TASKS

_SAMPLES = ("reviews", "tickets")
_ROWS = 64  # of each sample task
_POWER = 0.7  # share of the burden that goes to the weights; 0.5 to 1 do about as well
_WORTH_IT = 2.0  # largest peak over median peak below which an input is left alone

Divisors = dict[str, NDArray[np.float32]]
"""Parameter name of a linear -> what its input channels are divided by, `(i)`, 1 or more."""


def input_divisors(
    model: Any, names: Iterable[str], artifact: Artifact, entry: TaskEntry
) -> Divisors:
    """Divisors for the linears whose inputs have outliers; the others are not in the result.

    Args:
        model: the restored classifier.
        names: parameter names of the linears, as in `model`.
        artifact: where it came from; its tokenizer is used.
        entry: the task, for the length that texts are cut to.
    """
    peaks = _input_peaks(model, names, artifact, entry)
    return {
        name: divisor for name, peak in peaks.items() if (divisor := divisor_of(peak)) is not None
    }


def divisor_of(peak: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Divisors `(i)` for channels with these peaks, or None if no channel stands out."""
    usual = float(np.median(peak))
    if usual <= 0 or float(peak.max()) < _WORTH_IT * usual:
        return None
    divisor: NDArray[np.float32] = np.maximum(peak / np.float32(usual), 1.0) ** np.float32(_POWER)
    return divisor


def _input_peaks(
    model: Any, names: Iterable[str], artifact: Artifact, entry: TaskEntry
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of every input channel of the linears, on the sample sentences."""
    peaks: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = inputs[0].detach().abs().flatten(0, -2).amax(dim=0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return module.register_forward_pre_hook(note)

    hooks = [watch(name, model.get_submodule(name.removesuffix(".weight"))) for name in names]
    try:
        predict_all(torch_predict(model), encode_for(artifact, entry, _sentences(entry)))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: peak.numpy() for name, peak in peaks.items()}


def _sentences(entry: TaskEntry) -> Split:
    """Sample sentences, as single texts or as pairs like the task's own."""
    splits = [load_data(TASKS[name]).dev for name in _SAMPLES]
    texts = [row[0] for split in splits for row in split.texts[:_ROWS]]
    columns = len(entry.data.get("texts", ("text",)))
    rows = tuple(tuple(texts[i : i + columns]) for i in range(0, len(texts), columns))
    return Split(rows, np.zeros(len(rows), dtype=np.int64))
