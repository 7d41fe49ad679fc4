"""Options of quantisation as frozen values, each declared once. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from maskpack.formats import ConfigError
from maskpack.formats.bits import CODE_BITS, EMBEDDING_BITS
from maskpack.formats.draw import LARGEST_SEED
from maskpack.formats.lazy import LazyTable, NamesAfter
from maskpack.formats.options import Opt, Options, listed

AUTO = "auto"
_HERE = "maskpack.compressor.quantization"
QUANTIZERS: LazyTable[Any] = LazyTable(
    **{
        "minmax": f"{_HERE}:MINMAX",
        "minmax-tensor": f"{_HERE}:MINMAX_TENSOR",
        "mse": f"{_HERE}:MSE",
        "hqq": f"{_HERE}:HQQ",
        "dorefa": f"{_HERE}:DOREFA",
        "gptq": f"{_HERE}:GPTQ",
    }
)
"""Name -> `Quantizer`, loaded on first use."""


_REFINE_STEPS = 600


@dataclass(frozen=True)
class CodesConfig(Options):
    """How weights become codes."""

    bits: Annotated[
        int | None,
        Opt(
            "Start from the linears quantised to so many bits.",
            one_of=CODE_BITS,
            default="the float model",
        ),
    ] = None
    group: Annotated[
        int,
        Opt("Weights that share a scale; 0: a row at 8 bits, else 64.", within="[0, inf)"),
    ] = 0
    quantizer: Annotated[
        str,
        Opt(
            "Method of quantisation.",
            one_of=NamesAfter(AUTO, QUANTIZERS),
            default="auto: chosen by the bits",
        ),
    ] = AUTO
    embedding_bits: Annotated[
        int | str,
        Opt(
            "Bits of a weight of the token embeddings, auto: 4 for tokens that the calibration text needs often, 2 for the "
            "others; other tables keep 8.",
            one_of=EMBEDDING_BITS,
            words=(AUTO,),
        ),
    ] = 8
    calibration: Annotated[
        str | None,
        Opt(
            "Text file, one sentence a line, of no task, for gptq, for refinement and for `embedding_bits` auto; of a model of images a folder of images.",
            default="shipped samples, or the task's images",
            path=True,
        ),
    ] = None
    refine: Annotated[
        int | None,
        Opt(
            "Steps in which 2- and 1-bit codes, and rows of token embeddings below 8 bits, learn to copy the float model on "
            "these; 0: none.",
            within="[0, inf)",
            default=f"{_REFINE_STEPS}, of wider linears 0",
        ),
    ] = None
    random: Annotated[
        int | None,
        Opt(
            "Draw the weights from this seed and read none: a hidden network. The artifact holds the seed in their place; at 1 bit they are signs.",
            within=f"[0, {LARGEST_SEED}]",
            default="the model's weights",
            later=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random is None:
            return
        chosen = {"group": self.group != 0, "quantizer": self.quantizer != AUTO}
        chosen |= {"calibration": self.calibration is not None, "refine": bool(self.refine)}
        chosen["embedding_bits"] = self.embedding_bits == AUTO
        for name, given in chosen.items():
            if given:
                raise ConfigError(
                    f"`{name}` says how weights become codes, and `random` draws codes",
                    "leave one of them out",
                )


def _bits_by_pattern(value: Mapping[str, Any]) -> str | None:
    """What is wrong with `bits_override`, if anything is."""
    right = all(type(bits) is int and bits in CODE_BITS for bits in value.values())
    return None if right else f"a mapping of patterns to {listed(CODE_BITS)} bits"


@dataclass(frozen=True)
class BackboneConfig(CodesConfig):
    """How a pretrained encoder becomes integers; fixed once an artifact exists."""

    bits: Annotated[
        int, Opt("Bits of a backbone weight.", one_of=CODE_BITS, default="8, or the artifact's")
    ] = 8
    bits_override: Annotated[
        Mapping[str, int],
        Opt(
            "PATTERN=BITS for linears whose names match, such as *.layer.0.*=4; repeatable.",
            check=_bits_by_pattern,
        ),
    ] = field(default_factory=dict)

    @property
    def refine_steps(self) -> int:
        """Steps of refinement, with the default resolved."""
        if self.random is not None:
            return 0
        refined = self.quantizer == AUTO or QUANTIZERS[self.quantizer].refined
        usual = _REFINE_STEPS if refined else 0
        return usual if self.refine is None else self.refine
