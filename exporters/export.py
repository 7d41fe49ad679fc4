"""An artifact's task to a folder that ONNX Runtime and Optimum load: trace, rewrite, write, verify.

The folder holds `model.onnx`, `config.json` with the label names, the tokenizer, `task.json` for
`maskpack.runtime`, and the report. It is built in a hidden folder and renamed when it is complete. A graph
outside its tolerance is kept as `<out>.failed`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from maskpack.exporters.graph.builder import GraphBuilder
from maskpack.exporters.layouts import find_layout
from maskpack.exporters.layouts.base import TaskGraph
from maskpack.exporters.options import OPSET, ExportRequest, Layout, SharedRequest
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.verify import Subject, verify
from maskpack.exporters.vocabularies import check_numbers_of_source
from maskpack.formats import Artifact, ConfigError, DataError, ExportError, TaskEntry, open_artifact
from maskpack.formats.codec import encoded_size
from maskpack.formats.files import rename, scratch_folder
from maskpack.formats.writer import check_free, check_space, check_writable, new_folder, write_bytes
from maskpack.models.sentence_files import write_sentence_files
from maskpack.runtime.task import BASE, GRAPH, TASK_CONFIG, TOKENIZER, TaskConfig, TaskFiles
from maskpack.tasks.context import ModelContext, task_config
from maskpack.tasks.data.columns import plain_columns
from maskpack.tasks.evaluation.evaluate import prefixes_of, task_of, texts_of, windows_of
from maskpack.tasks.preprocess import Preprocessor
from maskpack.tasks.trim import trim_for_tasks
from maskpack.tasks.types import type_of


def export_onnx(request: ExportRequest) -> Report | None:
    """Export one task; return the report of `verify`, or None without verification.

    Raises:
        MaskpackError: the artifact, the task or the output folder is wrong. A graph that is
            outside its tolerance raises nothing: the report says so, and the folder is called
            `<out>.failed`.
    """
    whole = open_artifact(request.artifact)
    _check_place(request.out, whole)
    with _with_tokens(whole, (request.task,), request.vocab) as artifact:
        if request.vocab and request.verify and request.reference is not None:
            check_numbers_of_source(request.reference, artifact)  # before the graph is made
        return _export_from(artifact, request)


@contextmanager
def _with_tokens(
    artifact: Artifact, tasks: Sequence[str], vocab: Sequence[Path]
) -> Iterator[Artifact]:
    """The artifact, or for as long as the export takes one that holds the tasks and the tokens that their texts need."""
    if not vocab:
        yield artifact
        return
    with scratch_folder() as folder:
        yield trim_for_tasks(artifact, tasks, vocab, Path(folder) / "artifact")


def _export_from(artifact: Artifact, request: ExportRequest) -> Report | None:
    context = ModelContext.of_artifact(artifact)
    with new_folder(request.out) as build:
        write_folder(
            artifact,
            context,
            request.task,
            build,
            compute=request.compute,
            opset=request.opset,
            fused=request.fused,
            cut=request.cut_positions,
        )
        report = None
        if request.verify:
            subject = Subject(
                graph=build / GRAPH,
                files=TaskFiles(build / GRAPH, build / TASK_CONFIG, build / TOKENIZER),
                artifact=artifact,
                task=request.task,
                compute=request.compute,
                tolerance=request.tolerance,
                data=request.data,
                reference=request.reference,
                context=context,
                rows=request.rows,
            )
            report = verify(subject)
            write_bytes(build / REPORT_FILE, report.to_json().encode())
    if report is not None and not report.ok:
        _set_aside(request.out)
    return report


def _check_place(out: Path, artifact: Artifact) -> None:
    """Raise ArtifactError unless `out` can be made and its disk has room for the codes of a graph."""
    check_free(out)
    check_writable(out)
    # a graph holds all codes, also those that a file leaves to its seed
    check_space(out, encoded_size(replace(artifact.backbone, seed=None)))


def failed_folder(out: Path) -> Path:
    """Folder of a graph outside its tolerance."""
    return out.with_name(f"{out.name}.failed")


def _set_aside(out: Path) -> None:
    """Rename a folder with a graph outside its tolerance."""
    failed = failed_folder(out)
    shutil.rmtree(failed, ignore_errors=True)
    rename(out, failed)


def write_folder(
    artifact: Artifact,
    context: ModelContext,
    task: str,
    folder: Path,
    *,
    compute: str,
    opset: int = OPSET,
    fused: bool = True,
    cut: bool = False,
) -> None:
    """Write graph and configurations of one task, and the tokenizer, into an existing folder."""
    entry = artifact.entry(task)
    builder = GraphBuilder(artifact, context, compute, opset=opset, fused=fused, cut=cut)
    config = task_config(artifact, entry)
    if type_of(entry).decoder.vectors:
        write_sentence_files(
            folder, config, max_length=entry.max_length, prefixes=prefixes_of(entry)
        )
    else:
        config.save_pretrained(str(folder))
    for _ in _write_tasks(builder, Layout.FOLDED, [entry], folder):
        pass


def export_shared(request: SharedRequest) -> dict[str, Report]:
    """Export tasks over one `backbone.bin`; return a report for each task.

    Raises:
        MaskpackError: the artifact, a task or the output folder is wrong. Graphs outside their
            tolerance raise nothing: the reports say so, and the folder is called `<out>.failed`.
    """
    whole = open_artifact(request.artifact)
    _check_place(request.out, whole)
    names = [entry.name for entry in _entries(request, whole)]
    with _with_tokens(whole, names, request.vocab) as artifact:
        reports = _export_shared_from(artifact, names, request)
    if not all(report.ok for report in reports.values()):
        _set_aside(request.out)
    return reports


def _export_shared_from(
    artifact: Artifact, names: Sequence[str], request: SharedRequest
) -> dict[str, Report]:
    context = ModelContext.of_artifact(artifact)
    builder = _builder(request, artifact, context)
    entries = [artifact.entry(name) for name in names]
    reports: dict[str, Report] = {}
    with new_folder(request.out) as build:
        for exported in _write_tasks(builder, request.layout, entries, build):
            task = exported.entry.name
            if not request.verify:
                continue
            subject = Subject(
                graph=exported.graph,
                files=exported.files,
                artifact=artifact,
                task=task,
                compute=request.compute,
                tolerance=request.tolerance,
                data=request.data.get(task),
                inputs=exported.inputs,
                context=context,
            )
            reports[task] = verify(subject)
            write_bytes(build / f"{task}.{REPORT_FILE}", reports[task].to_json().encode())
    return reports


def _builder(request: SharedRequest, artifact: Artifact, context: ModelContext) -> GraphBuilder:
    return GraphBuilder(
        artifact,
        context,
        request.compute,
        narrow=request.packed,
        opset=request.opset,
        fused=request.fused,
        trunk_layers=request.trunk_layers,
    )


def _write_tasks(
    builder: GraphBuilder, layout: str, entries: Sequence[TaskEntry], folder: Path
) -> Iterator[TaskGraph]:
    """Write the tokenizer, then the graph and the configuration of each task."""
    preprocessor = builder.context.preprocessor(type_of(entries[0]).preprocessor)
    how = find_layout(layout)
    preprocessor.save(folder)
    if how.several:
        _check_names(entries, folder)
    with builder.constants_in(folder):
        for exported in how.write(builder, entries, folder):
            reader = builder.context.preprocessor(type_of(exported.entry).preprocessor)
            config = config_of(exported, reader)
            write_bytes(exported.config, config.to_json().encode())
            yield exported


def _columns(entry: TaskEntry) -> tuple[str, ...]:
    """Columns that a task was learned from, where a reader of another table would not find them by their names."""
    if type_of(entry).grouped or type_of(entry).own_label:
        return ()
    try:
        columns = (*task_of(entry).texts, task_of(entry).label)
    except DataError:  # these keys of the manifest are free
        return ()
    return () if plain_columns(columns) == columns else columns


def config_of(exported: TaskGraph, preprocessor: Preprocessor) -> TaskConfig:
    """What a device must know of a task: its outputs, and how training reads texts."""
    entry = exported.entry
    return TaskConfig(
        name=entry.name,
        kind=entry.kind,
        labels=entry.labels,
        max_length=entry.max_length,
        pad=preprocessor.pad,
        weights=exported.weights,
        swap=exported.digests,
        base=BASE if exported.digests is None else exported.graph.name,
        trunk=None if exported.trunk is None else exported.trunk[1],
        pad_left=preprocessor.pad_left,
        columns=_columns(entry),
        separator=entry.data.get("separator"),
        texts=texts_of(entry),
        truncation_left=preprocessor.truncation_left,
        split_special_tokens=preprocessor.split_special_tokens,
        prefixes=prefixes_of(entry),
        stride=windows_of(entry).stride,
        no_answer=windows_of(entry).no_answer,
        mask=preprocessor.mask,
    )


def _entries(request: SharedRequest, artifact: Artifact) -> list[TaskEntry]:
    """The manifest's entries of the tasks to export.

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
    """Raise ExportError if a task's configuration would replace a file of the tokenizer."""
    for entry in entries:
        if (folder / f"{entry.name}.json").exists():
            raise ExportError(
                f"the configuration of the task `{entry.name}` would replace the tokenizer's `{entry.name}.json`",
                "give the task another name",
            )
