"""Learn two tasks on one 4-bit backbone, export both over one weight file, and show what each of them costs.

python examples/two_tasks.py [MODEL] [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import Compute, Layout, SharedRequest, Tolerance, export_shared
from maskpack.formats import open_artifact
from maskpack.formats.schema import BACKBONE
from maskpack.runtime import Session
from maskpack.tasks import find_task


def main(model: str = "demo", steps: int = 300) -> None:
    """Fit the two sample tasks into one artifact, and answer with both of them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "artifact"
        config = FitConfig(bits=4, steps=steps, batch_size=16, max_length=48, teacher="none")
        for name in ("reviews", "tickets"):
            result = fit_task(FitRequest(model, find_task(name), out, config))
            print(
                f"{name}: {result.metric} {result.score:.3f} "
                f"(majority {result.majority[result.metric]:.3f}), "
                f"{result.count.sparsity:.2%} of the weights removed, "
                f"mask {result.count.entropy_bytes:,} bytes of entropy"
            )
        artifact = open_artifact(out)
        print(f"backbone, shared: {artifact.size(BACKBONE):,} bytes")
        export(out, Path(folder) / "all")


def export(artifact: Path, out: Path) -> None:
    """All tasks over one backbone.bin, and an answer of each. Data of your own: `data={task: path}`."""
    compute = Compute.FP32
    request = SharedRequest(
        artifact, (), out, compute, Tolerance.of(compute, max_drop=5), layout=Layout.SHARED
    )
    for task, report in export_shared(request).items():
        assert report.ok, report.findings
        assert report.accuracy is not None  # the samples ship with the package
        size = (out / f"{task}.onnx").stat().st_size
        print(f"{task}.onnx: {size:,} bytes, {report.accuracy.metric} {report.accuracy.graph:.3f}")
    session = Session(out)
    for task in session.tasks:
        (answer,) = session.predict(["The parcel came late and broken."], task=task)
        print(f"{task} answers: {answer.label}, {answer.score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
