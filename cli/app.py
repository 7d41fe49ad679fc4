"""The command line: one Typer app, and the single place where errors become exit codes.

0 done, 1 our error or outside tolerance, 2 wrong usage (Typer's own), 70 a bug of ours.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

# ONNX Runtime, transformers and tokenizers read these when they are first imported. No command forks after it
# cut texts, so that the tokenizer may use threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault(
    "HF_HUB_VERBOSITY", "error"
)  # its messages about retries would hide our error

import typer
from typer import Option

from maskpack.cli import (
    adopt,
    artifact,
    baseline,
    bench,
    costs,
    delta,
    demo,
    doctor,
    evaluate,
    export,
    families,
    fit,
    inspect,
    lr_find,
    predict,
    publish,
    refit,
    render,
    report,
    study,
    sweep,
    vocab,
    vote,
)
from maskpack.cli.hints import in_commands
from maskpack.formats import MaskpackError
from maskpack.formats.extras import needed_for

EXIT_ERROR = 1
EXIT_BUG = 70
_CLICK_INTERRUPTED = 130  # typer's exit code for Ctrl-C

app = typer.Typer(
    name="compress",
    help="Learn one bit mask per task over a shared integer backbone, and export it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quantize")(baseline.quantize)
app.command("fit")(fit.fit)
app.command("adopt")(adopt.adopt)
app.command("refit")(refit.refit)
app.command("baseline")(baseline.baseline)
app.command("lr-find")(lr_find.lr_find)
app.command("sweep", cls=sweep.SweepCommand)(sweep.sweep)
app.command("study")(study.study)
app.command("eval")(evaluate.evaluate)
app.command("inspect")(inspect.inspect)
app.command("check")(artifact.check)
app.command("doctor")(doctor.doctor)
app.command("env")(doctor.env)
app.command("tasks")(artifact.tasks)
app.command("families")(families.families)
app.command("pack")(artifact.pack)
app.command("unpack")(artifact.unpack)
app.command("remove")(artifact.remove)
app.command("rename")(artifact.rename)
app.command("merge")(artifact.merge)
app.command("diff")(artifact.diff)
app.command("overlap")(artifact.overlap)
app.command("vote")(vote.vote)
app.command("path")(vote.path)
app.command("delta")(delta.delta)
app.command("apply-delta")(delta.apply)
app.command("vocab")(vocab.vocab)
app.command("push")(publish.push)
app.command("pull")(publish.pull)
app.command("export")(export.export)
app.command("verify")(export.verify)
app.command("package")(publish.package)
app.command("materialize")(publish.materialize)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("costs")(costs.costs)
app.command("report")(report.report)
app.command("demo")(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - rarely needed

        render.data(version("maskpack"))
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Of any command: data and errors, nothing else.")
    ] = False,
    verbose: Annotated[
        bool,
        Option(
            "--verbose",
            "-v",
            help="Of any command: also files read and written, and warnings of libraries.",
        ),
    ] = False,
) -> None:
    """Learn one bit mask per task over a shared integer backbone, and export it.

    Example: compress --quiet fit demo --task reviews -o artifact
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    if verbose:
        os.environ["HF_HUB_VERBOSITY"] = "warning"
    loudness = render.Loudness
    usual = loudness.VERBOSE if verbose else loudness.USUAL
    render.set_loudness(loudness.QUIET if quiet else usual)


def main() -> None:
    """Run the command line; our errors are printed without a traceback."""
    command = next((arg for arg in sys.argv[1:] if not arg.startswith("-")), "")
    render.plain_streams()
    try:
        with needed_for(f"`compress {command}`"):
            app()
    except MaskpackError as problem:
        if render.speaks() or not problem.known_to_all:
            render.error(str(problem), in_commands(problem.advice))
        sys.exit(EXIT_ERROR)
    except SystemExit as leaving:
        if leaving.code != _CLICK_INTERRUPTED:
            raise
        render.error("stopped", None)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has closed it: no error
        sys.exit(EXIT_ERROR)
    except Exception:  # noqa: BLE001 - the border: anything else is our bug, and says so
        render.bug("this is a bug in maskpack; please report it with the lines below")
        import traceback  # noqa: PLC0415 - only for bugs

        render.bug(traceback.format_exc())
        sys.exit(EXIT_BUG)
