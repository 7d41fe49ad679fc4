"""`compress families`: which architectures a MODEL may have."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from maskpack.cli import options as opt
from maskpack.cli import render

if TYPE_CHECKING:
    from maskpack.compressor.families import FamilySupport

_HEAD = ("architecture", "support", "graphs", "units", "reads", "why not")


def families(
    name: Annotated[
        str | None,
        Argument(help="An architecture, the `model_type` of a `config.json`. [all of them]"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """List the architectures that a MODEL may have.

    `entry`: this release describes it; `rule`: the installed transformers says enough of it. Graphs: `tested` in every
    layout, or `tried` with a small model before a task is learned. Units: whether heads and neurons can be removed. Reads:
    what a head reads of a text, unless `--pooling` of `fit` or the model's files for sentence-transformers name something
    else.

    Example: compress families qwen3
    """
    from maskpack.compressor import family_support, list_families  # noqa: PLC0415 - imports torch

    found = list_families() if name is None else (family_support(name),)
    if json:
        render.json([asdict(each) for each in found])
    else:
        render.table("", _HEAD, [_row(each) for each in found])


def _row(each: FamilySupport) -> tuple[str, ...]:
    return (
        each.model_type,
        each.support,
        each.graphs,
        "yes" if each.units else "no",
        each.pooling or "-",
        each.reason or "",
    )
