"""`compress export` and `compress verify`: graphs, and the verdict on them."""

from __future__ import annotations

import json as codec
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.sources import ArtifactSource, fetched
from maskpack.cli.task_data import data_by_task, only_task
from maskpack.exporters.options import (
    ExportRequest,
    GraphOptions,
    Layout,
    SharedRequest,
    ToleranceOptions,
)
from maskpack.formats import ConfigError, open_artifact
from maskpack.runtime.task import pick_task

if TYPE_CHECKING:
    from maskpack.exporters.report import GraphFacts, Report, TextCheck

Reference = Annotated[
    str | None, Option(help="Fine-tuned model to compare with as well: folder or hub id.")
]
TaskData = Annotated[
    list[str] | None,
    Option(
        help="Evaluation file, or a folder with a dev file; TASK=PATH where there are several tasks; "
        "repeatable."
    ),
]


_OF_GRAPHS = (
    *(
        "layout",
        "packed",
        "trunk_layers",
        "compute",
        "opset",
        "fused",
        "data",
        "reference",
        "cut_positions",
    ),
    *("atol", "rtol", "max_drop", "verify"),
)
_FLAGS = {"fused": "--plain-attention", "verify": "--no-verify"}
"""Options whose flags have other names."""


@opt.with_options
def export(
    ctx: typer.Context,
    artifact: ArtifactSource,
    task: Annotated[
        list[str] | None,
        Option(
            "--task",
            "-t",
            help="Task; repeatable where a --layout takes several. [all; of another form the only one]",
        ),
    ] = None,
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder to write.")],
    onnx: Annotated[bool, Option("--onnx", help="Write an ONNX graph.")] = False,
    hf: Annotated[
        bool,
        Option(
            "--hf",
            help="Write a plain model for transformers, in float32; of a head behind a mean, and of vectors, for sentence-transformers.",
        ),
    ] = False,
    graph: GraphOptions,
    data: TaskData = None,
    reference: Reference = None,
    vocab: Annotated[
        list[Path] | None,
        Option(
            help="File of texts as they will come, .txt or a table, such as the tasks' training rows: graphs, or a plain model, "
            "hold the tokens that they need, see `compress vocab`; repeatable."
        ),
    ] = None,
    limits: ToleranceOptions,
    json: opt.Json = False,
) -> None:
    """Write one task as a sparse, quantised graph and verify it, or as a plain model.

    The folder of `--onnx` loads in ONNX Runtime and in Optimum. Outside its tolerance the graph is
    kept as OUT.failed and the exit code is 1. `--layout shared` writes several tasks, each a small
    graph over one backbone.bin; `--layout swap` one graph for all of them, which takes a task's mask
    and head with every run; `--layout trunk` a graph of the lower layers, which tasks with masks on the upper
    ones share, and a small graph a task on top. `maskpack.runtime` answers with all layouts. The folder of `--hf`
    loads in transformers, or in sentence-transformers where the head reads a mean of states or the task gives vectors, and holds the masked
    model's weights bit for bit.

    Example: compress export artifact --onnx --task reviews -o reviews-onnx

    Example: compress export artifact --onnx --layout shared --data support=support.csv -o all
    """
    if onnx == hf:
        raise ConfigError("expected one format", "formats: `--onnx`, `--hf`")
    _refuse_idle(ctx, layout=None if hf else graph.layout)
    if hf:
        _export_hf(artifact, _only(task, artifact), out, vocab or (), json=json)
        return
    if not graph.verify:
        _refuse_without_verdict(ctx)
    tolerance = limits.over(graph.compute)
    if graph.layout != Layout.FOLDED:
        folded = (
            ("reference", reference),
            ("cut-positions", graph.cut_positions),
        )
        for option, given in folded:
            if given:
                raise ConfigError(f"`--{option}` is for `--layout folded`")
        names = tuple(task or ())
        rows = data_by_task(data or [], names or sorted(open_artifact(artifact).manifest.tasks))
        shared = SharedRequest(
            artifact,
            names,
            out,
            graph.compute,
            tolerance,
            rows,
            graph.verify,
            packed=graph.packed,
            layout=graph.layout,
            opset=graph.opset,
            fused=graph.fused,
            trunk_layers=graph.trunk_layers,
            vocab=tuple(vocab or ()),
        )
        _export_shared(shared, json=json)
        return
    name = _only(task, artifact)
    from maskpack.exporters.export import export_onnx, failed_folder  # noqa: PLC0415 - torch

    request = ExportRequest(
        artifact=artifact,
        task=name,
        out=out,
        compute=graph.compute,
        tolerance=tolerance,
        data=data_by_task(data or [], [name]).get(name),
        reference=reference,
        verify=graph.verify,
        opset=graph.opset,
        fused=graph.fused,
        vocab=tuple(vocab or ()),
        cut_positions=graph.cut_positions,
    )
    report = export_onnx(request)
    if report is None:
        if json:
            render.json({"ok": None, "out": str(out)})
        render.words(f"wrote {out}, not verified")
        return
    show_report(report, json=json)
    render.words(f"wrote {out if report.ok else failed_folder(out)}")
    if not report.ok:
        raise typer.Exit(1)


