"""Device and precision of training: one entry for each kind of device.

Training passes a `Placement` through all its steps; no other code names a device. Evaluation follows
the model: it is always float32, on the device where the parameters are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskpack.formats.lazy import find_entry

_BF16_PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@dataclass(frozen=True)
class Placement:
    """A device and a precision.

    Attributes:
        device: torch's name of it.
        bf16: whether matrix products of a training step run in bfloat16.
    """

    device: str
    bf16: bool

    def put(self, model: Any) -> Any:
        """Move a model to the device; return it."""
        return model.to(self.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """How forward passes of training compute."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            yield


class CpuPlacement(Placement):
    """The processor.

    Attention is computed without torch's fused kernel, whose backward pass takes several times as long on a CPU at
    the lengths of sentences, a third of a whole step.
    """

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Placement`."""
        with sdpa_kernel(SDPBackend.MATH), super().training():
            yield

    @classmethod
    def of(cls, precision: str) -> CpuPlacement:
        """`auto` is bfloat16 on processors that multiply it natively."""
        native = any(bool(getattr(torch.cpu, probe, bool)()) for probe in _BF16_PROBES)
        return cls("cpu", native if precision == "auto" else precision == "bf16")


PLACEMENTS: dict[str, Callable[[str], Placement]] = {"cpu": CpuPlacement.of}
"""Kind of device -> its placement, from a precision: `auto`, `bf16` or `fp32`."""

_USUAL = "cpu"


def placement_of(device: str | None, precision: str) -> Placement:
    """The placement of a kind of device; None takes the usual one.

    Raises:
        ConfigError: no such kind.
    """
    return find_entry(PLACEMENTS, device or _USUAL, "device")(precision)


def to_tensors(arrays: Mapping[str, NDArray[Any]], like: Any) -> dict[str, Tensor]:
    """Arrays as tensors on the device of a model; they share memory where they can."""
    device = next(like.parameters()).device
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any device as an array, without its gradient."""
    array: NDArray[Any] = np.asarray(tensor.detach().cpu().numpy())
    return array
