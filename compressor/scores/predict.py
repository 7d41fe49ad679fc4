"""A torch model as a predictor on arrays, beside which a graph in ONNX Runtime looks the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskpack.compressor.data.batches import Feeds


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
