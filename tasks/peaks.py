"""Peaks of the activations of an encoder, from which the divisors of its outlier channels follow.

Peaks are a property of the pretrained model more than of what it reads. They are measured on the samples of a preprocessor: sentences
that ship with the package, with the encoder's own tokenizer, or images that are made up. No label is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskpack.formats import Backbone
from maskpack.formats.channels import Divisors, divisor_of
from maskpack.models.build import base_of, used_by
from maskpack.models.outline import build_outline, fill_weights
from maskpack.models.placement import to_numpy
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.preprocess import Preprocessor


def measure_divisors(backbone: Backbone, config: Any, preprocessor: Preprocessor) -> Divisors:
    """Divisors of those linears whose inputs have outliers, by their names in the backbone.

    Args:
        backbone: the weights.
        config: of a classifier over it; its head does not count.
        preprocessor: of the encoder.
    """
    model = fill_weights(
        build_outline(backbone, config, attention="eager"), backbone, for_answers=True
    )
    names = used_by(base_of(model), backbone).linears
    peaks = _input_peaks(model, names, preprocessor)
    return {
        name: divisor for name, peak in peaks.items() if (divisor := divisor_of(peak)) is not None
    }


def _input_peaks(
    model: Any, names: Iterable[str], preprocessor: Preprocessor
) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of every input channel of the linears, on the samples."""
    peaks: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = inputs[0].detach().abs().flatten(0, -2).amax(dim=0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return module.register_forward_pre_hook(note)

    base = base_of(model)
    hooks = [watch(name, base.get_submodule(name.removesuffix(".weight"))) for name in names]
    try:
        predict_all(torch_predict(model), preprocessor.samples())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: to_numpy(peak) for name, peak in peaks.items()}
