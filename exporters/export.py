"""An artifact's task to a folder that ONNX Runtime and Optimum load: trace, rewrite, write, verify.

The folder holds `model.onnx`, `config.json` with the label names, the tokenizer, `task.json` for
`maskpack.runtime`, and the report. It is built beside its place and renamed when it is whole. A graph
outside its tolerance is kept under a name that says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir

from maskpack.compressor.families import family_of
from maskpack.compressor.hub import artifact_tokenizer
from maskpack.compressor.restore import restore_task
from maskpack.exporters.calibrate import input_divisors
from maskpack.exporters.layout import BACKBONE_FILE, SharedBackbone
from maskpack.exporters.options import Compute, ExportRequest, SharedRequest
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.surgery import rewrite, serialize, under, write_graph
from maskpack.exporters.verify import GRAPH, Subject, verify
from maskpack.formats import Artifact, ExportError, TaskEntry, open_artifact
from maskpack.formats.writer import check_free, new_folder, write_bytes
from maskpack.runtime.task import CARD, TaskCard

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
        _set_aside(request.out)
    return report


def failed_folder(out: Path) -> Path:
    """Where a graph outside its tolerance is kept."""
    return out.with_name(out.name + FAILED_SUFFIX)


def _set_aside(out: Path) -> None:
    """Give a folder with a graph outside its tolerance the name that says so."""
    failed = failed_folder(out)
    shutil.rmtree(failed, ignore_errors=True)
    out.replace(failed)


def write_folder(artifact: Artifact, task: str, folder: Path, *, compute: Compute) -> None:
    """Write graph, configuration, tokenizer and card of one task into an existing folder."""
    model = restore_task(artifact, task, attention="eager")
    graph = build_graph(model, artifact, task, compute=compute)
    write_bytes(folder / GRAPH, serialize(graph))
    model.config.save_pretrained(str(folder))
    tokenizer = artifact_tokenizer(artifact)
    tokenizer.save_pretrained(str(folder))
    card = card_of(artifact.entry(task), tokenizer)
    write_bytes(folder / CARD, card.to_json().encode())


def card_of(
    entry: TaskEntry, tokenizer: Any, *, weights: tuple[str, str] | None = None
) -> TaskCard:
    """What `maskpack.runtime` must know of a task.

    Args:
        entry: what the manifest says of it.
        tokenizer: of the artifact.
        weights: file outside the graph that holds its weights, and its digest, or None.
    """
    pad = (int(tokenizer.pad_token_id or 0), str(tokenizer.pad_token or ""))
    left = tokenizer.padding_side == "left"
    return TaskCard(entry.name, entry.kind, entry.labels, entry.max_length, pad, weights, left)


def export_shared(request: SharedRequest) -> dict[str, Report]:
    """Export tasks as small graphs over one `backbone.bin`; return a verdict for each task.

    Raises:
        MaskpackError: the artifact, a task or the place to write is wrong. Graphs outside their
            tolerance raise nothing: the reports say so, and the folder is called `<out>.failed`.
    """
    artifact = open_artifact(request.artifact)
    check_free(request.out)
    entries = [artifact.entry(task) for task in request.tasks or sorted(artifact.manifest.tasks)]
    if not entries:
        raise ExportError(f"`{request.artifact}` holds no task")
    backbone, tokenizer = SharedBackbone(artifact, request.compute), artifact_tokenizer(artifact)
    reports: dict[str, Report] = {}
    with new_folder(request.out) as build:
        backbone.write(build)
        tokenizer.save_pretrained(str(build))
        for entry in entries:
            graph = build / f"{entry.name}.onnx"
            write_graph(backbone.graph(entry), graph)
            card = card_of(entry, tokenizer, weights=(BACKBONE_FILE, backbone.sha256))
            write_bytes(build / f"{entry.name}.json", card.to_json().encode())
            if request.verify:
                subject = Subject(
                    graph, artifact, entry.name, request.compute, request.tolerance, request.data
                )
                reports[entry.name] = verify(subject)
                text = reports[entry.name].to_json()
                write_bytes(build / f"{entry.name}.{REPORT_FILE}", text.encode())
    if not all(report.ok for report in reports.values()):
        _set_aside(request.out)
    return reports


def build_graph(model: Any, artifact: Artifact, task: str, *, compute: Compute) -> ir.Model:
    """Trace a restored classifier and put the masked integer weights in place of its floats."""
    base = family_of(artifact.manifest.source.model_type).base
    backbone = artifact.patch(task).over(artifact.backbone)
    linears = under(base, backbone.linears)
    divisors = None
    if compute is Compute.INT8:
        divisors = input_divisors(model, linears, artifact, artifact.entry(task))
    embeddings = under(base, backbone.embeddings)
    return rewrite(
        model, linears=linears, embeddings=embeddings, compute=compute, divisors=divisors
    )
