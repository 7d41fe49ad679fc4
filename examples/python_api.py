"""The whole way in Python: learn, look inside, export, verify, answer. Each step is one call.

python examples/python_api.py [MODEL] [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.formats import MaskpackError, check_artifact, open_artifact, pack_task
from maskpack.runtime import Session
from maskpack.tasks import find_task


def main(model: str = "demo", steps: int = 400) -> None:
    """One sample task from a pretrained model to answers."""
    with tempfile.TemporaryDirectory() as folder:
        artifact, graph = Path(folder) / "artifact", Path(folder) / "graph"

        config = FitConfig(bits=8, steps=steps, batch_size=16, max_length=48, teacher="none")
        result = fit_task(FitRequest(model, find_task("tickets"), artifact, config))
        print(
            f"learned: {result.metric} {result.score:.3f}, {result.count.zeros:,} weights removed"
        )

        opened = open_artifact(artifact)
        print(f"sound: {check_artifact(artifact) == []}, tasks: {', '.join(opened.manifest.tasks)}")
        print(f"packed: {len(pack_task(opened, 'tickets')):,} bytes for a device with the backbone")

        tolerance = Tolerance.of(Compute.INT8, max_drop=2.0)
        report = export_onnx(ExportRequest(artifact, "tickets", graph, Compute.INT8, tolerance))
        assert report is not None
        print(f"verified: {report.ok}, {report.graph.bytes:,} bytes of graph")

        session = Session(graph, threads=1)
        (answer,) = session.predict(["You charged my card twice."])
        print(f"answered: {answer.label} {answer.score:.3f}")

        try:
            session.predict(["a text"], task="reviews")
        except MaskpackError as problem:  # all our errors: a fact, and a hint
            print(f"refused: {problem}; {problem.hint}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
