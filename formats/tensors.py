"""The parts of an artifact as frozen values with their invariants: codes, masks, backbone and patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import (
    CODE_BITS,
    THREE_BITS,
    ZERO_FREE_BITS,
    code_limit,
    pack_bits,
    pack_codes,
    row_bytes,
    unpack_bits,
)
from maskpack.formats.checks import check_dense, check_over, check_widths
from maskpack.formats.counts import MaskCount
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.draw import LARGEST_SEED
from maskpack.formats.errors import ArtifactError
from maskpack.formats.units import Units


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A weight matrix as signed integers: `weight[o, i] = codes[o, i] * scales[o, i // group]`.

    Codes are symmetric, so a zero code is an exact zero; that is what a mask writes. At 2 bits and below a tensor may be
    *zero-free*: its codes are the odd numbers +-1 and +-3 (2 bits) or +-1 (1 bit), and every 0 among them is the work of a
    mask. Codes of 3 bits, of a table that is looked up, are always zero-free.

    Attributes:
        codes: int8 `(o, i)`, within +-limit.
        scales: float16 or float32 `(o, g)`, finite and not negative, `g = ceil(i / group)`.
        bits: width of a stored code.
        group: consecutive inputs of one row that share a scale; `i` for one scale a row.
        zero_free: whether the stored codes leave out 0.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.floating]
    bits: int
    group: int
    zero_free: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (ZERO_FREE_BITS if self.zero_free else CODE_BITS) or self.limit < 1:
            kind = "zero-free codes" if self.zero_free else "codes"
            raise ArtifactError(f"{kind} of {self.bits} bits are not supported")
        codes = self.codes
        if codes.dtype != np.int8 or codes.ndim != 2 or 0 in codes.shape:
            raise ArtifactError(f"codes are {codes.dtype} {codes.shape}, expected a matrix of int8")
        rows, width = codes.shape
        if not 1 <= self.group <= width:
            raise ArtifactError(f"group of {self.group} weights in rows of {width}")
        expected = (rows, -(-width // self.group))
        if self.scales.shape != expected or self.scales.dtype not in (np.float16, np.float32):
            raise ArtifactError(
                f"scales are {self.scales.dtype} {self.scales.shape}, "
                f"expected float16 or float32 {expected}"
            )
        if not (np.isfinite(self.scales).all() and (self.scales >= 0).all()):
            raise ArtifactError("a scale is negative, infinite or not a number")
        if int(codes.min()) < -self.limit or int(codes.max()) > self.limit:
            raise ArtifactError(f"a code lies outside +-{self.limit} for {self.bits} bits")
        if self.zero_free and bool(((codes & 1 == 0) & (codes != 0)).any()):
            raise ArtifactError("a zero-free code is even")

    @property
    def limit(self) -> int:
        """The largest magnitude of a code."""
        return code_limit(self.bits, zero_free=self.zero_free)

    @property
    def shape(self) -> tuple[int, int]:
        """`(o, i)`."""
        return (int(self.codes.shape[0]), int(self.codes.shape[1]))

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def features(self) -> tuple[str, ...]:
        """What an artifact with such a table `requires`."""
        return (THREE_BITS,) if self.bits == 3 else ()

    @property
    def code_bytes(self) -> int:
        """Bytes of its codes in a file."""
        return self.shape[0] * row_bytes(self.shape[1], self.bits)

    def take(self, rows: NDArray[np.int64]) -> QuantTensor:
        """Some of its rows: codes and scales as they are."""
        return replace(self, codes=self.codes[rows], scales=self.scales[rows])

    def pack(self) -> NDArray[np.uint8]:
        """The codes as a file stores them, `(o, ceil(i * bits / 8))`."""
        return pack_codes(self.codes, self.bits, zero_free=self.zero_free)

    def expanded_scales(self) -> NDArray[np.float32]:
        """One float32 scale a weight: `(o, i)`."""
        wide = np.repeat(self.scales.astype(np.float32), self.group, axis=1)
        return np.asarray(wide[:, : self.shape[1]])

    def dequantize(self) -> NDArray[np.float32]:
        """The weights as float32 `(o, i)`: one multiplication each, nothing else."""
        rows, width = self.shape
        wide = self.codes.astype(np.float32)
        if width % self.group:
            wide *= self.expanded_scales()
        else:  # without a scale for each weight, which would take as much memory as the weights
            blocks = wide.reshape(rows, -1, self.group)
            blocks *= self.scales.astype(np.float32)[:, :, None]
        return wide

    def with_gains(self, gains: NDArray[np.float16]) -> QuantTensor:
        """The same codes with every scale of row `r` multiplied by `gains[r]`, in float32."""
        return replace(self, scales=self.scales_with(gains))

    def scales_with(self, gains: NDArray[np.float16]) -> NDArray[np.float32]:
        """Scales `(o, g)` times `gains (o)`: one float32 product each.

        Raises:
            ArtifactError: another number of rows, or a product that float32 cannot hold.
        """
        if gains.shape != (self.shape[0],):
            raise ArtifactError(f"gains of {gains.shape} do not fit weights of {self.shape}")
        with np.errstate(over="ignore"):
            scales = self.scales.astype(np.float32) * gains.astype(np.float32)[:, None]
        if not np.isfinite(scales).all():
            raise ArtifactError("a scale times its gain is infinite")
        return scales


MOST_UNPACKED = 2**28
"""Codes that a backbone holds as bytes; those of a larger one stay packed."""


@dataclass(frozen=True, eq=False)
class BitMask:
    """One bit a weight, 1 = keep, packed by rows.

    Attributes:
        packed: uint8 `(o, ceil(i / 8))`, least significant bit first.
        shape: `(o, i)` of the matrix it covers.
    """

    packed: NDArray[np.uint8]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        expected = (self.shape[0], -(-self.shape[1] // 8))
        if self.packed.dtype != np.uint8 or self.packed.shape != expected:
            raise ArtifactError(
                f"packed mask is {self.packed.dtype} {self.packed.shape}, expected uint8 {expected}"
            )

    @classmethod
    def from_bool(cls, keep: NDArray[np.bool_]) -> BitMask:
        """Pack `keep (o, i)`; inverse of `to_bool`."""
        return cls(pack_bits(keep), (int(keep.shape[0]), int(keep.shape[1])))

    def to_bool(self) -> NDArray[np.bool_]:
        """Unpack to bool `(o, i)`; inverse of `from_bool`."""
        return unpack_bits(self.packed, self.shape[1])

    @property
    def zeros(self) -> int:
        """How many weights this mask removes."""
        return self.shape[0] * self.shape[1] - int(np.bitwise_count(self.packed).sum())

    def removed(self, tensor: QuantTensor) -> NDArray[np.bool_]:
        """Where this mask removes a weight, `(o, i)`: a weight that is already 0 does not count."""
        self._check_fits(tensor)
        removed: NDArray[np.bool_] = ~self.to_bool() & (tensor.codes != 0)
        return removed

    def apply(self, tensor: QuantTensor) -> QuantTensor:
        """`tensor` with every masked code set to 0; its scales are shared, not copied."""
        self._check_fits(tensor)
        codes = np.where(self.to_bool(), tensor.codes, np.int8(0))
        return QuantTensor(codes, tensor.scales, tensor.bits, tensor.group, tensor.zero_free)

    def _check_fits(self, tensor: QuantTensor) -> None:
        if tensor.shape != self.shape:
            raise ArtifactError(f"a mask of {self.shape} does not fit weights of {tensor.shape}")


Dense = Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True, eq=False)
class Backbone:
    """Integer weights that all tasks share.

    Attributes:
        linears: parameter name -> weights that a mask may cover.
        embeddings: parameter name -> quantised tables that no mask covers.
        dense: parameter name -> float16 biases and LayerNorm parameters.
        seed: that parameters are drawn from, so that a file names it in place of them (`drawn.py`); what else they hold is
            stored. None: all is.
    """

    linears: Mapping[str, QuantTensor]
    embeddings: Mapping[str, QuantTensor]
    dense: Dense
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise ArtifactError(f"the seed {self.seed} is not in 0 ... {LARGEST_SEED}")
        names = [*self.linears, *self.embeddings, *self.dense]
        if len(set(names)) != len(names):
            raise ArtifactError("a parameter of the backbone is stored twice")
        if not self.linears:
            raise ArtifactError("the backbone holds no weight that a mask could cover")
        check_widths({name: one.bits for name, one in self.linears.items()}, CODE_BITS)
        check_dense(self.dense, "backbone")

    @property
    def features(self) -> tuple[str, ...]:
        """What an artifact of it `requires`."""
        tables = {name for one in self.embeddings.values() for name in one.features}
        return tuple(sorted(tables | ({DRAWN} if self.seed is not None else set())))

    @property
    def is_large(self) -> bool:
        """Whether its floats should not be in memory together."""
        codes = (*self.linears.values(), *self.embeddings.values())
        return sum(tensor.size for tensor in codes) > MOST_UNPACKED

    def without(self, module: str) -> Backbone:
        """The same without the parameters of a module, such as `pooler`, that a task does not use."""
        inside = f"{module}."
        return Backbone(
            {name: each for name, each in self.linears.items() if not name.startswith(inside)},
            {name: each for name, each in self.embeddings.items() if not name.startswith(inside)},
            {name: each for name, each in self.dense.items() if not name.startswith(inside)},
            self.seed,
        )

    @property
    def maskable(self) -> int:
        """Weights that a mask may cover."""
        return sum(tensor.size for tensor in self.linears.values())


@dataclass(frozen=True, eq=False)
class Patch:
    """All that one task adds: its masks, its dense head, and other values that it learned.

    Attributes:
        masks: parameter name -> mask over the backbone's linear of that name; a linear without a
            mask keeps all its weights.
        head: parameter name -> float16 tensor of the task-specific layers.
        dense: parameter name -> float16 bias or LayerNorm parameter that stands in for the
            backbone's.
        gains: parameter name of a linear -> float16 `(o)`, above 0: factors of its rows' scales.
        units: whole units that the masks remove, and those that stay; None: the task knows of none. The masks hold
            their weights' bits too, so that only what stores or shrinks a task reads this.
    """

    masks: Mapping[str, BitMask]
    head: Dense
    dense: Dense = field(default_factory=dict)
    gains: Dense = field(default_factory=dict)
    units: Units | None = None

    def __post_init__(self) -> None:
        check_dense(self.head, "head")
        check_dense(self.dense, "patch")
        check_dense(self.gains, "gains")
        for name, gain in self.gains.items():
            if not (gain > 0).all():
                raise ArtifactError(f"a gain of `{name}` is not above 0")

    def check_fits(self, backbone: Backbone) -> None:
        """Raise ArtifactError unless every part lies over a backbone tensor of its shape."""
        linears = {name: tensor.shape for name, tensor in backbone.linears.items()}
        check_over("mask", {n: m.shape for n, m in self.masks.items()}, linears)
        rows = {name: (shape[0],) for name, shape in linears.items()}
        check_over("gains", {n: g.shape for n, g in self.gains.items()}, rows)
        for name, gain in self.gains.items():
            backbone.linears[name].scales_with(gain)  # an infinite product is refused here
        shapes = {name: tensor.shape for name, tensor in backbone.dense.items()}
        check_over("value", {n: d.shape for n, d in self.dense.items()}, shapes)
        if self.units is not None:
            self.units.check_within(linears)

    def over(self, backbone: Backbone) -> Backbone:
        """The backbone as this task sees it: codes masked, scales and dense parameters its own."""
        self.check_fits(backbone)
        linears = {name: self.linear_over(backbone, name) for name in backbone.linears}
        return Backbone(linears, backbone.embeddings, {**backbone.dense, **self.dense})

    def linear_over(self, backbone: Backbone, name: str) -> QuantTensor:
        """One matrix of the backbone as this task sees it."""
        tensor = backbone.linears[name]
        if name in self.masks:
            tensor = self.masks[name].apply(tensor)
        return tensor.with_gains(self.gains[name]) if name in self.gains else tensor

    def check_counts(self, task: str, *, zeros: int, weights: int) -> None:
        """Raise ArtifactError unless the masks have these counts."""
        if (zeros, weights) != (self.count.zeros, self.count.weights):
            raise ArtifactError(
                f"task `{task}` holds {self.count.zeros} zeros of {self.count.weights}, "
                f"the manifest says {zeros} of {weights}"
            )

    @property
    def count(self) -> MaskCount:
        """Weights and zeros of the masks."""
        return MaskCount.of(self.masks)
