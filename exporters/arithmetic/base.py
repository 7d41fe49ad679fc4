"""Arithmetics of a graph's linears, and tolerances. Imports nothing heavy, because tolerances are options too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ConfigError, QuantTensor
from maskpack.formats.bits import unpack_codes

Read = Callable[[str], NDArray[Any] | None]
"""Name of an initialiser of a graph -> its values, or None if the graph has none of that name."""


@dataclass(frozen=True)
class Tolerance:
    """How far a graph may be from the masked torch model.

    Attributes:
        atol: largest absolute difference of a logit; None checks no single value.
        max_drop: largest loss of the main metric on the evaluation data, in points (0.01).
        rtol: largest error of the logits of an input, root mean square over root mean square; None
            checks none.
        rows: number of evaluation rows that may always be lost: of a hundred rows one is a point.
    """

    atol: float | None
    max_drop: float
    rtol: float | None = None
    rows: int = 0

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if value is not None and not value > 0:
                raise ConfigError(f"`{name}` is {value}, expected a number above 0")
        if not self.max_drop >= 0:
            raise ConfigError(f"`max_drop` is {self.max_drop}, expected 0 or more points")

    @classmethod
    def of(
        cls,
        compute: str,
        *,
        atol: float | None = None,
        max_drop: float | None = None,
        rtol: float | None = None,
    ) -> Tolerance:
        """The user's tolerances, or the defaults of an arithmetic.

        fp32 must be exact up to rounding. int8 rounds activations, so that single logits move by
        a few tenths; there the metric decides, and `rtol` stops a broken graph where there is no
        evaluation data.
        """
        from maskpack.exporters.arithmetic import find_arithmetic  # noqa: PLC0415 - entries are heavy

        usual = find_arithmetic(compute).tolerance
        return cls(
            usual.atol if atol is None else atol,
            usual.max_drop if max_drop is None else max_drop,
            usual.rtol if rtol is None else rtol,
            usual.rows if max_drop is None else 0,
        )

    def allowed_drop(self, rows: int) -> float:
        """Points that the metric may lose on an evaluation split of `rows`.

        >>> Tolerance(None, 0.5, rows=2).allowed_drop(100)
        2.0
        """
        return max(self.max_drop, 100.0 * self.rows / rows)


ROUNDED = Tolerance(atol=None, max_drop=0.5, rtol=0.25, rows=2)
"""The default tolerance of an arithmetic that rounds activations."""


def stored_codes(read: Read, module: str, tensor: QuantTensor) -> NDArray[np.int8] | None:
    """The codes of a module as a graph stores them, flat: a byte each, or in their own width."""
    codes = read(f"{module}.codes")
    if codes is not None:
        return codes.reshape(-1)
    fields = read(f"{module}.fields")
    if fields is None:
        return None
    count = tensor.size
    unpacked = unpack_codes(fields[None], tensor.bits, count, zero_free=tensor.zero_free)
    return np.asarray(unpacked[0])


def own_codes(
    read: Read, module: str, stored: NDArray[np.int8], tensor: QuantTensor
) -> NDArray[np.bool_]:
    """Where a graph's codes `(i, o)` are the tensor's own."""
    del read, module
    return np.asarray(stored == tensor.codes.T)


def any_column(name: str, tensor: QuantTensor) -> int:
    """Columns that stay or go together: each alone."""
    del name, tensor
    return 1


@dataclass(frozen=True)
class Arithmetic:
    """How the linears of a graph compute.

    Attributes:
        name: as options spell it.
        emit: emits `x @ W.T` without bias before a node and returns its value; `EmitLinear` in
            `exporters/graph/passes.py`.
        tolerance: the default tolerance.
        masks_as_inputs: whether masks may come with every run; else its weights are constants.
        operator: by which a graph of it is recognised; None: a graph without the operator of another entry.
        divides: whether outlier channels of activations are divided before they are rounded.
        codes: the codes of a module as a graph of it stores them, flat; zeros are counted in them.
        dequantize: makes the pass that replaces its products by float products; None if they are float.
        stored: type of constants by which a graph of it is recognised, as ONNX numbers it, where it has no operator.
        folded_only: whether its graphs hold their masked weights, so that tasks cannot share them.
        finish: of a whole graph: the same in its arithmetic; None: the linears are all.
        block: name and weights of a linear -> columns that can only be left out together.
        fuses_attention: whether its graphs run on CPUs, whose attention operator is fast without padding.
        tied: emits the product with a table of embeddings that is a decoder too, `EmitTied` in `exporters/graph/passes.py`; None: in
            floats, as the table is read.
        fits: where codes `(i, o)` that a graph stores of a module stand for the masked weights of a tensor `(o, i)`.
    """

    name: str
    emit: Callable[..., Any]
    tolerance: Tolerance
    masks_as_inputs: bool = False
    operator: str | None = None
    divides: bool = False
    codes: Callable[[Read, str, QuantTensor], NDArray[np.int8] | None] = stored_codes
    dequantize: Callable[[Any], Any] | None = None
    stored: int | None = None
    folded_only: bool = False
    finish: Callable[[Any], Any] | None = None
    block: Callable[[str, QuantTensor], int] = any_column
    fuses_attention: bool = False
    fits: Callable[[Read, str, NDArray[np.int8], QuantTensor], NDArray[np.bool_]] = own_codes
    tied: Callable[..., Any] | None = None
