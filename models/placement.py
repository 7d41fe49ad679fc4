"""Device, precision and processes of training: one entry for each kind of device.

Training passes a `Placement` through all its steps; no other code names a device. Evaluation follows
the model: it is always float32, on the device where the parameters are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskpack.formats import ConfigError
from maskpack.formats.lazy import find_entry
from maskpack.models.processes import ALONE, Processes, expected_processes, join_processes

_BF16_PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LAUNCHED_WITH = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch`; its usual value is `no`


@dataclass(frozen=True)
class Placement:
    """A device, a precision, and the processes that share a step.

    Attributes:
        device: torch's name of it.
        precision: `fp32`, or the type in which a training step multiplies: `bf16` or `fp16`.
        processes: this process among those that train together.
        byte_dropout: whether dropout draws bytes, see `ByteDropout`; else torch draws it.
    """

    device: str
    precision: str = "fp32"
    processes: Processes = ALONE
    byte_dropout: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type in which a training step multiplies."""
        return _TYPES.get(self.precision, torch.float32)

    def put(self, model: Any) -> Any:
        """Move a model to the device; return it."""
        return model.to(self.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """How forward passes of training compute."""
        kind, narrow = torch.device(self.device).type, _TYPES.get(self.precision)
        with torch.autocast(kind, narrow, enabled=narrow is not None):
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """How a backward pass computes, which may hold forward passes of single layers."""
        yield

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients of float16 from becoming zero; it does nothing in other types."""
        kind = torch.device(self.device).type
        return torch.amp.GradScaler(kind, enabled=self.precision == "fp16")


@dataclass(frozen=True)
class CpuPlacement(Placement):
    """The processor.

    Attention is computed without torch's fused kernel, whose backward pass takes several times as long on a CPU at
    the lengths of sentences, a third of a whole step.
    """

    byte_dropout: bool = True

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Placement`."""
        with sdpa_kernel(SDPBackend.MATH), super().training():
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """See `Placement`."""
        with sdpa_kernel(SDPBackend.MATH):
            yield

    @classmethod
    def of(cls, device: str, precision: str) -> CpuPlacement:
        """`auto` is bfloat16 on processors that multiply it natively.

        Raises:
            ConfigError: float16, which is slower than float32 on processors and loses small gradients.
        """
        _check_plain(device)
        if precision == "fp16":
            raise ConfigError("a CPU does not train in fp16", "use bf16, fp32 or auto")
        if precision == "auto":
            precision = "bf16" if _native_bf16() else "fp32"
        return cls("cpu", precision, join_processes(cpu=True))


@dataclass(frozen=True)
class CudaPlacement(Placement):
    """A GPU of CUDA or ROCm: torch's own attention and dropout."""

    @classmethod
    def of(cls, device: str, precision: str) -> CudaPlacement:
        """`auto` is bfloat16 where the GPU has it. Of several processes each takes its own GPU.

        Raises:
            ConfigError: no such GPU.
        """
        count, (_, _, number) = torch.cuda.device_count(), device.partition(":")
        if not torch.cuda.is_available() or count == 0:
            raise ConfigError("torch finds no GPU of CUDA here", _no_gpu())
        local, here = (
            int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        if here > count:
            raise ConfigError(
                f"{here} processes share {count} GPUs", f"start at most {count} processes here"
            )
        if number and here > 1:
            raise ConfigError(
                f"{here} processes cannot all compute on `{device}`",
                "give the device as cuda: each process takes its own",
            )
        if number and (not number.isdecimal() or int(number) >= count):
            raise ConfigError(f"there is no device `{device}`", f"GPUs here: 0 to {count - 1}")
        index = int(number) if number else local
        torch.cuda.set_device(index)
        if precision == "auto":
            precision = _launched() or ("bf16" if torch.cuda.is_bf16_supported() else "fp32")
        return cls(f"cuda:{index}", precision, join_processes(cpu=False))


@dataclass(frozen=True)
class MpsPlacement(Placement):
    """The GPU of an Apple processor, in one process."""

    @classmethod
    def of(cls, device: str, precision: str) -> MpsPlacement:
        """`auto` is float32.

        Raises:
            ConfigError: torch finds none.
        """
        _check_plain(device)
        if not torch.backends.mps.is_available():
            raise ConfigError("torch finds no GPU of Apple's here", "give the device as cpu")
        if expected_processes() > 1:  # each would take itself for the only one, and write
            raise ConfigError("several processes cannot share `mps`", "give the device as cpu")
        return cls("mps", "fp32" if precision == "auto" else precision)


def _check_plain(device: str) -> None:
    if ":" in device:
        raise ConfigError(f"there is no device `{device}`", f"give {device.partition(':')[0]}")


def _no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA; install a build with it, or give the device as cpu"
    return "look at the driver, or give the device as cpu"


def _launched() -> str | None:
    """The precision that `accelerate launch` was told, if it was."""
    said = os.environ.get(_LAUNCHED_WITH, "no")
    return said if said in _TYPES else None


PLACEMENTS: dict[str, Callable[[str, str], Placement]] = {
    "cpu": CpuPlacement.of,
    "cuda": CudaPlacement.of,
    "mps": MpsPlacement.of,
}
"""Kind of device -> its placement, from the device, such as `cuda:1`, and a precision: `auto`, `bf16`, `fp16` or `fp32`."""

AUTO = "auto"


def placement_of(device: str | None, precision: str) -> Placement:
    """The placement of a device; None and `auto` take the best one here.

    Raises:
        ConfigError: no such device, or one that does not compute in that precision.
    """
    wanted = best_device() if device in (None, AUTO) else device
    assert wanted is not None
    return find_entry(PLACEMENTS, wanted.partition(":")[0], "device")(wanted, precision)


def best_device() -> str:
    """Kind of the device that `auto` takes: a GPU if torch finds one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def found_devices() -> tuple[str, ...]:
    """What torch finds here, the device of `auto` first: names, memory, and whether bfloat16 is native."""
    gpus = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        kind = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        gpus.append(f"cuda:{index} {about.name}, {about.total_memory / 2**30:.0f} GiB, {kind}")
    if torch.backends.mps.is_available():
        gpus.append("mps")
    kind = "bf16" if _native_bf16() else "no native bf16"
    return (*gpus, f"cpu, {torch.get_num_threads()} threads, {kind}")


def _native_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by itself."""
    return any(bool(getattr(torch.cpu, probe, bool)()) for probe in _BF16_PROBES)


def to_tensors(arrays: Mapping[str, NDArray[Any]], like: Any) -> dict[str, Tensor]:
    """Arrays as tensors on the device of a model; they share memory where they can."""
    device = next(like.parameters()).device
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any device as an array, without its gradient."""
    array: NDArray[Any] = np.asarray(tensor.detach().cpu().numpy())
    return array
