"""`compress materialize`: fold a task's weights once, at install. Imports no torch."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render


def materialize(
    folder: Annotated[Path, typer.Argument(help="Folder that `compress export --onnx` wrote.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Which, of several.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    json: opt.Json = False,
) -> None:
    """Write one task with its weights unpacked and masked, so that sessions are made with less memory.

    For devices: the download stays small, folding is done once and not for every session. The folder
    serves `compress predict` and `maskpack.runtime` as any exported one.

    Example: compress materialize all --task tickets -o tickets-ready
    """
    from maskpack.runtime import materialize as write  # noqa: PLC0415 - imports ONNX Runtime

    graph = write(folder, out, task=task)
    size = sum(path.stat().st_size for path in out.iterdir())
    if json:
        render.data(codec.dumps({"graph": str(graph), "bytes": size}))
    render.words(f"wrote {out}, {render.size(size)}")
