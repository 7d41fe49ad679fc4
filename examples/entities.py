"""Learn to find entities from words with tags, and answer new texts with what they name.

python examples/entities.py rows.jsonl tokens ner_tags "Anna flew to Rome with Bob"

A line of the file: {"tokens": ["Anna", "flew", "to", "Rome"], "ner_tags": ["B-person", "O", "O", "B-place"]}. Spans do as
well: {"text": "in Rome", "entities": [[3, 7, "place"]]}. On the command line: compress fit demo --data rows.jsonl
--type token-classification --text-field tokens --label-field ner_tags --task names -o artifact
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.runtime import Entities, Session
from maskpack.tasks import find_task


def main(
    rows: str, words: str, tags: str, texts: list[str], model: str = "demo", steps: int = 400
) -> None:
    """Fit, export and answer."""
    task = find_task("names", text_field=words, label_field=tags, kind="token-classification")
    config = FitConfig(bits=4, steps=steps, batch_size=16, max_length=64, teacher="none")
    with tempfile.TemporaryDirectory() as folder:
        artifact, graph = Path(folder) / "artifact", Path(folder) / "graph"
        result = fit_task(FitRequest(model, task, artifact, config, data=Path(rows)))
        print(f"{result.metric} {result.score:.3f} on rows held out")
        tolerance = Tolerance.of(Compute.FP32)
        request = ExportRequest(artifact, "names", graph, Compute.FP32, tolerance, verify=False)
        export_onnx(request)
        for text, answer in zip(texts, Session(graph).predict(texts), strict=True):
            assert isinstance(answer, Entities)
            for one in answer.entities:
                print(
                    f"{one.label} {one.score:.3f}  {one.text!r}, {one.start} to {one.end} of {text!r}"
                )


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
