"""A page that a script makes: written, or with `--check` compared with what is there."""

from __future__ import annotations

import sys
from pathlib import Path


def keep(target: Path, page: str, script: str) -> int:
    """Write `page`, or say that it is out of date; the exit code.

    Args:
        target: where it belongs.
        page: what belongs there.
        script: that makes it, for the hint.
    """
    if "--check" not in sys.argv[1:]:
        target.write_text(page, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(f"{target} is out of date: run `python docs/{script}`\n")
    return 1