def _only(tasks: Sequence[str] | None, artifact: Path) -> str:
    """The task, where one is exported at a time: the one that is named, or the only one there is."""
    if tasks is not None and len(tasks) > 1:
        fact = f"expected one `--task`, {len(tasks)} are given: {', '.join(tasks)}"
        raise ConfigError(fact, "`--layout shared`, `swap` and `trunk` take several")
    more = "; `--layout shared`, `swap` and `trunk` take all"
    return only_task(open_artifact(artifact), tasks[0] if tasks else None, more=more)


def _refuse_idle(ctx: typer.Context, *, layout: str | None) -> None:
    """An option that would change nothing is a misunderstanding; say so before any work.

    Args:
        ctx: of the call.
        layout: of the graphs; None for a plain model.
    """
    if layout not in {None, Layout.FOLDED}:
        return
    names: Iterable[str] = ("packed", "trunk_layers")
    place = "for layouts of several tasks, such as `--layout shared`"
    if layout is None:
        names, place = (
            _OF_GRAPHS,
            "for `--onnx`; a plain model holds the masked weights as they are",
        )
    for name in names:
        if _is_said(ctx, name):
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(f"`{flag}` is {place}")


def _is_said(ctx: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_without_verdict(ctx: typer.Context) -> None:
    """Refuse what only a comparison reads, where none is made."""
    for name in ("data", "reference", "atol", "rtol", "max_drop"):
        if _is_said(ctx, name):
            raise ConfigError(
                f"`--{name.replace('_', '-')}` is for the comparison that `--no-verify` leaves out",
                "leave one of them out",
            )


def _export_shared(request: SharedRequest, *, json: bool) -> None:
    from maskpack.exporters.export import export_shared, failed_folder  # noqa: PLC0415 - torch

    reports = export_shared(request)
    ok = all(report.ok for report in reports.values())
    place = request.out if ok else failed_folder(request.out)
    if json:
        told = {name: codec.loads(report.to_json()) for name, report in reports.items()}
        render.json({"ok": ok if reports else None, "out": str(place), "tasks": told})
    for report in () if json else reports.values():
        show_report(report, json=False)
    render.words(f"wrote {place}" + ("" if reports else ", not verified"))
    if not ok:
        raise typer.Exit(1)


def _export_hf(artifact: Path, task: str, out: Path, vocab: Sequence[Path], *, json: bool) -> None:
    from maskpack.exporters.hf import write_hf  # noqa: PLC0415 - imports torch

    found = write_hf(open_artifact(artifact), task, out, vocab=vocab)
    if json:
        figures = {name: getattr(found, name) for name in ("bytes", "parameters", "zeros")}
        render.json({"out": str(out), **figures})
    else:
        render.data(
            f"{out}: {render.size(found.bytes)}, {found.zeros:,} of {found.parameters:,} "
            "parameters are 0"
        )


@opt.with_options
def verify(
    folder: Annotated[Path, Argument(help="Folder that `compress export` wrote.")],
    artifact: Annotated[
        Path,
        Option(
            "--artifact",
            "-a",
            help="Where it came from: a folder or hub:OWNER/NAME.",
            callback=fetched,
        ),
    ],
    task: Annotated[str | None, Option("--task", "-t", help="Which, of several.")] = None,
    data: TaskData = None,
    reference: Reference = None,
    *,
    limits: ToleranceOptions,
    provider: opt.Providers = None,
    json: opt.Json = False,
) -> None:
    """Compare an exported task, of any layout, with the masked torch model in ONNX Runtime.

    Names, axes, shapes and values, then accuracy on the evaluation data. Exit 1 outside tolerance.

    Example: compress verify reviews-onnx --artifact artifact --task reviews
    """
    from maskpack.exporters.verify import Subject, compute_of, exported  # noqa: PLC0415 - torch
    from maskpack.exporters.verify import verify as run  # noqa: PLC0415

    files = pick_task(folder, task)
    name = files.read_config().name
    graph, inputs = exported(folder, name)
    compute = compute_of(graph)
    subject = Subject(
        graph,
        open_artifact(artifact),
        name,
        compute,
        limits.over(compute),
        data_by_task(data or [], [name]).get(name),
        reference,
        inputs,
        providers=tuple(provider or ()),
        files=files,
    )
    report = run(subject)
    show_report(report, json=json)
    if not report.ok:
        raise typer.Exit(1)


def show_report(report: Report, *, json: bool) -> None:
    """Print a verdict."""
    if json:
        render.data(report.to_json())
        return
    render.table(
        f"{report.task}, {report.compute}: {'within tolerance' if report.ok else 'REFUSED'}",
        ("what", "value"),
        [
            *_graph_rows(report.graph),
            ("session", ", ".join(f"{key} {value}" for key, value in report.session.items())),
            *([] if report.texts is None else [("texts", _read_alike(report.texts))]),
        ],
    )
    if report.values:
        rows = [
            (
                f"{check.batch} x {check.sequence}{', padded' if check.padded else ''}",
                f"{check.max_diff:.2e}",
                f"{check.relative:.2e}",
                f"{check.argmax}/{check.batch}",
            )
            for check in report.values
        ]
        render.table(
            "against torch, random tokens", ("shape", "max difference", "relative", "argmax"), rows
        )
    _show_accuracy(report)
    for finding in report.findings:
        render.data(f"wrong: {finding}")


def _graph_rows(graph: GraphFacts) -> Iterator[tuple[str, str]]:
    """What a verdict says of the file."""
    yield "file", f"{render.size(graph.bytes)}, {graph.nodes} nodes, opset {graph.opset}"
    yield "removed", f"{graph.removed:,} of {graph.mask_zeros:,} weights the mask removes"
    if graph.left_out:
        yield "left out", f"{graph.left_out:,} of them, with their units"
    if graph.longest is not None:
        yield "positions", f"up to {graph.longest} tokens, {graph.cut_bytes:,} bytes less"


def _read_alike(texts: TextCheck) -> str:
    how = "read as in training" if texts.same else "NOT read as in training"
    return f"{texts.rows:,} evaluation rows and {texts.probes} probes {how}"


def _show_accuracy(report: Report) -> None:
    accuracy = report.accuracy
    if accuracy is None:
        if report.ok:
            render.words(
                f"note: accuracy of `{report.task}` was not measured; "
                "give evaluation data with `--data`"
            )
        return
    reference = accuracy.reference
    rows = [
        ("this graph in ONNX Runtime", f"{accuracy.graph:.4f}"),
        ("masked model in torch", f"{accuracy.torch:.4f}"),
        *([] if reference is None else [("reference", f"{reference:.4f}")]),
        ("points lost", f"{accuracy.drop:.2f}"),
        ("same answer", f"{accuracy.agreement:.2%}"),
        ("max difference", f"{accuracy.max_diff:.2e}"),
        ("relative difference", f"{accuracy.relative:.2e}"),
    ]
    render.table(f"{accuracy.metric} on {accuracy.rows} rows", ("what", "value"), rows)
