"""Dropout for processors: one random byte a value instead of one random float.

torch draws dropout on a CPU one value after another; on a small encoder that is a fifth of a step.
Bytes from numpy's SFC64 come five times faster. The price is a probability in steps of 1/256.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from maskpack.compressor.learning.companion import Companion

_LEVELS = 256


class Noise(Companion):
    """Random bytes that follow from seed and step alone, so that a checkpoint need not keep them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.before_step(0)

    def before_step(self, step: int) -> None:
        """Begin the bytes of a step."""
        self._generator = np.random.Generator(np.random.SFC64([self._seed, step]))

    def bytes(self, shape: torch.Size) -> Tensor:
        """The next bytes as uint8 of any shape."""
        drawn = np.frombuffer(bytearray(self._generator.bytes(shape.numel())), dtype=np.uint8)
        return torch.from_numpy(drawn).view(shape)


class ByteDropout(nn.Module):
    """A drop-in for `nn.Dropout`.

    Attributes:
        p: probability of a zero, rounded to a multiple of 1/256.
    """

    def __init__(self, p: float, noise: Noise) -> None:
        super().__init__()
        self._cut = min(round(p * _LEVELS), _LEVELS - 1)  # at 1 nothing would be left to scale
        self.p = self._cut / _LEVELS
        self._noise = noise

    def forward(self, inputs: Tensor) -> Tensor:
        """Zero each value with probability `p` while training, and scale up the others."""
        if not self.training or self._cut == 0:
            return inputs
        with torch.no_grad():
            keep = self._noise.bytes(inputs.shape) >= self._cut
            factor = keep.to(inputs.dtype).mul_(1.0 / (1.0 - self.p))
        return inputs * factor


def quicken_dropout(model: nn.Module, noise: Noise, *, p: float | None = None) -> None:
    """Replace every `nn.Dropout` of `model` in place, and leave out dropout inside attention.

    Dropout of attention probabilities costs a square of the length, and keeps torch from its fused
    kernel; what it is worth is in docs/RESULTS.md.

    Args:
        model: the classifier.
        noise: where random bytes come from.
        p: probability for all of them; None leaves each its own.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                inside = hasattr(module, "num_attention_heads") or hasattr(module, "n_heads")
                rate = child.p if p is None else p
                setattr(module, name, ByteDropout(0.0 if inside else rate, noise))
        for name in ("dropout_prob", "attention_dropout"):  # what fused attention reads
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
