"""Answer texts on a device with tasks of an exported folder.

python examples/edge_predict.py EXPORT "where is my parcel" "the app crashes"

EXPORT is a folder of `compress export ARTIFACT --onnx`, in any layout, whose tasks read one text. Needs onnxruntime, numpy and
tokenizers; torch is not imported.
"""

from __future__ import annotations

import sys

from maskpack.runtime import Session


def main(folder: str, texts: list[str]) -> None:
    """Print the answer of every task in a folder to every text."""
    session = Session(folder, threads=1)
    for task in session.tasks:
        answers = session.predict(texts, task=task, batch_size=1)
        for text, answer in zip(texts, answers, strict=True):
            print(f"{task}: {answer.cell}  {text}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
