"""Make tests/golden/v1-low-bits, the second artifact that every later release must read.

It holds what version 1 gained before its first release: codes of 2 and 1 bits, with and without a
code for 0, masks over some linears only, a task's own biases and gains, `scheme.overrides`. Run once:
`python tests/golden/make_v1_low_bits.py`. Do not run it again: the files are the promise, and
`tests/formats/test_golden_low_bits.py` holds their digests.
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

FOLDER = Path(__file__).with_name("v1-low-bits")

CODES = {
    "signs.weight": [[1, -1, -1, 1, 1, -1, 1, 1, 1], [-1, -1, -1, -1, -1, -1, -1, -1, -1]],
    "odds.weight": [[-3, -1, 1, 3, 3], [3, 3, 1, -1, -3], [1, 1, 1, 1, -1]],
    "threes.weight": [[-1, 0, 1, 1, 0, -1, 1]],
    "words.weight": [[1, 2, 3], [-4, -5, -6], [7, -7, 0]],
    "wide.weight": [[127, -127], [0, 64]],
}
SCALES = {
    "signs.weight": [[0.1, 0.2, 0.3], [0.4, 0.0, 0.0625]],  # groups of 4, 4 and 1
    "odds.weight": [[0.75], [65504.0], [6.0e-8]],
    "threes.weight": [[0.5, 0.25, 2.0, 1.0]],  # groups of 2, 2, 2 and 1
    "words.weight": [[0.5], [0.25], [1.0]],
    "wide.weight": [[1.0000001], [3.0e-8]],  # neither fits float16
}
WIDTHS = {  # bits, group, zero-free
    "signs.weight": (1, 4, True),
    "odds.weight": (2, 5, True),
    "threes.weight": (2, 2, False),
    "words.weight": (4, 3, False),
    "wide.weight": (8, 2, False),
}
DENSE = {"odds.bias": [0.5, -0.25, 0.0], "norm.weight": [1.0, 0.999, -65504.0]}
KEEP_ALL = {
    "signs.weight": [[1, 0, 1, 1, 0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 0]],
    "odds.weight": [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
    "threes.weight": [[1, 1, 0, 1, 1, 1, 0]],
    "wide.weight": [[1, 0], [1, 1]],
}
KEEP_SOME = {"odds.weight": [[1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]]}
OWN_DENSE = {"norm.weight": [0.1, -0.2, 0.3]}
GAINS_SOME = {"odds.weight": [0.3, 1.1, 6.0e-8], "signs.weight": [65504.0, 0.7]}
GAINS_BARE = {"wide.weight": [0.1, 3.3]}
HEADS = {
    "all": {"classifier.weight": [[0.5, 0.25, -1.0], [1.5, -2.0, 0.125]]},
    "some": {"classifier.weight": [[0.0, 1.0, 2.0], [3.0, -3.0, 0.5]]},
    "bare": {"classifier.weight": [[0.25, -0.75, 6.0e-8]], "classifier.bias": [3.0]},
}
FILES = {"config.json": b'{"model_type": "bert"}\n'}
SOURCE = Source("example/tiny-bert", None, "bert", "cd" * 32)
SCHEME = Scheme(1, None, "minmax", 4, {"odds": 2, "threes": 2, "wide": 8})


def _half(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float16)


def _tensor(name: str) -> QuantTensor:
    bits, group, zero_free = WIDTHS[name]
    kind = np.float32 if name == "wide.weight" else np.float16
    codes, scales = np.array(CODES[name], np.int8), np.array(SCALES[name], kind)
    return QuantTensor(codes, scales, bits, group, zero_free)


def golden_backbone() -> Backbone:
    """The weights of the golden artifact."""
    tensors = {name: _tensor(name) for name in CODES}
    words = tensors.pop("words.weight")
    dense = {name: _half(values) for name, values in DENSE.items()}
    return Backbone(tensors, {"words.weight": words}, dense)


def golden_patches() -> dict[str, Patch]:
    """Task -> its patch: masks over all linears, over one and much else, over none."""

    def masks(keep: dict[str, list]) -> dict[str, BitMask]:
        return {name: BitMask.from_bool(np.array(rows, bool)) for name, rows in keep.items()}

    def halves(values: dict[str, list]) -> dict[str, np.ndarray]:
        return {name: _half(value) for name, value in values.items()}

    heads = {task: halves(head) for task, head in HEADS.items()}
    return {
        "all": Patch(masks(KEEP_ALL), heads["all"]),
        "bare": Patch({}, heads["bare"], gains=halves(GAINS_BARE)),
        "some": Patch(masks(KEEP_SOME), heads["some"], halves(OWN_DENSE), halves(GAINS_SOME)),
    }


def golden_entries() -> dict[str, TaskEntry]:
    """Task -> its entry, as handed to the writer."""
    return {
        name: TaskEntry(
            name=name,
            file=f"tasks/{name}.safetensors",
            sha256="0" * 64,
            kind="regression" if name == "bare" else "classification",
            labels=() if name == "bare" else ("no", "yes"),
            metric="pearson" if name == "bare" else "accuracy",
            scores={"pearson": -0.5} if name == "bare" else {"accuracy": 0.9375},
            zeros=patch.count.zeros,
            weights=patch.count.weights,
            max_length=128,
            data={"task": name, "texts": ["text"]},
            training={"seed": 0},
        )
        for name, patch in golden_patches().items()
    }


def make_golden(folder: Path) -> None:
    """Write the golden artifact to `folder`."""
    entries, patches = golden_entries(), golden_patches()
    create_artifact(
        folder,
        golden_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files=FILES,
        first=(entries["all"], patches["all"]),
    )
    for task in ("bare", "some"):
        add_task(folder, entries[task], patches[task])


if __name__ == "__main__":
    make_golden(FOLDER)
