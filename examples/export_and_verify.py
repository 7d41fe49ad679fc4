"""Export a task of an artifact in every arithmetic and print the reports.

python examples/export_and_verify.py ARTIFACT TASK
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx


def main(artifact: str, task: str) -> None:
    """Export as int8, fp32, fp16 and nbits."""
    with tempfile.TemporaryDirectory() as folder:
        for compute in Compute:
            tolerance = Tolerance.of(compute, max_drop=1.0)
            out = Path(folder) / str(compute)
            report = export_onnx(ExportRequest(Path(artifact), task, out, compute, tolerance))
            assert report is not None
            worst = max(check.max_diff for check in report.values)
            print(
                f"{compute}: {'within tolerance' if report.ok else report.findings}, "
                f"{report.graph.bytes:,} bytes, logits within {worst:.1e} of torch"
            )
            if report.accuracy is not None:
                accuracy = report.accuracy
                print(f"  {accuracy.metric} {accuracy.graph:.3f}, in torch {accuracy.torch:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
