"""`compress vocab`: an artifact or a model without the tokens that nothing needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import shell_word
from maskpack.cli.sources import fetched

if TYPE_CHECKING:
    from maskpack.tasks.trim import TrimResult


def vocab(
    ctx: typer.Context,
    source: Annotated[
        str,
        Argument(
            metavar="ARTIFACT|MODEL",
            help="Artifact, also hub:OWNER/NAME; or folder, hub id or alias of a model.",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="Folder to write.")],
    *,
    text: Annotated[
        list[Path] | None,
        Option(
            help="File of texts, .txt with a text a line or a table; its tokens stay. May be given several times."
        ),
    ] = None,
    script: Annotated[
        str | None,
        Option(help="Scripts of Unicode, such as Latin,Cyrillic: tokens of their letters stay."),
    ] = None,
    keep: Annotated[
        int | None,
        Option(
            min=1,
            help="Tokens in all: the most frequent ones of the texts, then the first ones of the vocabulary.",
        ),
    ] = None,
    try_: Annotated[
        list[Path] | None,
        Option("--try", help="File of other texts, to see how they are read afterwards."),
    ] = None,
    revision: opt.Revision = None,
    json: opt.Json = False,
) -> None:
    """Leave out tokens that texts never need: rows of the table of embeddings, and entries of the tokenizer.

    Texts that it is made for keep their pieces, which is checked on all of them, and so their answers. Other texts fall back to
    smaller pieces. An artifact keeps its tasks, over a backbone with a digest of its own.

    Example: compress vocab artifact --text english.txt --try more.txt -o small
    """
    from maskpack.tasks.trim import TrimRequest, trim_vocabulary  # noqa: PLC0415 - imports torch

    home = fetched(ctx, Path(source)) if source.startswith("hub:") else source
    request = TrimRequest(
        source=str(home),
        out=out,
        texts=tuple(text or ()),
        scripts=() if script is None else tuple(one.strip() for one in script.split(",")),
        keep=keep,
        tries=tuple(try_ or ()),
        revision=revision,
    )
    result = trim_vocabulary(request)
    if json:
        render.json(_tree(result), sort_keys=True)
    else:
        _show(result)


def _tree(result: TrimResult) -> dict[str, Any]:
    tree = asdict(result)
    tree["out"] = str(result.out)
    for part in ("texts", "tries"):
        for told, one in zip(tree[part], getattr(result, part), strict=True):
            told |= {"equal_share": one.equal_share, "fallen_share": one.fallen_share}
    return tree


def _warn_if_larger(result: TrimResult) -> None:
    if result.bytes > result.bytes_before:
        render.words(
            "warning: it is larger than before: weights drawn from a seed are stored in it, because the rows that stay "
            "cannot be drawn alone"
        )


def _show(result: TrimResult) -> None:
    render.table(
        f"{result.out}",
        ("", "before", "after"),
        [
            ("tokens", f"{result.tokens_before:,}", f"{result.tokens:,}"),
            ("embeddings", f"{result.rows_before:,}", f"{result.rows:,}"),
            (
                "weights and tokenizer",
                render.size(result.bytes_before),
                render.size(result.bytes),
            ),
        ],
    )
    rows = [
        (
            one.name,
            what,
            f"{one.texts:,}",
            f"{one.equal_share:.2%}",
            f"{one.fallen_share:.2%}",
            f"{one.unknown:,} ({one.unknown_before:,})",
            f"{one.decoded / one.texts:.2%}",
        )
        for what, each in (("made for", result.texts), ("tried", result.tries))
        for one in each
    ]
    if rows:
        head = ("texts", "", "lines", "same pieces", "tokens in smaller pieces", "unknown (before)")
        render.table("how texts are read", (*head, "same when decoded"), rows)
    _warn_if_larger(result)
    place = shell_word(result.out.as_posix())
    render.words(
        f"scores in it were measured before; `compress eval {place}` measures again"
        if result.artifact
        else f"next: compress fit {place} --task TASK -o artifact"
    )
