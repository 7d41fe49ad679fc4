"""`compress fit --dry-run`: what would be done, how long it would take, and from what that is known."""

from __future__ import annotations

import json as codec
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from maskpack.cli import render

if TYPE_CHECKING:
    from maskpack.compressor.estimate import Estimate
    from maskpack.compressor.request import FitRequest, Learning


def dry_run(request: FitRequest, *, began: tuple[float, float], json: bool) -> None:
    """Rehearse a run and print its plan.

    Args:
        request: what would be learned.
        began: the clock on the wall and that of the process when the command began.
        json: print one JSON value.
    """
    from maskpack.compressor.estimate import Cost, rehearse  # noqa: PLC0415 - imports torch

    run, estimate = rehearse(request, began=Cost(*began))
    plan = _plan(run)
    if json:
        render.data(codec.dumps({**plan, "estimate": asdict(estimate)}))
        return
    sized = {
        "backbone bytes": render.size(plan["backbone bytes"]),
        "masked weights": f"{plan['masked weights']:,}",
    }
    shown = {**plan, **sized, **_words(estimate)}
    render.table("dry run", ("what", "value"), [(key, str(value)) for key, value in shown.items()])
    render.words("note: the estimate is of this machine as busy as it was just now")


def _plan(run: Learning) -> Mapping[str, Any]:
    return {
        "model": run.ground.source.model,
        "backbone": "already there" if run.ground.artifact else "to be quantised",
        "bits": run.ground.scheme.bits,
        "backbone bytes": run.ground.backbone_bytes(),
        "masked weights": run.ground.backbone.maskable,
        "training rows": len(run.data.train),
        "evaluation rows": len(run.data.dev),
        "labels": ", ".join(run.data.labels) or "a number",
        "steps": run.plan.steps,
        "arithmetic": "bf16" if run.plan.bf16 else "fp32",
        "out": str(run.request.out),
    }


def _words(estimate: Estimate) -> Mapping[str, str]:
    """The estimate and its basis."""
    parts = [
        f"{duration(estimate.load_seconds)} until the first step",
        *(
            [f"{duration(estimate.teacher_seconds)} teacher"]
            if estimate.teacher_seconds > 1
            else []
        ),
        f"{estimate.steps:,} steps of {1000 * estimate.step_seconds:.0f} ms",
        f"{estimate.looks} scorings of {estimate.look_seconds:.1f} s",
    ]
    memory = estimate.memory_bytes
    return {
        "time, estimated": duration(estimate.seconds),
        "of the processor": f"{duration(estimate.busy_seconds)}, all cores together",
        "made of": ", ".join(parts),
        "basis": f"{estimate.measured} steps measured, on batches of every size",
        "memory": "unknown" if memory is None else f"{render.size(memory)}, peak of this rehearsal",
        "checkpoint": render.size(estimate.disk_bytes) if estimate.disk_bytes else "none",
    }


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.4), duration(100), duration(4000)
    ('7 s', '1 min 40 s', '1 h 07 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
