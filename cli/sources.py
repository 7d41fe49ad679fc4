"""Artifacts that a command reads: a folder, or `hub:OWNER/NAME[@REVISION]`, which is fetched into the cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from maskpack.cli import render
from maskpack.formats import is_artifact, open_artifact
from maskpack.formats.writer import new_folder

_PREFIX = "hub:"


def fetched(ctx: typer.Context, artifact: Path | None) -> Path | None:
    """An artifact that is read, in the cache if it is one of the Hub."""
    if artifact is None or ctx.resilient_parsing or not artifact.as_posix().startswith(_PREFIX):
        return artifact
    from maskpack.hub.cached import cached_artifact  # noqa: PLC0415 - imports the library
    from maskpack.tasks.card import card_facts  # noqa: PLC0415 - keeps --help fast

    return cached_artifact(
        artifact, lambda name: render.words(f"fetching {name}"), describe=card_facts
    )


ArtifactSource = Annotated[
    Path,
    Argument(
        help="Folder that `compress fit -o` wrote, or hub:OWNER/NAME[@REVISION].", callback=fetched
    ),
]


def started_from(
    ctx: typer.Context, model: str, revision: str | None, out: Path, *, dry_run: bool
) -> tuple[str, str | None, Path]:
    """Model, revision and artifact of a fit; an artifact of the Hub that stands for a model is copied to `out` first.

    Its tasks come with it, and the new one is learned over its backbone. An artifact at `out` stays as it is. A dry
    run writes nothing there and looks at the cache instead.

    Raises:
        ArtifactError: it cannot be fetched, or `out` cannot be written.
    """
    if not model.startswith(_PREFIX):
        return model, revision, out
    home = fetched(ctx, Path(model))
    assert home is not None
    source = open_artifact(home).manifest.source
    if not is_artifact(out):
        if dry_run:
            out = home
        else:
            with new_folder(out) as build:
                shutil.copytree(home, build, dirs_exist_ok=True)
    return source.model, revision or source.revision, out
