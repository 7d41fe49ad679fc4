"""A predictor is any callable from a batch to logits: a torch model, or a graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskpack.tasks.batches import Encoded, Feeds, evaluation_batches

Predict = Callable[[Feeds], NDArray[np.float32]]
"""Feeds of one batch to logits `(b, c)`."""

EVAL_BATCH = 32


def predict_all(
    predict: Predict, encoded: Encoded, *, batch_size: int = EVAL_BATCH
) -> NDArray[np.float32]:
    """Logits `(rows, c)` of a whole split, in the split's own order."""
    parts, places = [], []
    for rows in evaluation_batches(encoded.lengths, batch_size=batch_size):
        parts.append(predict(encoded.feeds(rows)))
        places.append(rows)
    logits = np.concatenate(parts)
    ordered = np.empty_like(logits)
    ordered[np.concatenate(places)] = logits
    return ordered


def to_tensors(feeds: Feeds) -> dict[str, Tensor]:
    """Feeds as torch tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def torch_predict(model: Any) -> Callable[[Feeds], NDArray[np.float32]]:
    """A predictor around a torch model, in float32 and evaluation mode."""
    model.eval()

    def predict(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(**to_tensors(feeds)).logits.float().numpy()
        return logits

    return predict
