"""Bytes and answers of int8 graphs of multilingual-e5-small's masks, with token embeddings of 8 and 4 bits.

    compress sweep benchmarks/e5.yaml -o docs/results/e5.jsonl --only mask
    python benchmarks/e5_graphs.py docs/results/e5.runs SIB docs/results/e5-graphs.json

The kept masks of seed 0 are exported and verified on the evaluation rows of `SIB`; `same` is the share of them with the answer of the
masked model in torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.options import Compute
from maskpack.formats import open_artifact


def measured(artifact: Path, data: Path) -> dict[str, Any]:
    """One artifact's graph."""
    (task,) = open_artifact(artifact).manifest.tasks
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "graph"
        report = export_onnx(
            ExportRequest(artifact, task, out, Compute.INT8, Tolerance.of(Compute.INT8), data=data)
        )
        assert report is not None
        assert report.ok, report.findings
        assert report.accuracy is not None
        return {
            "backbone": (artifact / "backbone.safetensors").stat().st_size,
            "graph": (out / "model.onnx").stat().st_size,
            "rows": report.accuracy.rows,
            "same": report.accuracy.agreement,
        }


def main() -> None:
    runs, data, out = map(Path, sys.argv[1:4])
    found = {
        str(open_artifact(folder).manifest.scheme.embedding_bits): measured(folder, data)
        for folder in sorted(runs.glob("*-sib-mask*-0"))
    }
    print(json.dumps(found, indent=1))
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
