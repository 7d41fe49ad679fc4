"""The dense float32 graph that an export is compared with, and its quantize_dynamic forms.

Three ways to an ordinary graph without our workarounds for ONNX Runtime:

    an exported graph   its integers as floats: `float_graph`
    an artifact's task  the masked model, traced without quantisation: `masked_graph`
    a fine-tuned model  traced as it is: `dense_graph`

A traced graph gets the forms that other exporters write (stored transposes, GELU in the order that is
fused), so that it is as fast as theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import Sequential, common
from onnxruntime.quantization import quantize_dynamic

from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.graph.builder import serialize
from maskpack.exporters.graph.dequantize import Constants, DequantizeLookUps, StoreProducts
from maskpack.exporters.graph.passes import GeluInFusedOrder, PlainResiduals
from maskpack.exporters.graph.trace import trace
from maskpack.exporters.session import interleaved, make_session, quiet
from maskpack.formats import Artifact, ExportError
from maskpack.formats.errors import first_line
from maskpack.formats.writer import write_bytes
from maskpack.models.families import family_of
from maskpack.tasks.context import load_dense, restore_task
from maskpack.tasks.types import TASK_TYPES, TaskType

PEERS = {
    "quantize_dynamic": {"per_channel": False},
    "quantize_dynamic per channel": {"per_channel": True},
}
"""Name -> options of `onnxruntime.quantization.quantize_dynamic`."""

_MOST_BYTES = 2**31


def float_graph(graph: Path) -> bytes:
    """An exported graph, folded or shared, as the float32 graph of the weights it computes with.

    Codes are multiplied by their scales, so that only the arithmetic differs. Values that
    an export rounds (grouped codes to one scale a channel) are rounded in this reference too; the masked model itself
    is `masked_graph`.

    Raises:
        ExportError: no graph there, or one with an integer product of another form.
    """
    proto = load_whole(graph)
    model = ir.serde.deserialize_model(proto)
    constants = Constants(proto)
    known = ARITHMETICS.values()
    dequantizers = [one.dequantize for one in known if one.dequantize is not None]
    passes = Sequential(
        *(each(constants) for each in dequantizers),
        DequantizeLookUps(constants),
        StoreProducts(constants),
        PlainResiduals(),
        common.RemoveUnusedNodesPass(),
    )
    model = passes(model).model
    kinds = {node.op_type for node in model.graph}
    if left := sorted(kinds & {one.operator for one in known if one.operator is not None}):
        raise ExportError(f"`{graph}` has `{left[0]}` of a form that cannot be widened", _OTHERWISE)
    return _without_shapes(model)


def masked_graph(artifact: Artifact, task: str) -> bytes:
    """A task's masked model in float32.

    Raises:
        MaskpackError: no such task, or torch cannot trace it.
    """
    return _traced(restore_task(artifact, task, attention="eager"))


def dense_graph(model: str, kind: TaskType = TASK_TYPES["classification"]) -> bytes:
    """A fine-tuned model, folder or hub id, as the float32 graph that its user would deploy.

    Args:
        model: the model.
        kind: type of its task.

    Raises:
        MaskpackError: no such model, no head, or torch cannot trace it.
    """
    return _traced(load_dense(model, kind, attention="eager").float().eval())


def _traced(model: Any) -> bytes:
    graph = GeluInFusedOrder()(trace(model, family_of(model.config.model_type))).model
    return _stored(onnx.load_from_string(serialize(graph)))


def _stored(proto: onnx.ModelProto) -> bytes:
    """A graph whose products read stored weights: quantize_dynamic finds none behind a `Transpose`."""
    model = ir.serde.deserialize_model(proto)
    passes = Sequential(StoreProducts(Constants(proto)), common.RemoveUnusedNodesPass())
    return _without_shapes(passes(model).model)


def _without_shapes(model: ir.Model) -> bytes:
    """A graph without the shapes between its nodes, as other exporters leave them out.

    With them ONNX Runtime fuses residuals into a kernel that makes a dense graph a tenth slower (see
    `ResidualAsSum`). And quantize_dynamic turns `Gemm` into `MatMul`, keeps the old shapes and fails on them.
    """
    proto = onnx.load_from_string(serialize(model))
    del proto.graph.value_info[:]
    return bytes(proto.SerializeToString(deterministic=True))


def write_peers(dense: Path, folder: Path) -> dict[str, Path]:
    """quantize_dynamic's graphs of a dense one, written into `folder`.

    Returns:
        Name of `PEERS` -> file.

    Raises:
        ExportError: quantize_dynamic fails.
    """
    source = folder / "stored.onnx"
    write_bytes(source, _stored(load_whole(dense)))
    graphs = {}
    for name, options in PEERS.items():
        graphs[name] = folder / f"{name.replace(' ', '-')}.onnx"
        try:
            with quiet():
                # behind an operator of ONNX Runtime's own no type is inferred
                given = {**options, "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT}}
                quantize_dynamic(source, graphs[name], **given)
        except Exception as error:  # it raises exceptions of any type
            raise ExportError(f"quantize_dynamic fails on `{dense.name}`: {error!r}") from error
    return graphs


def load_whole(graph: Path) -> onnx.ModelProto:
    """A graph with its weights from files beside it.

    Raises:
        ExportError: a file is missing or damaged, or all of it passes protobuf's 2 GB.
    """
    try:
        proto = onnx.load(str(graph))
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"cannot read the graph `{graph}`: {first_line(error)}") from error
    if proto.ByteSize() >= _MOST_BYTES:
        raise ExportError(f"`{graph}` has {proto.ByteSize()} bytes, too many to make others of it")
    return proto


_OTHERWISE = "give the dense model as `artifact` or `against`"


def compare_latency(
    dense: Path, graph: Path, kind: TaskType, *, length: int, runs: int
) -> tuple[float, float]:
    """Milliseconds of a dense model's float32 graph and of an exported graph, batch 1, one thread."""
    sessions = {
        "dense": make_session(dense_graph(str(dense), kind), threads=1),
        "graph": make_session(graph, threads=1),
    }
    times = interleaved(sessions, batch=1, length=length, runs=runs)
    return times["dense"], times["graph"]
