"""Learn a task from your own CSV file, and answer new texts with it.

python examples/own_csv.py tickets.csv text label "where is my parcel" "the app crashes"

The file needs a first line with both columns. A tenth of its rows is held out for the metric; `eval_data` names a
file for that instead. On the command line: compress fit demo --task mine --data tickets.csv --text-field text
--label-field label -o artifact
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.runtime import Session
from maskpack.tasks import find_task


def main(
    csv: str, text: str, label: str, texts: list[str], model: str = "demo", steps: int = 400
) -> None:
    """Fit, export and answer."""
    task = find_task("mine", text_field=text, label_field=label)
    config = FitConfig(bits=4, steps=steps, batch_size=16, max_length=64, teacher="none")
    with tempfile.TemporaryDirectory() as folder:
        artifact, graph = Path(folder) / "artifact", Path(folder) / "graph"
        result = fit_task(FitRequest(model, task, artifact, config, data=Path(csv)))
        print(
            f"{result.metric} {result.score:.3f} on rows held out, "
            f"the majority class gives {result.majority[result.metric]:.3f}"
        )
        tolerance = Tolerance.of(Compute.FP32)
        request = ExportRequest(artifact, "mine", graph, Compute.FP32, tolerance, verify=False)
        export_onnx(request)
        for asked, answer in zip(texts, Session(graph).predict(texts), strict=True):
            print(f"{answer.label} {answer.score:.3f}  {asked}")


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
