"""`compress report`: an artifact or a sweep as one page of HTML for people."""

from __future__ import annotations

import json as codec
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import in_commands
from maskpack.cli.task_data import data_by_task
from maskpack.formats import (
    Artifact,
    ConfigError,
    DataError,
    ExportError,
    MissingPackageError,
    is_artifact,
    open_artifact,
)
from maskpack.formats.writer import check_writable, write_bytes

if TYPE_CHECKING:
    from maskpack.compressor.sweep.table import Table
    from maskpack.exporters.report import Report
    from maskpack.report.view import ArtifactView, TaskView
    from maskpack.tasks.evaluation.evaluate import ErrorAnalysis

_PAGES = {".html", ".htm"}


def report(
    source: Annotated[
        Path, Argument(help="Artifact, or a file of results that `compress sweep` wrote.")
    ],
    out: Annotated[Path, Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    data: Annotated[
        list[str] | None,
        Option(
            help="Evaluation data, or TASK=PATH where there are several tasks; repeatable. "
            "[what ships with the package]"
        ),
    ] = None,
    exported: Annotated[
        list[Path] | None,
        Option("--export", help="Folder of `compress export`, for its verdict; repeatable."),
    ] = None,
    sweep: Annotated[
        Path | None, Option(help="Results of a sweep, to compare an artifact with.")
    ] = None,
    reference: Annotated[
        str | None,
        Option(help="Method that others are compared with. [full fine-tuning, if it is one]"),
    ] = None,
    evaluate: Annotated[
        bool, Option("--evaluate/--no-evaluate", help="Ask the tasks about their data.")
    ] = True,
    png: Annotated[
        Path | None, Option(help="Draw the pictures into this folder as well, as PNG.")
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write an artifact or a sweep as one self-contained page of HTML.

    Of an artifact: bytes of each part, zeros by layer, learning curves, mistakes on the evaluation
    data, reports on exported graphs. Of a sweep: its table and its plots. With --json the same
    figures are printed as well.

    Example: compress report artifact --export tickets-onnx -o report.html
    """
    if out.suffix.lower() not in _PAGES:
        raise ConfigError(f"`{out}` is no name of a page", "give one like `-o report.html`")
    if png is not None:
        from maskpack.report.figures import check_installed  # noqa: PLC0415 - keeps --help fast

        check_installed()
    if not out.parent.is_dir():  # tasks are evaluated for minutes before the page is written
        raise ConfigError(f"no folder `{out.parent}` to write `{out.name}` into", "make it first")
    check_writable(out)
    if png is not None:
        check_writable(png / "picture.png")
    if source.is_file():
        if data or exported or sweep:
            raise ConfigError(
                f"{opt.given(data=data, export=exported, sweep=sweep)} is for the report of an artifact"
            )
        _report_sweep(source, out, reference, png=png, json=json)
    else:
        opened = _open(source)
        tables = _tables(sweep, reference) if sweep is not None else ()
        verdicts = [each for folder in exported or [] for each in _verdicts(folder, opened)]
        analyses = _analyses(opened, data or [], evaluate=evaluate, quiet=quiet)
        _report_artifact(opened, out, analyses, verdicts, tables, png=png, json=json)
    render.words(f"wrote {out}")


def _open(source: Path) -> Artifact:
    if not is_artifact(source):
        raise ConfigError(
            f"`{source}` is neither an artifact nor a file of results",
            "give the folder that `compress fit -o` wrote, or the .jsonl of `compress sweep`",
        )
    return open_artifact(source)


def _report_sweep(
    source: Path, out: Path, reference: str | None, *, png: Path | None, json: bool
) -> None:
    from maskpack.report.page import sweep_page  # noqa: PLC0415 - keeps --help fast
    from maskpack.report.table import as_tree  # noqa: PLC0415

    tables = _tables(source, reference)
    write_bytes(out, sweep_page(tables, source.stem).encode())
    if png is not None:
        _draw(png, tables)
    if json:
        render.json([as_tree(table) for table in tables])


def _report_artifact(
    opened: Artifact,
    out: Path,
    analyses: dict[str, ErrorAnalysis | str],
    verdicts: Sequence[Report],
    tables: Sequence[Table],
    *,
    png: Path | None,
    json: bool,
) -> None:
    from maskpack.report.page import artifact_page  # noqa: PLC0415 - keeps --help fast
    from maskpack.report.view import view_artifact  # noqa: PLC0415

    view = view_artifact(opened)
    write_bytes(out, artifact_page(view, analyses, verdicts, tables).encode())
    if png is not None:
        _draw(png, tables, view.tasks)
    if json:
        tree = _as_tree(view, analyses, verdicts, tables)
        render.json(tree, sort_keys=True)


def _draw(folder: Path, tables: Sequence[Table], tasks: Sequence[TaskView] = ()) -> None:
    from maskpack.report.picture import draw  # noqa: PLC0415 - keeps --help fast

    for path in draw(folder, tables, tasks, kinds=("png",)):
        render.words(f"wrote {path}")


def _tables(source: Path, reference: str | None) -> tuple[Table, ...]:
    from maskpack.compressor.sweep.log import read_log  # noqa: PLC0415
    from maskpack.compressor.sweep.table import tables_of_lines  # noqa: PLC0415

    if not source.is_file():
        raise ConfigError(f"no file `{source}`", "give the .jsonl that `compress sweep` wrote")
    if source.suffix in {".yaml", ".yml"}:
        raise ConfigError(
            f"`{source}` is the plan of a sweep", "give its results, the .jsonl beside it"
        )
    log = read_log(source)
    if log.torn:
        render.words(f"warning: the last line of `{source}` was cut short and is left out")
    try:
        return tables_of_lines(log.lines, reference=reference)
    except ConfigError as error:
        raise ConfigError(f"`{source}`: {error}", error.advice) from error


def _verdicts(folder: Path, opened: Artifact) -> list[Report]:
    """Reports in an exported folder, on tasks of this artifact."""
    from maskpack.exporters.report import REPORT_FILE, Report  # noqa: PLC0415

    files = sorted(folder.glob(f"*{REPORT_FILE}"))
    if not files:
        raise ExportError(
            f"no verdict at `{folder}`",
            "give a folder of `compress export --onnx`, made without `--no-verify`",
        )
    verdicts = []
    for file in files:
        try:
            verdict = Report.from_json(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, DataError) as error:
            raise ExportError(
                f"cannot read `{file}`: {error}",
                "export the task anew, or check it with `compress verify`",
            ) from error
        opened.entry(verdict.task)  # a report on another artifact's export does not count
        verdicts.append(verdict)
    return verdicts


def _analyses(
    opened: Artifact, data: Sequence[str], *, evaluate: bool, quiet: bool
) -> dict[str, ErrorAnalysis | str]:
    """Each task on its evaluation rows, or the reason why it was not evaluated."""
    tasks = sorted(opened.manifest.tasks)
    places = data_by_task(data, tasks)
    if not evaluate:
        return dict.fromkeys(tasks, "Not measured: the report was made with `--no-evaluate`")
    from maskpack.tasks.evaluation.evaluate import analyze_errors  # noqa: PLC0415 - imports torch

    analyses: dict[str, ErrorAnalysis | str] = {}
    for task in tasks:
        try:
            if not quiet:
                render.words(f"{task}: evaluating")
            analyses[task] = analyze_errors(opened, task, data=places.get(task))
        except (DataError, MissingPackageError) as error:
            if task in places:
                raise
            hint = in_commands(error.advice)
            analyses[task] = f"Not measured: {error}" + (f"; {hint}" if hint else "")
    return analyses


def _as_tree(
    view: ArtifactView,
    analyses: dict[str, ErrorAnalysis | str],
    verdicts: Sequence[Report],
    tables: Sequence[Table],
) -> dict[str, Any]:
    from maskpack.report.table import as_tree  # noqa: PLC0415 - keeps --help fast

    evaluation = {
        task: {"missing": analysis} if isinstance(analysis, str) else asdict(analysis)
        for task, analysis in analyses.items()
    }
    return {
        **asdict(view),
        "stored_bytes": view.stored_bytes,
        "download_bytes": view.download_bytes,
        "dense_bytes": view.dense_bytes,
        "evaluation": evaluation,
        "verdicts": [codec.loads(verdict.to_json()) for verdict in verdicts],
        "sweeps": [as_tree(table) for table in tables],
    }
