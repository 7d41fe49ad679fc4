"""`compress sweep`: models x tasks x methods x seeds from one file, as lines, a table and plots."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.exportable import check_export
from maskpack.cli.hints import in_commands
from maskpack.compressor.sweep.table import Table
from maskpack.formats import ConfigError, ExportError
from maskpack.formats.extras import check_package
from maskpack.formats.writer import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maskpack.compressor.sweep.executors import ExecutorOptions
    from maskpack.compressor.sweep.plan import Run, SweepPlan
    from maskpack.compressor.sweep.run import Failure
    from maskpack.compressor.training.progress import Progress


_LOCAL = "local"
_ADDRESS = re.compile(r"auto|local|.*:\d+|.*://.*")
"""What `--ray` takes as its address; anything else belongs to the command."""


class SweepCommand(TyperCommand):
    """The command, with an option that may stand without its value, which Typer does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--ray` the address `local` where none follows."""
        whole: list[str] = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            bare = word == "--ray" and not _ADDRESS.fullmatch(following)
            whole.append(f"--ray={_LOCAL}" if bare else word)
        return super().parse_args(ctx, whole)


def sweep(
    file: Annotated[Path, Argument(help="YAML file: models, tasks, seeds, methods.")],
    out: Annotated[
        Path | None, Option("--out", "-o", help="File of results. [the YAML's `out`, or beside it]")
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(help="Only this method, by label or by its name in the file; repeatable."),
    ] = None,
    seed: Annotated[list[int] | None, Option(help="Only this seed; repeatable.")] = None,
    plots: Annotated[
        Path | None, Option(help="Draw the results into this folder, as PNG and SVG.")
    ] = None,
    ray: Annotated[
        str | None,
        Option(
            metavar="[ADDRESS]",
            help="Do the runs on a Ray cluster, several at once: host:port of its head, or auto for the one that this "
            "machine is in; without an address on this machine alone.",
        ),
    ] = None,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check the file, list the runs, stop.")
    ] = False,
    summary: Annotated[
        bool, Option("--summary", help="Only print the table of what is finished.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare options: run models x tasks x methods x seeds, print mean and SD of each method.

    Each finished run is one JSON line; the same command resumes a stopped sweep. Two
    processes can share the work on one file with --only or --seed.

    Example: compress sweep examples/sparsity.yaml --plots plots
    """
    from maskpack.compressor.sweep.executors import ExecutorOptions  # noqa: PLC0415
    from maskpack.compressor.sweep.file import read_plan  # noqa: PLC0415 - keeps --help fast
    from maskpack.compressor.sweep.plan import choose  # noqa: PLC0415

    if plots is not None:
        from maskpack.report.figures import check_installed  # noqa: PLC0415

        check_installed()
        check_writable(plots / "picture.png")
    if ray is not None:
        check_package("ray", "`--ray`")
        if device is not None:
            raise ConfigError(
                "workers of a cluster choose their devices; `--device` is for runs without `--ray`",
                "give `gpus` in the file's `resources`",
            )
        if threads is not None:
            raise ConfigError(
                "workers of a cluster have as many threads as cores; `--threads` is for runs without `--ray`",
                "give `cpus` in the file's `resources`",
            )
    plan = read_plan(file, out=out)
    runs = choose(plan, only or [], seed or [])
    if dry_run:
        _show_runs(plan, runs, json=json)
        return
    _warn(plan)
    if not summary:
        _warn_of_exports(runs)
    options = ExecutorOptions(device=device, threads=threads)
    if ray is not None:
        options = ExecutorOptions(None if ray == _LOCAL else ray, plan.resources)
    failures = () if summary else _run(plan, runs, options, local=ray is None, quiet=quiet)
    _show_results(plan, plots, json=json)
    if failures:
        names = "; ".join(failure.run.title for failure in failures)
        render.error(f"{len(failures)} of {len(runs)} runs failed: {names}", None)
        raise typer.Exit(1)


def _warn(plan: SweepPlan) -> None:
    """Warn of lines of the results that do not count."""
    from maskpack.compressor.sweep.log import read_log  # noqa: PLC0415
    from maskpack.compressor.sweep.table import count_foreign  # noqa: PLC0415

    log = read_log(plan.out)
    if log.torn:
        render.words(f"warning: the last line of `{plan.out}` was cut short and is dropped")
    foreign = count_foreign(plan, log.lines)
    if foreign:
        render.words(
            f"note: {foreign} lines of `{plan.out}` are of other options or data and are left out"
        )


def _warn_of_exports(runs: Sequence[Run]) -> None:
    """Warn of models of which no graph can be made: a sweep may compare what nobody can deploy."""
    for source in dict.fromkeys(run.model.source for run in runs if not run.arm.is_baseline):
        try:
            check_export(source, None, skip=False)
        except ExportError as error:
            render.words(f"warning: {error}")


def _run(
    plan: SweepPlan, runs: Sequence[Run], options: ExecutorOptions, *, local: bool, quiet: bool
) -> tuple[Failure, ...]:
    """Do the missing runs, with a bar for each."""
    from maskpack.compressor.sweep.log import read_log  # noqa: PLC0415
    from maskpack.compressor.sweep.run import run_sweep  # noqa: PLC0415 - imports torch

    places = {run.key: number for number, run in enumerate(runs, 1)}

    def label(run: Run) -> str:
        return f"[{places[run.key]}/{len(runs)}] {run.title}"

    def failed(failure: Failure) -> None:
        render.error(f"{failure.run.title}: {failure.reason}", in_commands(failure.hint))

    if local:

        def watch(run: Run) -> AbstractContextManager[Callable[[Progress], None]]:
            return render.progress(label(run), quiet=quiet)

        with render.hushed():  # the same notes would be shown for every run
            return run_sweep(runs, plan.out, watch=watch, failed=failed, options=options)
    done = sum(run.key in read_log(plan.out).keys for run in runs)
    with render.progress_table(done, len(runs), quiet=quiet) as row:
        return run_sweep(
            runs,
            plan.out,
            watch=lambda run: row(label(run)),
            failed=failed,
            executor="ray",
            options=options,
        )


def _show_runs(plan: SweepPlan, runs: Sequence[Run], *, json: bool) -> None:
    from maskpack.compressor.sweep.log import read_log  # noqa: PLC0415

    done = read_log(plan.out).keys
    if json:
        render.json([_describe(run, done=run.key in done) for run in runs])
        return
    missing = sum(run.key not in done for run in runs)
    render.table(
        f"{len(runs)} runs, {missing} to do, results in {plan.out}",
        ("seed", "model", "task", "method", "state"),
        [(str(run.seed), *run.names[:3], "done" if run.key in done else "to do") for run in runs],
    )


def _describe(run: Run, *, done: bool) -> dict[str, Any]:
    model, task, label, seed = run.names
    tree = {"model": model, "task": task, "label": label, "seed": seed, "done": done}
    return {**tree, "sweep_key": run.key}


def _show_results(plan: SweepPlan, plots: Path | None, *, json: bool) -> None:
    from maskpack.compressor.sweep.log import read_log  # noqa: PLC0415
    from maskpack.compressor.sweep.table import tabulate  # noqa: PLC0415
    from maskpack.report.table import as_tree  # noqa: PLC0415

    tables = tabulate(plan, read_log(plan.out).lines)
    if json:
        render.json([as_tree(table) for table in tables])
    elif not tables:
        render.words("no run is finished yet")
    for table in () if json else tables:
        show(table)
    if plots is not None and tables:
        from maskpack.report.picture import draw  # noqa: PLC0415

        for path in draw(plots, tables):
            render.words(f"wrote {path}")


def show(table: Table) -> None:
    """Print the table, Matthews correlations, and collapsed runs."""
    from maskpack.report.table import head_of, notes_of, rows_of, spread_text  # noqa: PLC0415

    render.data(f"### {table.model}\n\n")
    render.markdown(head_of(table), rows_of(table))
    correlated = [
        task
        for task in table.metrics
        if any(task in row.cells and row.cells[task].mcc is not None for row in table.rows)
    ]
    if correlated:
        render.data("\nMatthews correlation: 0 is a constant answer, 1 is right every time.\n\n")
        rows = []
        for row in table.rows:
            values = [row.cells[task].mcc if task in row.cells else None for task in correlated]
            rows.append((row.arm.label, *map(spread_text, values)))
        render.markdown(("method", *correlated), rows)
    notes = notes_of(table)
    if notes:
        render.data("\n" + "\n".join(notes))
    render.data("")
