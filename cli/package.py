"""`compress package`: exported tasks as a folder or an archive that can be handed on. Imports no torch."""

from __future__ import annotations

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.exporters.package.target import PackageRequest, Target


def package(
    folder: Annotated[
        Path, typer.Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write, or a .zip or .tar.gz file.")
    ],
    target: Annotated[
        Target,
        typer.Option(
            help="ort: any ONNX Runtime; web: browser and Node.js; mobile: .ort files for phones."
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Task; repeatable. [all]")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Pack exported tasks with tokenizer, checksums and a runnable example for one target.

    Every packed graph is run in ONNX Runtime and must give the logits of the one it was made from.
    The same tasks make the same bytes, in an archive too.

    Example: compress package reviews-onnx -o reviews-web --target web

    Example: compress package all -o all.tar.gz --target ort
    """
    from maskpack.exporters.package.write import write_package  # noqa: PLC0415 - imports ONNX Runtime

    found = write_package(PackageRequest(folder, out, target, tuple(task or ())))
    if json:
        tree = {
            "out": str(found.out),
            "target": str(found.target),
            "tasks": dict(found.differences),
            "files": dict(found.files),
            "sha256": found.sha256,
        }
        render.data(codec.dumps(tree, ensure_ascii=False))
        return
    render.table(
        f"{found.out}, for {found.target}: {render.size(sum(found.files.values()))}",
        ("file", "bytes"),
        [(name, f"{size:,}") for name, size in found.files.items()],
    )
    for name, difference in found.differences.items():
        render.words(f"{name}: logits as before, largest difference {difference:.1e}")
    render.words(f"wrote {found.out}" + (f", SHA-256 {found.sha256}" if found.sha256 else ""))
