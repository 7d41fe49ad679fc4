"""`compress push` and `compress pull`: artifacts to and from the Hub. Imports no torch."""

from __future__ import annotations

import json as codec
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maskpack.cli import options as opt
from maskpack.cli import render

Repo = Annotated[str, typer.Argument(help="Repository on the Hub, OWNER/NAME.")]


def push(
    artifact: opt.ArtifactPath,
    repo: Repo,
    *,
    private: Annotated[
        bool,
        typer.Option(
            "--private/--public", help="Of a repository made now; an old one stays as it is."
        ),
    ] = True,
    revision: Annotated[
        str | None, typer.Option(help="Branch to commit to; made if it is not there. [main]")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Of the commit. [the tasks]")
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="For the card, such as apache-2.0. [the model's, if known]")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="For the card, such as en; repeatable. [if known]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list the files; send nothing.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Check an artifact and send it to the Hub, in one commit.

    The card is made anew, with scores and how to use it; write your own README.md without the last
    line `Made by maskpack`, and it is sent as it is. A token comes from `hf auth login` or HF_TOKEN;
    HF_ENDPOINT names another hub.

    Example: compress push artifact me/tickets --dry-run

    Example: compress push artifact me/tickets --public --license apache-2.0
    """
    from maskpack.compressor.share.push import (  # noqa: PLC0415 - imports the library
        PushRequest,
        plan_push,
        push_artifact,
    )

    request = PushRequest(
        artifact, repo, private, revision, message, license, tuple(language or ())
    )
    found = plan_push(request) if dry_run else push_artifact(request)
    if json:
        tree: dict[str, Any] = {"repo": repo, "sent": not dry_run, "message": found.message}
        tree |= {"commit": found.commit, "url": found.url, "files": dict(found.files)}
        render.data(codec.dumps(tree, ensure_ascii=False))
        return
    what = f"{render.size(sum(found.files.values()))} in {len(found.files)} files"
    render.table(f"{repo}: {what}", ("file", "bytes"), _rows(found.files))
    render.words("nothing was sent" if dry_run else f"sent: {found.url}")


def pull(
    repo: Repo,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Task to take; repeatable. [all]")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit to take. [main]")
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Take an artifact from the Hub, or some of its tasks, and check it.

    An interrupted download goes on where it stopped. A repository that holds anything but safetensors,
    JSON and text is refused by the name of that file.

    Example: compress pull me/tickets -o artifact

    Example: compress pull me/tickets -o artifact --task reviews
    """
    from maskpack.compressor.share.pull import (  # noqa: PLC0415 - imports the library
        PullRequest,
        pull_artifact,
    )

    request = PullRequest(repo, out, tuple(task or ()), revision)
    found = pull_artifact(request, lambda name: None if quiet else render.words(f"fetching {name}"))
    if json:
        tree: dict[str, Any] = {"repo": repo, "out": str(out), "commit": found.commit}
        tree |= {"tasks": list(found.tasks), "files": dict(found.files)}
        render.data(codec.dumps(tree, ensure_ascii=False))
        return
    tasks = ", ".join(found.tasks) or "no task yet"
    render.table(f"{out}: {tasks}", ("file", "bytes"), _rows(found.files))
    render.words(f"{repo} at {found.commit[:12]}, every digest as the manifest says")


def _rows(files: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{size:,}") for name, size in files.items()]
