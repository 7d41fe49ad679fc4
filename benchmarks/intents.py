"""Texts that find those of the same intent among banking77's 3,080 test rows: the untrained model, dense, and masks.

    compress sweep benchmarks/types.yaml -o docs/results/types.jsonl --only dense --only mask
    python benchmarks/intents.py BANKING/test.csv docs/results/types.runs docs/results/intents.json

Every row is asked; all other rows are candidates, and those of the row's label are right. `recall_at_10` is the share of the ten nearest
candidates that are right (each label has more than ten rows), `ndcg_at_10` weighs each place by 1 / log2(place + 1) (Järvelin & Kekäläinen
2002). By chance both are .013.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import open_artifact
from maskpack.formats.pooling import Pooling
from maskpack.models.load import load_classifier
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import ModelContext, load_dense, restore_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.types import TASK_TYPES

TOP = 10


def found(vectors: NDArray[np.float32], labels: NDArray[np.str_]) -> dict[str, float]:
    """The metrics of vectors `(rows, w)` of length 1.

    >>> corners = np.repeat(np.eye(2, 4, dtype=np.float32), 11, axis=0)
    >>> found(corners, np.repeat(["a", "b"], 11))
    {'recall_at_10': 1.0, 'ndcg_at_10': 1.0}
    """
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)  # a row does not find itself
    best = np.argsort(-near, axis=1, kind="stable")[:, :TOP]
    right = labels[best] == labels[:, None]
    gains = 1 / np.log2(np.arange(TOP) + 2)
    return {
        "recall_at_10": float(right.mean()),
        "ndcg_at_10": float((right @ gains / gains.sum()).mean()),
    }


def embed(model: Any, context: ModelContext, texts: list[str], length: int) -> NDArray[np.float32]:
    """Vectors `(rows, w)` of texts."""
    rows = Split(tuple((text,) for text in texts), np.zeros(len(texts), dtype=np.int64))
    read = context.preprocessor("groups").encode(rows, max_length=length)
    vectors: NDArray[np.float32] = predict_all(torch_predict(model), read).reshape(len(texts), -1)
    return vectors


def main() -> None:
    table, runs, out = map(Path, sys.argv[1:4])
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts, labels = [row["text"] for row in rows], np.array([row["label"] for row in rows])
    results: list[dict[str, Any]] = []
    kind = TASK_TYPES["retrieval"]
    for folder in sorted(runs.glob("demo-intents-mask-*")):
        if folder.suffix == ".key":
            continue
        seed = re.findall("[0-9]+", folder.name)[-1]
        artifact = open_artifact(folder)
        context = ModelContext.of_artifact(artifact)
        dense = str(runs / f"demo-intents-dense-{seed}")
        plain = load_classifier(
            "demo", outputs=1, auto_class=kind.auto_class, pooling=Pooling.MEAN, vectors=True
        )
        models = {
            "untrained": plain,
            "dense": load_dense(dense, kind),
            "mask": restore_task(artifact, next(iter(artifact.manifest.tasks))),
        }
        for name, model in models.items():
            metrics = found(embed(model, context, texts, 64), labels)
            results.append({"method": name, "seed": int(seed), **metrics})
            print(results[-1], flush=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
