"""Make tests/golden/v1-groups: an artifact and a task of which two of every four weights stay, as a packed patch.

Run once: `python tests/golden/make_v1_groups.py`. Do not run it again: the files are the promise, and
`tests/formats/test_groups.py` holds their digests.
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
    open_artifact,
    pack_task,
)

FOLDER = Path(__file__).with_name("v1-groups")
SOURCE = Source("example/groups", None, "bert", "ab" * 32)
SCHEME = Scheme(4, 64, "mse", 8)


def golden_backbone() -> Backbone:
    """Linears of two widths; some of the codes of 4 bits are 0."""
    rng = np.random.default_rng(11)

    def tensor(rows: int, width: int, bits: int, group: int, *, free: bool) -> QuantTensor:
        limit = 2**bits - 1 if free else 2 ** (bits - 1) - 1
        codes = rng.normal(size=(rows, width)) * limit / 3
        codes = 2 * np.floor(codes / 2) + 1 if free else np.rint(codes)
        scales = np.exp(rng.normal(size=(rows, -(-width // group)))) / 8
        clipped = codes.clip(-limit, limit).astype(np.int8)
        return QuantTensor(clipped, scales.astype(np.float16), bits, group, free)

    linears = {
        "a": tensor(96, 128, 4, 64, free=False),
        "b": tensor(40, 64, 2, 24, free=True),
        "c": tensor(30, 66, 4, 64, free=False),
    }
    return Backbone(linears, {}, {"bias": np.zeros(4, dtype=np.float16)})


def two_of_four(tensor: QuantTensor, worth: np.ndarray) -> BitMask:
    """The two best of every four neighbours; codes of 0 go first, and have a bit that says nothing."""
    ranked = np.where(tensor.codes == 0, -1.0, worth).reshape(-1, 4)
    best = ranked.argsort(axis=1, kind="stable").argsort(axis=1) >= 2
    return BitMask.from_bool(best.reshape(tensor.shape) | (tensor.codes == 0))


def golden_patch() -> Patch:
    """Masks that follow the backbone a little, and one of another pattern."""
    rng, linears = np.random.default_rng(12), golden_backbone().linears
    masks = {
        name: two_of_four(
            linears[name],
            np.abs(linears[name].dequantize()) * np.exp(rng.normal(size=linears[name].shape) / 2),
        )
        for name in "ab"
    }
    masks["c"] = BitMask.from_bool((rng.random((30, 66)) < 0.9) | (linears["c"].codes == 0))
    return Patch(masks, {"out.weight": rng.normal(size=(2, 4)).astype(np.float16)})


def make_golden(folder: Path) -> None:
    """Write the artifact, and beside its manifest the task packed."""
    create_artifact(folder, golden_backbone(), source=SOURCE, scheme=SCHEME, files={})
    patch = golden_patch()
    entry = TaskEntry(
        name="task",
        file="tasks/task.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": 0.75},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=64,
        data={"task": "task"},
        training={"pattern": "2:4", "seed": 1},
    )
    add_task(folder, entry, patch)
    (folder / "task.patch").write_bytes(pack_task(open_artifact(folder), "task"))


if __name__ == "__main__":
    make_golden(FOLDER)
