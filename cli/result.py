"""What `fit` and `baseline` print at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from maskpack.cli import render

_ADVICE = (
    "try more `--epochs`, a larger `--head-lr`, `--teacher twin`, or a larger `--margin`; "
    "with rare labels add rows of them and judge by `--metric macro_f1`"
)

if TYPE_CHECKING:
    from maskpack.compressor.results import RunResult


def show_result(result: RunResult, *, json: bool) -> None:
    """Print what a run measured."""
    if json:
        render.data(result.to_json())
        return
    _show_scores(result)
    count = result.count
    rows = [("head", render.size(result.head_bytes)), ("patch", render.size(result.patch_bytes))]
    if result.extra_bytes:
        rows.insert(1, ("biases, norms, scales", render.size(result.extra_bytes)))
    if count.weights:
        rows = [
            ("zeros", f"{count.zeros:,} of {count.weights:,} ({count.sparsity:.2%})"),
            ("mask, packed", render.size(result.mask_bytes)),
            (
                "mask, entropy",
                f"{render.size(count.entropy_bytes)} ({count.entropy_bpp:.3f} bits a weight)",
            ),
            *rows,
        ]
    render.table("", ("part", "size"), [*rows, ("backbone", render.size(result.backbone_bytes))])
    if result.collapsed:
        render.words(
            f"warning: {result.metric} is no better than always giving the same answer; {_ADVICE}"
        )


def _show_scores(result: RunResult) -> None:
    """Every metric beside its floor and, where there was one, the model that it started from."""
    original = result.original
    scores = [
        (
            name,
            f"{value:.4f}",
            f"{result.majority[name]:.4f}",
            *([] if original is None else [f"{original[name]:.4f}"]),
        )
        for name, value in result.scores.items()
    ]
    render.table(
        f"{result.task}: {result.method}, {result.steps} steps in {result.seconds:.0f} s",
        (
            "metric",
            "value",
            "same answer always",
            *([] if original is None else ["original model"]),
        ),
        scores,
    )


def show_next(out: Path, task: str, data: Path | None) -> None:
    """Say where a task lies now, and what comes next."""
    rows = "" if data is None else f" --data {shlex.quote(data.as_posix())}"
    place = shlex.quote(str(out))
    render.words(
        f"`{task}` is in {out}; next: compress export {place} -t {task} --onnx -o {task}-onnx{rows}"
    )
