"""Make tests/golden/v1-rows: tables with rows of two widths, and one of 3 bits.

Run once: `python tests/golden/make_v1_rows.py`. Do not run it again: the files are the promise, and
`tests/formats/test_golden_rows.py` holds their digests.
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
    create_artifact,
)
from maskpack.formats.mixed_rows import MixedRows

FOLDER = Path(__file__).with_name("v1-rows")

ROWS = {  # bits of the wide rows, zero-free -> rows; those with two numbers of bits are rare
    "words.weight": (4, False, [[7, -7, 0], [-3, -1, 3], [1, 0, -1], [1, 3, 3]], "1010"),
    "threes.weight": (3, True, [[7, -5, 1], [-7, 7, 3], [3, 1, -1]], "110"),
    "eights.weight": (8, False, [[-3, 3, 1]] * 8 + [[127, -127, 0]], "000000001"),
    "plain.weight": (3, True, [[7, -7, 1], [5, 3, -1]], "11"),
}
SCALES = {
    "words.weight": [0.5, 0.25, 2.0, 0.125],
    "threes.weight": [1.0, 0.0, 3.0],
    "eights.weight": [0.1 * row for row in range(1, 10)],
    "plain.weight": [0.75, 65504.0],
}
LINEAR, KEEP = [[1, -1, 7], [0, 5, -6]], [[1, 0, 1], [1, 1, 0]]
FILES = {"config.json": b'{"model_type": "bert"}\n'}
SOURCE = Source("example/rows", None, "bert", "ef" * 32)
SCHEME = Scheme(4, None, "mse", 4)


def table(name: str) -> QuantTensor:
    """A table of the golden artifact."""
    bits, free, codes, marks = ROWS[name]
    rows = np.array(codes, np.int8)
    scales = np.array(SCALES[name], np.float16)[:, None]
    wide = np.array([mark == "1" for mark in marks])
    if wide.all():
        return QuantTensor(rows, scales, bits, 3, free)
    return MixedRows(
        QuantTensor(rows[wide], scales[wide], bits, 3, free),
        QuantTensor(rows[~wide], scales[~wide], 2, 3, True),
        wide,
    )


def golden_backbone() -> Backbone:
    """The weights of the golden artifact."""
    linear = QuantTensor(np.array(LINEAR, np.int8), np.array([[0.5], [0.25]], np.float16), 4, 3)
    return Backbone({"out.weight": linear}, {name: table(name) for name in ROWS}, {})


def golden_patch() -> Patch:
    """Of its one task."""
    mask = BitMask.from_bool(np.array(KEEP, bool))
    head = {"classifier.weight": np.array([[0.5, -1.0], [1.5, 0.25]], np.float16)}
    return Patch({"out.weight": mask}, head)


def golden_entry() -> TaskEntry:
    """The entry of its one task, as handed to the writer."""
    patch = golden_patch()
    return TaskEntry(
        name="only",
        file="tasks/only.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": 0.75},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=16,
    )


def make_golden(folder: Path) -> None:
    """Write the golden artifact to `folder`."""
    create_artifact(
        folder,
        golden_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files=FILES,
        first=(golden_entry(), golden_patch()),
    )


if __name__ == "__main__":
    make_golden(FOLDER)
