"""The command line: one Typer app, and the single place where errors become exit codes.

0 done, 1 our error or outside tolerance, 2 wrong usage (Typer's own), 70 a bug of ours.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

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
import typer.core
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


class Sections(typer.core.TyperGroup):
    """Commands under the heading of what they are for, each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list for each heading."""
        del ctx
        sections: dict[str, list[tuple[str, str]]] = {}
        listed: dict[str, Any] = dict(self.commands)
        for name, command in listed.items():
            sentence = command.get_short_help_str(_LONGEST)
            sections.setdefault(command.rich_help_panel, []).append((name, sentence))
        widest = max(map(len, self.commands))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])


_LONGEST = 1000  # letters of a sentence; Click's usual limit cuts most of them

app = typer.Typer(
    name="compress",
    cls=Sections,
    help="Learn one bit mask per task over a shared integer backbone, and export it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LEARN = "Learn tasks"
app.command("demo", rich_help_panel=_LEARN)(demo.demo)
app.command("fit", rich_help_panel=_LEARN)(fit.fit)
app.command("adopt", rich_help_panel=_LEARN)(adopt.adopt)
app.command("refit", rich_help_panel=_LEARN)(refit.refit)
app.command("quantize", rich_help_panel=_LEARN)(baseline.quantize)

_COMPARE = "Compare ways to learn"
app.command("baseline", rich_help_panel=_COMPARE)(baseline.baseline)
app.command("lr-find", rich_help_panel=_COMPARE)(lr_find.lr_find)
app.command("sweep", cls=sweep.SweepCommand, rich_help_panel=_COMPARE)(sweep.sweep)
app.command("study", rich_help_panel=_COMPARE)(study.study)

_LOOK = "Look at an artifact"
app.command("inspect", rich_help_panel=_LOOK)(inspect.inspect)
app.command("check", rich_help_panel=_LOOK)(artifact.check)
app.command("eval", rich_help_panel=_LOOK)(evaluate.evaluate)
app.command("report", rich_help_panel=_LOOK)(report.report)
app.command("diff", rich_help_panel=_LOOK)(artifact.diff)
app.command("overlap", rich_help_panel=_LOOK)(artifact.overlap)
app.command("path", rich_help_panel=_LOOK)(vote.path)

_CHANGE = "Change an artifact"
app.command("merge", rich_help_panel=_CHANGE)(artifact.merge)
app.command("remove", rich_help_panel=_CHANGE)(artifact.remove)
app.command("rename", rich_help_panel=_CHANGE)(artifact.rename)
app.command("vote", rich_help_panel=_CHANGE)(vote.vote)
app.command("vocab", rich_help_panel=_CHANGE)(vocab.vocab)

_GRAPHS = "Export, and run graphs"
app.command("export", rich_help_panel=_GRAPHS)(export.export)
app.command("verify", rich_help_panel=_GRAPHS)(export.verify)
app.command("predict", rich_help_panel=_GRAPHS)(predict.predict)
app.command("bench", rich_help_panel=_GRAPHS)(bench.bench)
app.command("costs", rich_help_panel=_GRAPHS)(costs.costs)
app.command("package", rich_help_panel=_GRAPHS)(publish.package)
app.command("materialize", rich_help_panel=_GRAPHS)(publish.materialize)

_SEND = "Send to devices and to others"
app.command("pack", rich_help_panel=_SEND)(artifact.pack)
app.command("unpack", rich_help_panel=_SEND)(artifact.unpack)
app.command("delta", rich_help_panel=_SEND)(delta.delta)
app.command("apply-delta", rich_help_panel=_SEND)(delta.apply)
app.command("push", rich_help_panel=_SEND)(publish.push)
app.command("pull", rich_help_panel=_SEND)(publish.pull)

_KNOWN = "What there is, and what works here"
app.command("tasks", rich_help_panel=_KNOWN)(artifact.tasks)
app.command("families", rich_help_panel=_KNOWN)(families.families)
app.command("env", rich_help_panel=_KNOWN)(doctor.env)
app.command("doctor", rich_help_panel=_KNOWN)(doctor.doctor)


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
