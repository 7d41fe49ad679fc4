"""Bytes and time of whole graphs whose token embeddings have 8, 4, 3 and 2 bits.

    python benchmarks/embedding_graphs.py docs/results/embedding-graphs.json

The demo model with linears of 4 bits and a mask of a few steps on `tickets`, folded, int8 and nbits, verified; one thread, 1 x 16 and 1 x 128
tokens, medians of runs in alternation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx
from maskpack.exporters.options import Compute, ExportRequest
from maskpack.exporters.session import make_session, take_turns, token_feeds
from maskpack.tasks import find_task

WIDTHS, COMPUTES, SHAPES, RUNS = (8, 4, 3, 2), ("int8", "nbits"), ((1, 16), (1, 128)), 41


def exported(work: Path, width: int) -> dict[str, Any]:
    """Bytes of the backbone and of each graph, and where the graphs are."""
    artifact = work / f"artifact{width}"
    config = FitConfig(
        bits=4, embedding_bits=width, steps=20, batch_size=16, max_length=32, teacher="none"
    )
    fit_task(FitRequest("demo", find_task("tickets"), artifact, config))
    row: dict[str, Any] = {"backbone": (artifact / "backbone.safetensors").stat().st_size}
    for compute in COMPUTES:
        out, kind = work / f"{compute}{width}", Compute(compute)
        report = export_onnx(
            ExportRequest(artifact, "tickets", out, kind, Tolerance.of(kind, max_drop=100.0))
        )
        assert report is not None
        assert report.ok, report.findings
        row[compute] = (out / "model.onnx").stat().st_size
    return row


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = {str(width): exported(work, width) for width in WIDTHS}
        for compute in COMPUTES:
            graphs = {str(width): work / f"{compute}{width}" / "model.onnx" for width in WIDTHS}
            sessions = {name: make_session(path, threads=1) for name, path in graphs.items()}
            for batch, length in SHAPES:
                feeds = {
                    name: token_feeds(one, batch=batch, length=length)
                    for name, one in sessions.items()
                }
                for name, spent in take_turns(sessions, feeds, runs=RUNS).items():
                    key = f"{compute} ms, {batch} x {length}"
                    rows[name][key] = round(float(np.median(spent.wall)), 3)
    found = {"onnxruntime": onnxruntime.__version__, "embedding bits": rows}
    print(json.dumps(found, indent=1))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
