"""From a restored classifier to a graph with masked integer weights: trace, then rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import onnx
import onnx_ir as ir
from onnx_ir.passes import PassError, Sequential, common

from maskpack.exporters.graph.nbits import emit_nbits
from maskpack.exporters.graph.passes import (
    EmitLinear,
    MaskLinears,
    QuantizeEmbeddings,
    Shared,
    emit_fp32,
    emit_int8,
)
from maskpack.exporters.graph.trace import trace
from maskpack.exporters.graph.tuning import GeluInFusedOrder, ResidualAsSum
from maskpack.exporters.options import Compute
from maskpack.formats import ExportError, QuantTensor
from maskpack.formats.writer import write_bytes

Value = TypeVar("Value")

EMIT: dict[Compute, EmitLinear] = {
    Compute.INT8: emit_int8,
    Compute.FP32: emit_fp32,
    Compute.NBITS: emit_nbits,
}


def rewrite(
    model: Any,
    *,
    linears: Mapping[str, QuantTensor],
    embeddings: Mapping[str, QuantTensor],
    compute: Compute,
    shared: Shared,
) -> ir.Model:
    """Trace a classifier and put integer weights in place of its floats.

    Args:
        model: the classifier, in evaluation mode.
        linears: parameter name in the classifier -> weights, not masked.
        embeddings: the same for the tables.
        compute: arithmetic of the linears.
        shared: masks and what else the linears share.
    """
    passes = Sequential(
        MaskLinears(linears, EMIT[compute], shared),
        QuantizeEmbeddings(embeddings),
        ResidualAsSum(),
        GeluInFusedOrder(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),  # what all linears share may stand after its first reader
    )
    traced = trace(model)
    try:
        return passes(traced).model
    except PassError as error:
        if isinstance(error.__cause__, ExportError):
            raise error.__cause__ from None
        raise


def serialize(model: ir.Model) -> bytes:
    """The graph as checked ONNX bytes.

    Raises:
        ExportError: the checker refuses it, or it passes protobuf's 2 GB.
    """
    data = _bytes_of(model)
    _check(data)
    return data


def write_graph(model: ir.Model, path: Path) -> None:
    """Write a graph beside the file that its shared tensors lie in, and check both.

    Raises:
        ExportError: as `serialize`; or the shared file does not hold what the graph points to.
    """
    write_bytes(path, _bytes_of(model))
    _check(str(path))


def _bytes_of(model: ir.Model) -> bytes:
    proto = ir.serde.serialize_model(model)
    if proto.ByteSize() >= 2**31:
        raise ExportError(f"the graph has {proto.ByteSize()} bytes, more than a file may hold")
    told = {tensor.name for tensor in proto.graph.initializer}
    values = [value for value in proto.graph.value_info if value.name not in told]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)  # a constant says itself what it is
    return bytes(proto.SerializeToString(deterministic=True))


def _check(graph: bytes | str) -> None:
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {str(error).splitlines()[0]}") from error


def module_of(base: str, parameter: str) -> str:
    """Name of the module inside the classifier that a weight inside the encoder belongs to."""
    return f"{base}.{parameter.removesuffix('.weight')}"


def under(base: str, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Names inside the encoder to names inside the classifier."""
    return {f"{base}.{name}": tensor for name, tensor in tensors.items()}
