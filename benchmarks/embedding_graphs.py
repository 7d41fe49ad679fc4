"""Bytes and time of whole graphs whose token embeddings have 8, 4, 3 and 2 bits, and fewer tokens, and fewer units.

    python benchmarks/embedding_graphs.py docs/results/embedding-graphs.json

The demo model with linears of 4 bits and a mask of a few steps on `tickets`, folded, int8 and nbits, verified; one thread, 1 x 16 and 1 x 128
tokens, medians of runs in alternation. Fewer tokens: the first 22,000 Latin ones stay. Units: half of the heads and neurons are removed (in a few steps:
for bytes and time alone).
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx
from maskpack.exporters.options import Compute, ExportRequest
from maskpack.exporters.session import make_session, take_turns, token_feeds
from maskpack.tasks import TrimRequest, find_task, trim_vocabulary

COMPUTES, SHAPES, RUNS = ("int8", "nbits"), ((1, 16), (1, 128)), 41
TOKENS = 22_000


@dataclass(frozen=True)
class Kind:
    """What is small about a graph."""

    width: int
    few_tokens: bool = False
    half_units: bool = False

    def __str__(self) -> str:
        tokens = f", {TOKENS:,} tokens" * self.few_tokens
        return f"{self.width} bits{tokens}{', half of the units' * self.half_units}"


KINDS = (
    *(Kind(width) for width in (8, 4, 3, 2)),
    *(Kind(width, few_tokens=True) for width in (8, 4, 3)),
    *(Kind(width, few_tokens=True, half_units=True) for width in (4, 3)),
)


def learned(work: Path, kind: Kind) -> Path:
    """An artifact of that kind."""
    artifact = work / f"{kind}, artifact"
    units = {"units": "heads,neurons", "keep_units": 0.5} if kind.half_units else {}
    config = FitConfig(
        bits=4,
        embedding_bits=kind.width,
        steps=20,
        batch_size=16,
        max_length=32,
        teacher="none",
        **units,
    )
    fit_task(FitRequest("demo", find_task("tickets"), artifact, config))
    if not kind.few_tokens:
        return artifact
    fewer = work / f"{kind}, fewer tokens"
    trim_vocabulary(TrimRequest(str(artifact), fewer, scripts=("Latin",), keep=TOKENS))
    return fewer


def exported(work: Path, kind: Kind) -> dict[str, Any]:
    """Bytes of the backbone and of each graph."""
    artifact = learned(work, kind)
    row: dict[str, Any] = {"backbone": (artifact / "backbone.safetensors").stat().st_size}
    for compute in COMPUTES:
        out, way = work / f"{kind}, {compute}", Compute(compute)
        report = export_onnx(
            ExportRequest(artifact, "tickets", out, way, Tolerance.of(way, max_drop=100.0))
        )
        assert report is not None
        assert report.ok, report.findings
        row[compute] = (out / "model.onnx").stat().st_size
    return row


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = {str(kind): exported(work, kind) for kind in KINDS}
        for compute in COMPUTES:
            graphs = {name: work / f"{name}, {compute}" / "model.onnx" for name in rows}
            sessions = {name: make_session(path, threads=1) for name, path in graphs.items()}
            for batch, length in SHAPES:
                feeds = {
                    name: token_feeds(one, batch=batch, length=length)
                    for name, one in sessions.items()
                }
                for name, spent in take_turns(sessions, feeds, runs=RUNS).items():
                    key = f"{compute} ms, {batch} x {length}"
                    rows[name][key] = round(float(np.median(spent.wall)), 3)
    found = {"onnxruntime": onnxruntime.__version__, "embeddings": rows}
    print(json.dumps(found, indent=1))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
