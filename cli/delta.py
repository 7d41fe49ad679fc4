"""`compress delta` and `compress apply-delta`: what turns one release into the next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import shell_word
from maskpack.formats.delta import Delta, Way, apply_delta, write_delta

_WAYS = {
    Way.SAME: "as it is",
    Way.WHOLE: "compressed",
    Way.XOR: "changed bits",
    Way.SUM: "changed bytes",
    Way.MASKS: "coded masks",
}


def delta(
    old: Annotated[
        Path, Argument(help="Artifact, exported folder, package or file that is out there.")
    ],
    new: Annotated[Path, Argument(help="Its next release.")],
    *,
    out: Annotated[Path, Option("--out", "-o", help="File to write.")],
    json: opt.Json = False,
) -> None:
    """Write one small file that turns a release into the next one, for who has the old one.

    Each file of the new release is made from the old one or from nothing, whichever takes fewer bytes. Of one
    task that was learned again it saves some of what `compress pack` takes, of a backbone most.

    Example: compress delta artifact-1 artifact-2 -o update.delta
    """
    made = write_delta(old, new, out)
    if json:
        render.json(_tree(made), ensure_ascii=False)
        return
    _show(made)
    if made.bytes >= made.new_bytes:
        render.words(f"note: `{new}` itself is smaller than the delta")
    command = f"compress apply-delta {shell_word(old.as_posix())} {shell_word(out.as_posix())}"
    render.words(f"wrote {out}; next: {command} -o {shell_word(new.as_posix())}")


def apply(
    old: Annotated[Path, Argument(help="The release that the delta was made from.")],
    file: Annotated[Path, Argument(help="File that `compress delta` wrote.")],
    *,
    out: Annotated[Path, Option("--out", "-o", help="Folder or file to write.")],
    json: opt.Json = False,
) -> None:
    """Make the new release of the old one and a delta. The old one stays as it is.

    Every file is checked: the old ones before, the new ones after. Over another release the delta is refused.

    Example: compress apply-delta artifact-1 update.delta -o artifact-2
    """
    made = apply_delta(old, file, out)
    if json:
        render.json(_tree(made), ensure_ascii=False)
        return
    _show(made)
    render.words(f"wrote {out}, every file as the delta says")


def _tree(made: Delta) -> dict[str, object]:
    files = [
        {
            "name": file.name,
            "way": str(file.way),
            "base": file.base,
            "bytes": file.bytes,
            "delta_bytes": file.delta_bytes,
        }
        for file in made.files
    ]
    return {
        "out": str(made.out),
        "bytes": made.bytes,
        "new_bytes": made.new_bytes,
        "files": files,
    }


def _show(made: Delta) -> None:
    rows = []
    for file in made.files:
        way = _WAYS[file.way] + ("" if file.base in {None, file.name} else f", from {file.base}")
        rows.append((file.name, way, f"{file.bytes:,}", f"{file.delta_bytes:,}"))
    title = f"{render.size(made.bytes)} for {render.size(made.new_bytes)}"
    render.table(title, ("file", "how", "bytes", "in the delta"), rows)
