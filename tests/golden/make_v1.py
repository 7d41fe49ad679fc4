"""Make tests/golden/v1, the artifact of format version 1 that every later release must read.

Run once, when version 1 was released: `python tests/golden/make_v1.py`. Do not run it again: the
files are the promise, and `tests/formats/test_golden.py` holds their digests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskpack.formats import (
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
    Scheme,
    Source,
    TaskEntry,
    add_task,
    create_artifact,
)

FOLDER = Path(__file__).with_name("v1")

CODES_4 = [[1, -1, 7, -7, 0], [0, 2, -3, 4, -5], [6, 0, 0, -6, 5]]
SCALES_4 = [[0.5, 0.25, 2.0], [1.0, 0.0, 0.125], [0.75, 3.0, 0.0625]]  # groups of 2, 2 and 1
CODES_8 = [[127, -127, 0, 1, -1, 2, -2, 3, -3], [9, 8, 7, 6, 5, 4, 3, 2, 1]]
SCALES_8 = [[1.0000001], [3.0e-8]]  # neither fits float16
CODES_WORDS = [[1, 2, 3], [-4, -5, -6], [0, 0, 0], [100, -100, 50]]
SCALES_WORDS = [[0.5], [0.25], [1.0], [0.03125]]
DENSE = {"layer.0.bias": [0.5, -0.25, 0.0], "norm.weight": [1.0, 0.999, -65504.0]}
KEEP_MOOD = {
    "layer.0.weight": [[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "layer.1.weight": [[1, 0, 1, 1, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 0]],
}
KEEP_STARS = {
    "layer.0.weight": [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]],
    "layer.1.weight": [[1, 1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
}
HEAD_MOOD = {
    "classifier.weight": [[0.5, 0.25, -1.0], [1.5, -2.0, 0.125], [0.0, 1.0, 2.0]],
    "classifier.bias": [0.0, 0.5, -0.5],
}
HEAD_STARS = {"classifier.weight": [[0.25, -0.75, 6.0e-8]], "classifier.bias": [3.0]}
FILES = {"config.json": b'{"model_type": "bert"}\n', "vocab.txt": "[PAD]\ngüt\n".encode()}
SOURCE = Source("example/tiny-bert", "0123456789abcdef0123456789abcdef01234567", "bert", "ab" * 32)
SCHEME = Scheme(bits=4, group=2, quantizer="minmax", embedding_bits=8)


def _half(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float16)


def golden_backbone() -> Backbone:
    """The weights of the golden artifact."""
    wide = np.array(SCALES_8, dtype=np.float32)
    return Backbone(
        linears={
            "layer.0.weight": QuantTensor(np.array(CODES_4, np.int8), _half(SCALES_4), 4, 2),
            "layer.1.weight": QuantTensor(np.array(CODES_8, np.int8), wide, 8, 9),
        },
        embeddings={
            "words.weight": QuantTensor(np.array(CODES_WORDS, np.int8), _half(SCALES_WORDS), 8, 3)
        },
        dense={name: _half(values) for name, values in DENSE.items()},
    )


def _patch(keep: dict[str, list], head: dict[str, list]) -> Patch:
    masks = {name: BitMask.from_bool(np.array(rows, dtype=bool)) for name, rows in keep.items()}
    return Patch(masks, {name: _half(values) for name, values in head.items()})


def golden_patches() -> dict[str, Patch]:
    """Task -> its patch."""
    return {"mood": _patch(KEEP_MOOD, HEAD_MOOD), "stars": _patch(KEEP_STARS, HEAD_STARS)}


def golden_entries() -> dict[str, TaskEntry]:
    """Task -> its entry, as handed to the writer."""
    mood, stars = (patch.count for patch in golden_patches().values())
    return {
        "mood": TaskEntry(
            name="mood",
            file="tasks/mood.safetensors",
            sha256="0" * 64,
            kind="classification",
            labels=("bad", "good", "très bien"),
            metric="accuracy",
            scores={"accuracy": 0.9375, "mcc": 0.875},
            zeros=mood.zeros,
            weights=mood.weights,
            max_length=128,
            data={"task": "mood", "texts": ["text"], "label": "label", "train_rows": 96},
            training={"lr": 0.001, "seed": 0, "steps": 40},
        ),
        "stars": TaskEntry(
            name="stars",
            file="tasks/stars.safetensors",
            sha256="0" * 64,
            kind="regression",
            labels=(),
            metric="pearson",
            scores={"pearson": -0.5},
            zeros=stars.zeros,
            weights=stars.weights,
            max_length=16,
        ),
    }


def make_golden(folder: Path) -> None:
    """Write the golden artifact to `folder`: one task first, one added, that one replaced."""
    entries, patches = golden_entries(), golden_patches()
    create_artifact(
        folder,
        golden_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files=FILES,
        first=(entries["mood"], patches["mood"]),
    )
    add_task(folder, entries["stars"], patches["stars"])
    add_task(folder, entries["stars"], patches["stars"], replacing=True)


if __name__ == "__main__":
    make_golden(FOLDER)
