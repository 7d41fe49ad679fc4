"""`push` and `pull` (the Hub), `package` (folders for a target), `materialize` (a device).

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.exporters.options import PackageRequest, Target
from maskpack.tasks.card import card_facts

Repo = Annotated[str, Argument(help="Repository on the Hub, OWNER/NAME.")]


def push(
    artifact: opt.ArtifactPath,
    repo: Repo,
    *,
    private: Annotated[
        bool,
        Option("--private/--public", help="Of a repository made now; an old one stays as it is."),
    ] = True,
    revision: Annotated[
        str | None, Option(help="Branch to commit to; made if it is not there. [main]")
    ] = None,
    message: Annotated[
        str | None, Option("--message", "-m", help="Of the commit. [the tasks]")
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str | None, Option(help="For the card, such as apache-2.0. [the model's, if known]")
    ] = None,
    language: Annotated[
        list[str] | None, Option(help="For the card, such as en; repeatable. [if known]")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check and list the files; send nothing.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Check an artifact and send it to the Hub, in one commit.

    The model card is made again, with metrics and usage. Write your own README.md without the last
    line `Made by maskpack`, and it is sent unchanged. A token comes from `hf auth login` or HF_TOKEN;
    HF_ENDPOINT names another hub.

    Example: compress push artifact me/tickets --dry-run

    Example: compress push artifact me/tickets --public --license apache-2.0
    """
    from maskpack.hub.transfer import PushRequest, plan_push, push_artifact  # noqa: PLC0415 - imports the library

    request = PushRequest(
        artifact, repo, private, revision, message, license, tuple(language or ())
    )
    send = plan_push if dry_run else push_artifact
    sent = send(request, describe=card_facts)
    if json:
        tree: dict[str, Any] = {"repo": repo, "sent": not dry_run, "message": sent.message}
        tree |= {"commit": sent.commit, "url": sent.url, "files": dict(sent.files)}
        render.json(tree, ensure_ascii=False)
        return
    what = f"{render.size(sum(sent.files.values()))} in {len(sent.files)} files"
    render.table(f"{repo}: {what}", ("file", "bytes"), _rows(sent.files))
    render.words("nothing was sent" if dry_run else f"sent: {sent.url}")


def pull(
    repo: Repo,
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder to write.")],
    task: Annotated[
        list[str] | None, Option("--task", "-t", help="Task to take; repeatable. [all]")
    ] = None,
    revision: Annotated[str | None, Option(help="Branch, tag or commit to take. [main]")] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch an artifact from the Hub, or some of its tasks, and check it.

    An interrupted download goes on where it stopped. A repository that holds anything but safetensors,
    JSON and text is refused, and the error names that file.

    Example: compress pull me/tickets -o artifact

    Example: compress pull me/tickets -o artifact --task reviews
    """
    from maskpack.hub.transfer import PullRequest, pull_artifact  # noqa: PLC0415 - imports the library

    request = PullRequest(repo, out, tuple(task or ()), revision)
    pulled = pull_artifact(
        request,
        lambda name: None if quiet else render.words(f"fetching {name}"),
        describe=card_facts,
    )
    if json:
        tree: dict[str, Any] = {"repo": repo, "out": str(out), "commit": pulled.commit}
        tree |= {"tasks": list(pulled.tasks), "files": dict(pulled.files)}
        render.json(tree, ensure_ascii=False)
        return
    tasks = ", ".join(pulled.tasks) or "no task yet"
    render.table(f"{out}: {tasks}", ("file", "bytes"), _rows(pulled.files))
    render.words(f"{repo} at {pulled.commit[:12]}, every digest as the manifest says")


def _rows(files: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{size:,}") for name, size in files.items()]


def package(
    folder: Annotated[
        Path, Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder to write, or a .zip or .tar.gz file.")],
    target: Annotated[
        Target,
        Option(
            help="ort: any ONNX Runtime; web: browser and Node.js; mobile: .ort files for phones."
        ),
    ],
    task: Annotated[
        list[str] | None, Option("--task", "-t", help="Task; repeatable. [all]")
    ] = None,
    gzip: Annotated[
        bool,
        Option("--gzip", help="For web: store what the page downloads under gzip, if smaller."),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Pack exported tasks with what reads their texts or images, checksums and a runnable example for one target.

    Every packaged graph is run in ONNX Runtime and must give the logits of its original.
    The same tasks give the same bytes, in an archive too; only `.ort` files differ from run to run.

    Example: compress package reviews-onnx -o reviews-web --target web --gzip

    Example: compress package all -o all.tar.gz --target ort
    """
    from maskpack.exporters.package.write import write_package  # noqa: PLC0415 - imports ONNX Runtime

    written = write_package(PackageRequest(folder, out, target, tuple(task or ()), gzip))
    if json:
        tree = {
            "out": str(written.out),
            "target": str(written.target),
            "tasks": dict(written.differences),
            "files": dict(written.files),
            "sha256": written.sha256,
        }
        render.json(tree, ensure_ascii=False)
        return
    render.table(
        f"{written.out}, for {written.target}: {render.size(sum(written.files.values()))}",
        ("file", "bytes"),
        _rows(written.files),
    )
    for name, difference in written.differences.items():
        render.words(f"{name}: logits as before, largest difference {difference:.1e}")
    render.words(f"wrote {written.out}" + (f", SHA-256 {written.sha256}" if written.sha256 else ""))


def materialize(
    folder: Annotated[Path, Argument(help="Folder that `compress export --onnx` wrote.")],
    task: Annotated[str | None, Option("--task", "-t", help="Which, of several.")] = None,
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder to write.")],
    json: opt.Json = False,
) -> None:
    """Write one task with its weights unpacked and masked, so that sessions are made with less memory.

    For devices: the download stays small, and folding is done once instead of for every session. The folder
    works with `compress predict` and `maskpack.runtime` like any exported folder.

    Example: compress materialize all --task tickets -o tickets-ready
    """
    from maskpack.runtime import materialize as write  # noqa: PLC0415 - imports ONNX Runtime

    graph = write(folder, out, task=task)
    size = sum(path.stat().st_size for path in out.iterdir())
    if json:
        render.json({"graph": str(graph), "bytes": size})
    render.words(f"wrote {out}, {render.size(size)}")
