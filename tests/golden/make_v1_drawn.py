"""Make tests/golden/v1-drawn: a backbone that is drawn from a seed but for two parameters, with a task and the task packed.

Run once: `python tests/golden/make_v1_drawn.py`. Do not run it again: the files are the promise, and
`tests/formats/test_golden_drawn.py` holds their digests.
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
    open_artifact,
    pack_task,
)
from maskpack.formats.draw import drawn_codes, drawn_floats

FOLDER = Path(__file__).with_name("v1-drawn")
SEED = 2**53 - 1
SOURCE = Source("example/drawn", None, "bert", "cd" * 32)
SCHEME = Scheme(1, None, "drawn", 3, {"layer.wide.weight": 8})

LINEARS = {  # shape, bits, scale
    "layer.signs.weight": ((5, 21), 1, 0.5),
    "layer.odds.weight": ((3, 7), 2, 0.0999755859375),
    "layer.narrow.weight": ((4, 9), 4, 2.0),
    "layer.wide.weight": ((6, 5), 8, 0.01355743408203125),
}
WORDS = ("words.weight", (11, 6), 3, 0.25)
STORED = "layer.own.weight"  # not what the seed draws


def drawn(name: str, shape: tuple[int, int], bits: int, scale: float) -> QuantTensor:
    """A tensor with one scale, from the seed."""
    scales = np.full((shape[0], 1), scale, dtype=np.float16)
    return QuantTensor(drawn_codes(SEED, name, shape, bits), scales, bits, shape[1], bits <= 3)


def golden_backbone() -> Backbone:
    """Every width, constants, drawn and stored floats, and a linear that is stored."""
    linears = {name: drawn(name, *rest) for name, rest in LINEARS.items()}
    codes = np.array([[1, -1, 1], [-1, -1, 1]], dtype=np.int8)
    scales = np.array([[0.5], [0.25]], dtype=np.float16)
    linears[STORED] = QuantTensor(codes, scales, 1, 3, zero_free=True)
    dense = {
        "layer.signs.bias": np.zeros(5, dtype=np.float16),
        "norm.weight": np.ones(6, dtype=np.float16),
        "places": drawn_floats(SEED, "places", (1, 4, 6), 0.01355743408203125),
        "layer.own.bias": np.array([0.5, -0.25], dtype=np.float16),
    }
    return Backbone(linears, {WORDS[0]: drawn(*WORDS)}, dense, SEED)


def golden_patch() -> Patch:
    """Masks of half of the weights over all linears but one."""
    rng = np.random.default_rng(23)
    shapes = {name: rest[0] for name, rest in LINEARS.items() if "narrow" not in name}
    masks = {name: BitMask.from_bool(rng.random(shape) < 0.5) for name, shape in shapes.items()}
    return Patch(masks, {"out.weight": rng.normal(size=(2, 6)).astype(np.float16)})


def golden_entry(patch: Patch) -> TaskEntry:
    """The task's entry."""
    return TaskEntry(
        name="hidden",
        file="tasks/hidden.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": 0.75},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=64,
        data={"task": "hidden"},
        training={"seed": 1},
    )


def make_golden(folder: Path) -> None:
    """Write the artifact, and beside its manifest the task packed."""
    first = (golden_entry(golden_patch()), golden_patch())
    create_artifact(folder, golden_backbone(), source=SOURCE, scheme=SCHEME, files={}, first=first)
    (folder / "hidden.patch").write_bytes(pack_task(open_artifact(folder), "hidden"))


if __name__ == "__main__":
    make_golden(FOLDER)
