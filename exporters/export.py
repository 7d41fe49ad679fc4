"""An artifact's task to a folder that ONNX Runtime and Optimum load: trace, rewrite, write, verify.

The folder holds `model.onnx`, `config.json` with the label names, the tokenizer, `task.json` for
`maskpack.runtime`, and the report. It is built beside its place and renamed when it is whole. A graph
outside its tolerance is kept under a name that says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskpack.exporters.graph.builder import GraphBuilder, serialize
from maskpack.exporters.layouts.shared import BACKBONE_FILE, SharedBackbone, TaskGraph, write_graphs
from maskpack.exporters.layouts.swap import write_swap
from maskpack.exporters.options import Compute, ExportRequest, Layout, SharedRequest
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.verify import GRAPH, Subject, verify
from maskpack.formats import Artifact, ConfigError, ExportError, TaskEntry, open_artifact
from maskpack.formats.writer import check_free, new_folder, write_bytes
from maskpack.models.load import artifact_tokenizer
from maskpack.runtime.task import TASK_CONFIG, TaskConfig
from maskpack.tasks.context import task_config

FAILED_SUFFIX = ".failed"
LAYOUTS = {Layout.SHARED: write_graphs, Layout.SWAP: write_swap}
"""Layouts over one backbone.bin -> what writes the graphs."""


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
    entry = artifact.entry(task)
    write_bytes(folder / GRAPH, serialize(GraphBuilder(artifact, compute).folded(entry)))
    task_config(artifact, entry).save_pretrained(str(folder))
    tokenizer = artifact_tokenizer(artifact)
    tokenizer.save_pretrained(str(folder))
    config = task_config_of(entry, tokenizer)
    write_bytes(folder / TASK_CONFIG, config.to_json().encode())


def task_config_of(entry: TaskEntry, tokenizer: Any, **belongings: Any) -> TaskConfig:
    """What `maskpack.runtime` must know of a task.

    Args:
        entry: what the manifest says of it.
        tokenizer: of the artifact.
        belongings: `weights` and `swap` of the card, for tasks that share files.
    """
    pad = (int(tokenizer.pad_token_id or 0), str(tokenizer.pad_token or ""))
    left = tokenizer.padding_side == "left"
    return TaskConfig(
        entry.name, entry.kind, entry.labels, entry.max_length, pad, pad_left=left, **belongings
    )


def export_shared(request: SharedRequest) -> dict[str, Report]:
    """Export tasks over one `backbone.bin`; return a verdict for each task.

    Raises:
        MaskpackError: the artifact, a task or the place to write is wrong. Graphs outside their
            tolerance raise nothing: the reports say so, and the folder is called `<out>.failed`.
    """
    artifact = open_artifact(request.artifact)
    check_free(request.out)
    entries = _entries(request, artifact)
    builder = GraphBuilder(artifact, request.compute, packed=request.packed)
    backbone, tokenizer = SharedBackbone(builder), artifact_tokenizer(artifact)
    reports: dict[str, Report] = {}
    with new_folder(request.out) as build:
        backbone.write(build)
        tokenizer.save_pretrained(str(build))
        _check_names(entries, build)
        for exported in LAYOUTS[request.layout](builder, backbone, entries, build):
            task, weights = exported.entry.name, (BACKBONE_FILE, backbone.sha256)
            config = task_config_of(
                exported.entry, tokenizer, weights=weights, swap=exported.digests
            )
            write_bytes(build / f"{task}.json", config.to_json().encode())
            if request.verify:
                reports[task] = verify(_subject(request, artifact, exported))
                write_bytes(build / f"{task}.{REPORT_FILE}", reports[task].to_json().encode())
    if not all(report.ok for report in reports.values()):
        _set_aside(request.out)
    return reports


def _entries(request: SharedRequest, artifact: Artifact) -> list[TaskEntry]:
    """What the manifest says of the tasks to export.

    Raises:
        ArtifactError: the artifact has no such task.
        ConfigError: there is data of a task that is not exported.
        ExportError: there is no task at all.
    """
    names = request.tasks or sorted(artifact.manifest.tasks)
    if not names:
        raise ExportError(f"`{request.artifact}` holds no task")
    entries = [artifact.entry(task) for task in names]
    for task in request.data:
        if task not in names:
            raise ConfigError(
                f"there is data of `{task}`, which is not exported", f"exported: {', '.join(names)}"
            )
    return entries


def _check_names(entries: Sequence[TaskEntry], folder: Path) -> None:
    """Raise ExportError if a task's card would replace a file of the tokenizer."""
    for entry in entries:
        if (folder / f"{entry.name}.json").exists():
            raise ExportError(
                f"the card of the task `{entry.name}` would replace the tokenizer's `{entry.name}.json`",
                "give the task another name: `compress rename`",
            )


def _subject(request: SharedRequest, artifact: Artifact, exported: TaskGraph) -> Subject:
    return Subject(
        exported.graph,
        artifact,
        exported.entry.name,
        request.compute,
        request.tolerance,
        request.data.get(exported.entry.name),
        inputs=exported.inputs,
    )
