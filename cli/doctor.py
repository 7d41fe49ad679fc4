"""`compress doctor` and `compress env`: what a report of a fault needs."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import in_commands

_WORDS = {True: "ok", False: "WRONG", None: "-"}


def doctor(
    path: Annotated[
        Path | None, Argument(help="Artifact or exported folder. [the installation alone]")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Try what an artifact or an export needs to work here, and print what a report should hold.

    Versions, system, processor and free disk; of an artifact digests, features, the tokenizer and, with
    torch, an answer of each task; of an export an answer of each graph. Exit 1 if anything is wrong.

    Example: compress doctor artifact
    """
    _show(path, json=json)


def env(json: opt.Json = False) -> None:
    """Print what was found here, for a report: versions, devices, providers, system, processor, free disk.

    The same as `compress doctor` without a path.

    Example: compress env --json
    """
    _show(None, json=json)


def _show(path: Path | None, *, json: bool) -> None:
    from maskpack.tasks.doctor import diagnose  # noqa: PLC0415 - keeps --help fast

    found = diagnose(path)
    if json:
        tree = codec.loads(found.to_json())
        for told, check in zip(tree["checks"], found.checks, strict=True):
            told["hint"] = in_commands(check.hint)
        render.json(tree)
    else:
        rows = [(check.what, _WORDS[check.ok], check.found) for check in found.checks]
        render.table(str(path or "installation"), ("what", "state", "found"), rows)
    if (wrong := found.first_wrong) is not None:
        render.error(f"{wrong.what}: {wrong.found}", in_commands(wrong.hint))
        raise typer.Exit(1)
