"""Before a model is learned: can it be exported? Where the packages that export are not installed, nobody asks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

from typer import Option

SkipExportCheck = Annotated[
    bool,
    Option(
        "--skip-export-check",
        help="Learn a model with unusual settings without trying whether it can be exported.",
    ),
]


def check_export(model: str, revision: str | None, *, skip: bool) -> None:
    """Refuse a model of which no graph can be made.

    Raises:
        MaskpackError: there is no such model, or it cannot be exported.
    """
    if skip or find_spec("onnxscript") is None:
        return
    from maskpack.exporters.exportable import check_exportable  # noqa: PLC0415 - imports torch

    check_exportable(model, revision=revision)
