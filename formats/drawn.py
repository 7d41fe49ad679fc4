"""Weights that are drawn, as the header of a backbone names them: a seed, shapes and scales in place of codes. DRAWN.md has every byte.

`split` finds what of a backbone its seed draws, by drawing it again and comparing; `Drawing.make` is its inverse. So a backbone
of which a part was changed, such as a table that lost tokens, stores that part and draws the rest.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.bits import CODE_BITS, ZERO_FREE_BITS
from maskpack.formats.checks import check_sha, read_flag, read_list, read_shape, read_whole
from maskpack.formats.draw import LARGEST_SEED, drawn_codes, drawn_floats
from maskpack.formats.errors import ArtifactError
from maskpack.formats.mixed_rows import MixedRows
from maskpack.formats.tensors import Backbone, Dense, QuantTensor

_LAW = "uniform"
_FIELDS = {"law", "seed", "sha256"}
_LARGEST = sys.float_info.max  # JSON has longer numbers, which no float holds
_WIDTHS = {*CODE_BITS, *ZERO_FREE_BITS}
_MOST = 2**36  # values: a header of a few bytes must not ask for more memory than there is


@dataclass(frozen=True)
class Drawing:
    """What of a backbone is made from its seed.

    Attributes:
        seed: of all parameters.
        scales: parameter name of drawn codes -> their one scale.
        dense: name of a float16 parameter that is not stored -> `{"shape": [...]}` with the `scale` of drawn codes, or with the
            `value` that all its entries have.
        sha256: of the drawn values as a file would store them, by name; constants are left out.
    """

    seed: int
    scales: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sha256: str = ""

    def header(self) -> dict[str, Any]:
        """What the metadata of a backbone says beside `kind` and `tensors`."""
        about = {"law": _LAW, "seed": self.seed, "sha256": self.sha256}
        return {"drawn": about, "dense": dict(self.dense)}

    def tensor(
        self,
        name: str,
        shape: tuple[int, int],
        bits: int,
        group: int,
        *,
        zero_free: bool,
        scale: float,
    ) -> QuantTensor:
        """Drawn codes `(o, i)` with one scale for all.

        Raises:
            ArtifactError: several scales a row, a width that is not drawn, or a scale that is no float16.
        """
        if group != shape[1] or bits not in _WIDTHS or zero_free is not (bits <= 3):
            raise ArtifactError(f"`{name}` is drawn, with groups of {group} and {bits} bits")
        _check_shape(name, shape)
        scales = np.full((shape[0], 1), _half(name, scale))
        codes = drawn_codes(self.seed, name, shape, bits)
        return QuantTensor(codes, scales, bits, group, zero_free)

    def matrix(self, name: str, spec: Mapping[str, Any]) -> QuantTensor:
        """Drawn codes as a header describes them."""
        bits, group, shape = (
            read_whole(spec["bits"]),
            read_whole(spec["group"]),
            read_shape(spec["shape"]),
        )
        free, scale = read_flag(spec.get("zero_free", False)), self.scales[name]
        if "rare" in spec:
            raise ArtifactError(f"`{name}` is drawn, with rows of two widths")
        return self.tensor(name, shape, bits, group, zero_free=free, scale=scale)

    def floats(self) -> Dense:
        """Float16 parameters that are not stored."""
        return {name: self._floats(name, spec) for name, spec in sorted(self.dense.items())}

    def _floats(self, name: str, spec: Mapping[str, Any]) -> NDArray[np.float16]:
        shape = tuple(read_whole(size) for size in read_list(spec["shape"]))
        _check_shape(name, shape)
        if set(spec) not in ({"shape", "scale"}, {"shape", "value"}):
            raise ArtifactError(f"`{name}` is not stored, and described with {sorted(spec)}")
        if "value" in spec:
            return np.full(shape, _half(name, spec["value"]))
        return drawn_floats(self.seed, name, shape, float(_half(name, spec["scale"])))

    def check(self, backbone: Backbone) -> None:
        """Raise ArtifactError unless the drawn values have the digest of those that the writer drew."""
        found = digest_of(backbone, {*self.scales, *_drawn(self.dense)})
        if found != self.sha256:
            raise ArtifactError(
                f"the weights drawn from seed {self.seed} have the SHA-256 {found[:12]}, the backbone says {self.sha256[:12]}",
                "the file is damaged, or this machine draws other numbers: report it",
            )


def read_drawing(meta: Mapping[str, Any]) -> Drawing | None:
    """What the metadata of a backbone says of drawn weights; None: it stores all. Inverse of `Drawing.header`.

    Raises:
        ArtifactError: another law, or a seed out of range.
        KeyError, TypeError, AttributeError: a field is missing or of another type.
    """
    scales = {name: spec["scale"] for name, spec in meta["tensors"].items() if "scale" in spec}
    if "drawn" not in meta:
        if scales or "dense" in meta:
            raise ArtifactError(
                "the backbone leaves weights out, and names no seed that draws them"
            )
        return None
    about = meta["drawn"]
    if set(about) != _FIELDS or about["law"] != _LAW:
        raise ArtifactError(
            f"the backbone's weights are drawn in a way that this release does not know: {sorted(about.items())}"
        )
    if not 0 <= read_whole(about["seed"]) <= LARGEST_SEED:
        raise ArtifactError(f"the backbone's seed {about['seed']} is not in 0 ... {LARGEST_SEED}")
    check_sha(about["sha256"], "drawn.sha256")
    return Drawing(about["seed"], scales, dict(meta["dense"]), about["sha256"])


def drawing_of(backbone: Backbone) -> Drawing | None:
    """What of a backbone its seed draws, and which float16 parameters hold one value; None without a seed."""
    if backbone.seed is None:
        return None
    bare = Drawing(backbone.seed)
    scales = {
        name: float(tensor.scales.flat[0])
        for name, tensor in (*backbone.linears.items(), *backbone.embeddings.items())
        if _is_drawn(bare, name, tensor)
    }
    dense = {name: spec for name, a in backbone.dense.items() if (spec := _spec(bare, name, a))}
    digest = digest_of(backbone, {*scales, *_drawn(dense)})
    return Drawing(backbone.seed, scales, dense, digest)


def _is_drawn(bare: Drawing, name: str, tensor: QuantTensor) -> bool:
    scales, width = tensor.scales, tensor.shape[1]
    if (
        isinstance(tensor, MixedRows)
        or tensor.group != width
        or tensor.zero_free is not (tensor.bits <= 3)
    ):
        return False
    if scales.dtype != np.float16 or (scales != scales.flat[0]).any():
        return False
    codes = drawn_codes(bare.seed, name, tensor.shape, tensor.bits)
    return np.array_equal(codes, tensor.codes)


def _spec(bare: Drawing, name: str, array: NDArray[np.float16]) -> dict[str, Any] | None:
    """How a header describes a float16 parameter that is not stored; None: it must be."""
    shape, flat = list(array.shape), array.reshape(-1)
    if (flat.view(np.uint16) == flat.view(np.uint16)[0]).all():
        return {"shape": shape, "value": float(flat[0])}
    scale = _scale_of(bare.seed, name, array)
    return None if scale is None else {"shape": shape, "scale": scale}


def _scale_of(seed: int, name: str, array: NDArray[np.float16]) -> float | None:
    """The scale of which drawn codes are multiples that are the array; None: there is none.

    A code times a scale is rounded, so that the scale is looked for among the neighbours of a quotient.
    """
    codes = drawn_floats(seed, name, array.shape, 1.0)
    at = int(np.abs(codes).argmax())
    guess = np.float16(np.float32(array.flat[at]) / np.float32(codes.flat[at]))
    for scale in (guess, *(np.nextafter(guess, np.float16(end)) for end in (-np.inf, np.inf))):
        if np.array_equal(drawn_floats(seed, name, array.shape, float(scale)), array):
            return float(scale)
    return None


def digest_of(backbone: Backbone, names: Iterable[str]) -> str:
    """SHA-256 of the packed codes, or float16 values, of these parameters, in the order of their names."""
    digest, integers = hashlib.sha256(), {**backbone.linears, **backbone.embeddings}
    for name in sorted(names):
        array = integers[name].pack() if name in integers else backbone.dense[name]
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _drawn(dense: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, spec in dense.items() if "scale" in spec]


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if not shape or min(shape) < 1 or math.prod(shape) > _MOST:
        raise ArtifactError(f"`{name}` is not stored, and has the shape {list(shape)}")


def _half(name: str, value: object) -> np.float16:
    """A number of a header that float16 holds exactly."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST:
        raise ArtifactError(f"`{name}` is made from {value!r}, which is no finite number")
    with np.errstate(over="ignore"):
        half = np.float16(value)
    if float(half) != value:
        raise ArtifactError(f"`{name}` is made from {value!r}, which float16 does not hold")
    return half
