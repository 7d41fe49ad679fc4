"""An artifact's task to a folder that ONNX Runtime and Optimum load: trace, rewrite, write, verify.

The folder holds `model.onnx`, `config.json` with the label names, the tokenizer, `task.json` for
`maskpack.runtime`, and the report. It is built beside its place and renamed when it is whole. A graph
outside its tolerance is kept under a name that says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import Sequential, common

from maskpack.compressor.families import family_of
from maskpack.compressor.hub import artifact_tokenizer
from maskpack.compressor.restore import restore_task
from maskpack.exporters.calibrate import input_divisors
from maskpack.exporters.options import Compute, ExportRequest
from maskpack.exporters.passes import (
    EmitLinear,
    MaskLinears,
    QuantizeEmbeddings,
    emit_fp32,
    emit_int8,
)
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.trace import trace
from maskpack.exporters.tuning import GeluInFusedOrder, ResidualAsSum
from maskpack.exporters.verify import GRAPH, Subject, verify
from maskpack.formats import Artifact, ExportError, open_artifact
from maskpack.formats.writer import check_free, new_folder, write_bytes
from maskpack.runtime.task import CARD, TaskCard

EMIT: dict[Compute, EmitLinear] = {Compute.INT8: emit_int8, Compute.FP32: emit_fp32}

FAILED_SUFFIX = ".failed"


def export_onnx(request: ExportRequest) -> Report | None:
    """Export one task; return the verdict, or None if none was asked for.

    Raises:
        MaskpackError: the artifact, the task or the place to write is wrong. A graph that is
            outside its tolerance raises nothing: the report says so, and the folder is called
            `<out>.failed`.
    """
    artifact = open_artifact(request.artifact)
    check_free(request.out)
    with new_folder(request.out) as build:
        write_folder(artifact, request.task, build, compute=request.compute)
        report = None
        if request.verify:
            report = verify(
                Subject(
                    build / GRAPH,
                    artifact,
                    request.task,
                    request.compute,
                    request.tolerance,
                    request.data,
                    request.reference,
                )
            )
            write_bytes(build / REPORT_FILE, report.to_json().encode())
    if report is not None and not report.ok:
        failed = failed_folder(request.out)
        shutil.rmtree(failed, ignore_errors=True)
        request.out.replace(failed)
    return report


def failed_folder(out: Path) -> Path:
    """Where a graph outside its tolerance is kept."""
    return out.with_name(out.name + FAILED_SUFFIX)


def write_folder(artifact: Artifact, task: str, folder: Path, *, compute: Compute) -> None:
    """Write graph, configuration, tokenizer and card of one task into an existing folder."""
    model = restore_task(artifact, task, attention="eager")
    graph = build_graph(model, artifact, task, compute=compute)
    write_bytes(folder / GRAPH, serialize(graph))
    model.config.save_pretrained(str(folder))
    tokenizer = artifact_tokenizer(artifact)
    tokenizer.save_pretrained(str(folder))
    entry = artifact.entry(task)
    pad = (int(tokenizer.pad_token_id or 0), str(tokenizer.pad_token or ""))
    card = TaskCard(task, entry.kind, entry.labels, entry.max_length, pad)
    write_bytes(folder / CARD, card.to_json().encode())


def build_graph(model: Any, artifact: Artifact, task: str, *, compute: Compute) -> ir.Model:
    """Trace a restored classifier and put the masked integer weights in place of its floats."""
    base = family_of(artifact.manifest.source.model_type).base
    backbone = artifact.patch(task).over(artifact.backbone)
    linears = _under(base, backbone.linears)
    divisors = None
    if compute is Compute.INT8:
        divisors = input_divisors(model, linears, artifact, artifact.entry(task))
    rewrite = Sequential(
        MaskLinears(linears, EMIT[compute], divisors),
        QuantizeEmbeddings(_under(base, backbone.embeddings)),
        ResidualAsSum(),
        GeluInFusedOrder(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),  # quantised activations may stand after their first reader
    )
    return rewrite(trace(model)).model


def serialize(model: ir.Model) -> bytes:
    """The graph as checked ONNX bytes.

    Raises:
        ExportError: the checker refuses it, or it passes protobuf's 2 GB.
    """
    proto = ir.serde.serialize_model(model)
    if proto.ByteSize() >= 2**31:
        raise ExportError(f"the graph has {proto.ByteSize()} bytes, more than a file may hold")
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    return bytes(proto.SerializeToString(deterministic=True))


def _under(base: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names inside the encoder to names inside the classifier."""
    return {f"{base}.{name}": tensor for name, tensor in tensors.items()}
